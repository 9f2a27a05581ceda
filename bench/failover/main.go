// Command failover measures what a client sees when a database's primary crashes, loses its host, or is moved on
// purpose: under Holdfast, and where it is installed under Patroni with etcd and HAProxy, in one run on one machine.
//
// Start at [measure] in round.go: one fault, from steady to steady. A [system] is what it happens to; holdfast.go and
// patroni.go are the two there are. client.go writes and remembers, report.go judges and prints.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/signal"
	"path/filepath"
	"sync"
	"syscall"
	"time"
)

// options are the command line's.
type options struct {
	rounds   int
	holdfast string // the program
	patroni  string // auto, yes, no
	network  string
	seed     uint64
	keep     bool
}

func main() {
	var o options
	flag.IntVar(&o.rounds, "rounds", 5, "how often each fault is measured on each system")
	flag.StringVar(&o.holdfast, "holdfast", "bin/holdfast", "the `program` that is measured")
	flag.StringVar(&o.patroni, "patroni", "auto", "measure Patroni as well: yes, no, or auto = when all of it is installed")
	flag.StringVar(&o.network, "network", "127.62", "first two `numbers` of the loopback addresses that hosts get")
	flag.Uint64Var(&o.seed, "seed", uint64(time.Now().UnixNano()), "decides the order of faults and their moments")
	flag.BoolVar(&o.keep, "keep", false, "keep data, logs and every acknowledgement's time")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, o, os.Stdout); err != nil {
		fmt.Fprintf(os.Stderr, "bench-failover: %v\n", err)
		os.Exit(1)
	}
}

// run measures everything, prints it, and returns an error when a row was lost, a target missed or a round not finished.
func run(ctx context.Context, o options, out io.Writer) (err error) {
	if o.rounds < 1 {
		return fmt.Errorf("-rounds %d: at least one is needed", o.rounds)
	}
	dir, err := os.MkdirTemp("/var/tmp", "holdfast-failover-")
	if err != nil {
		return fmt.Errorf("make a directory for the run: %w", err)
	}
	defer func() {
		if o.keep || err != nil {
			fmt.Fprintf(out, "kept for a look: %s\n", dir)
			return
		}
		err = os.RemoveAll(dir)
	}()
	if err := os.Chmod(dir, 0o755); err != nil {
		return fmt.Errorf("open the run's directory to other users: %w", err)
	}
	groups, err := systems(o, dir, out)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "%s\nseed %d, %d rounds\n", aboutMachine(), o.seed, o.rounds)
	var all []system
	for _, g := range groups {
		all = append(all, g...)
	}
	defer func() {
		err = errors.Join(err, together(all, func(s system) error { return s.down() }))
	}()
	if err := together(all, func(s system) error { return s.up(ctx) }); err != nil {
		return fmt.Errorf("start what is measured: %w", err)
	}
	rounds := play(ctx, o, dir, groups, out)
	if err := ctx.Err(); err != nil {
		return err
	}
	report(out, all, rounds)
	return verdict(rounds)
}

// systems lists what is measured. Those in one group take their faults at the same moment.
func systems(o options, dir string, out io.Writer) ([][]system, error) {
	program, err := filepath.Abs(o.holdfast)
	if err == nil {
		_, err = os.Stat(program)
	}
	if err != nil {
		return nil, fmt.Errorf("find what is measured (make build makes it): %w", err)
	}
	groups := [][]system{{newHoldfast(program, filepath.Join(dir, "holdfast"), o.network+".0")}}
	switch o.patroni {
	case "no":
		return groups, nil
	case "yes", "auto":
	default:
		return nil, fmt.Errorf("-patroni %s: yes, no and auto are known", o.patroni)
	}
	if err := peerInstalled(); err != nil {
		if o.patroni == "yes" {
			return nil, fmt.Errorf("measure Patroni: %w", err)
		}
		fmt.Fprintf(out, "Patroni is not measured: %v\n", err)
		return groups, nil
	}
	var peers []system
	for i, p := range profiles {
		peers = append(peers, newPatroni(p, filepath.Join(dir, "patroni-"+p.name), fmt.Sprintf("%s.%d", o.network, i+1)))
	}
	return append(groups, peers), nil
}

// play carries out every round. One that fails is noted, and its system built anew.
func play(ctx context.Context, o options, dir string, groups [][]system, out io.Writer) []round {
	dice := rand.New(rand.NewPCG(o.seed, 0))
	var rounds []round
	for n := range o.rounds {
		order := append([]fault(nil), faults...)
		dice.Shuffle(len(order), func(i, k int) { order[i], order[k] = order[k], order[i] })
		for _, f := range order {
			for _, g := range dice.Perm(len(groups)) {
				results := make([]round, len(groups[g]))
				var all sync.WaitGroup
				for i, s := range groups[g] {
					moment, first := time.Duration(dice.Float64()*float64(s.phase())), dice.IntN(1<<16)
					all.Go(func() {
						log := filepath.Join(dir, fmt.Sprintf("%s-%s-%d.acknowledged", s.name(), f, n+1))
						results[i] = measure(ctx, s, f, moment, first, log)
					})
				}
				all.Wait()
				if ctx.Err() != nil {
					return rounds
				}
				for i, r := range results {
					fmt.Fprintln(out, r)
					rounds = append(rounds, r)
					if r.err == nil && r.lost == 0 {
						continue
					}
					if err := anew(ctx, groups[g][i]); err != nil {
						fmt.Fprintf(out, "%s does not come back: %v\n", r.system, err)
					}
				}
			}
		}
	}
	return rounds
}

// anew builds a system from nothing, for one that failed would fail the next rounds too.
func anew(ctx context.Context, s system) error {
	if err := s.down(); err != nil {
		return err
	}
	return s.up(ctx)
}

func together(all []system, do func(system) error) error {
	errs := make([]error, len(all))
	var wait sync.WaitGroup
	for i, s := range all {
		wait.Go(func() {
			if err := do(s); err != nil {
				errs[i] = fmt.Errorf("%s: %w", s.name(), err)
			}
		})
	}
	wait.Wait()
	return errors.Join(errs...)
}
