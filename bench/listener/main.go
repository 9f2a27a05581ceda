// Command listener measures what the address that applications keep costs them: pgbench against one PostgreSQL server
// directly, through Holdfast's listener by both of its paths, and through HAProxy where it is installed, in one run on
// one machine.
//
// Start at [bench.play]: rounds of every way under every load, in random order. way.go has the ways, load.go what
// pgbench does, report.go the judgement.
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
	"regexp"
	"runtime"
	"syscall"
	"time"

	"holdfast/bench/machine"
)

// options are the command line's.
type options struct {
	rounds   int
	seconds  int
	holdfast string // the program
	scale    int    // of pgbench's tables
	seed     uint64
	keep     bool
	only     string // measure only what matches; targets are judged where all they need was measured
}

func main() {
	var o options
	flag.IntVar(&o.rounds, "rounds", 30, "how often each way is measured under each load")
	flag.IntVar(&o.seconds, "seconds", 1, "how long each measurement takes")
	flag.StringVar(&o.holdfast, "holdfast", "bin/holdfast", "the `program` that is measured")
	flag.IntVar(&o.scale, "scale", 10, "of pgbench's tables: 100,000 accounts each")
	flag.Uint64Var(&o.seed, "seed", uint64(time.Now().UnixNano()), "decides the order of measurements")
	flag.BoolVar(&o.keep, "keep", false, "keep data and logs")
	flag.StringVar(&o.only, "only", "", "measure only what this `expression` matches, as in: select-only 32/proxy")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	inside, err := enterSpace(ctx)
	if err == nil && inside {
		err = run(ctx, o, os.Stdout)
	}
	if code, ok := errors.AsType[exitError](err); ok { // the one in the space has said why
		os.Exit(int(code))
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "bench-listener: %v\n", err)
		os.Exit(1)
	}
}

// bench is one run.
type bench struct {
	options
	dir     string
	out     io.Writer
	address string // of this host, not loopback when there is a kernel path to measure
	server  *server
	ways    []way
	results []result
}

// run measures everything, prints it, and returns an error when a target was missed.
func run(ctx context.Context, o options, out io.Writer) (err error) {
	if o.rounds < 1 || o.seconds < 1 {
		return fmt.Errorf("-rounds %d -seconds %d: at least one of each is needed", o.rounds, o.seconds)
	}
	b := &bench{options: o, out: out, address: spaceAddress()}
	if b.dir, err = os.MkdirTemp("/var/tmp", "holdfast-listener-"); err != nil {
		return fmt.Errorf("make a directory for the run: %w", err)
	}
	failed := true
	defer func() {
		if o.keep || failed {
			fmt.Fprintf(out, "kept for a look: %s\n", b.dir)
			return
		}
		err = errors.Join(err, os.RemoveAll(b.dir))
	}()
	if err := os.Chmod(b.dir, 0o755); err != nil {
		return fmt.Errorf("open the run's directory to the server's user: %w", err)
	}
	fmt.Fprintf(out, "%s: %d cores, load before the run %s\nseed %d, %d rounds of %d s\n",
		time.Now().UTC().Format("2006-01-02 15:04 MST"), runtime.NumCPU(), machine.Load(), o.seed, o.rounds, o.seconds)
	if b.server, err = startServer(ctx, b); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.server.stop()) }()
	defer func() { err = errors.Join(err, b.stopWays()) }()
	if err := b.startWays(ctx); err != nil {
		return err
	}
	if err := b.play(ctx); err != nil {
		return err
	}
	b.report()
	failed = false
	return b.verdict()
}

// play measures every way under every load, once in each round, in an order of chance: what else the machine does then
// meets all of them alike.
func (b *bench) play(ctx context.Context) error {
	dice := rand.New(rand.NewPCG(b.seed, 0))
	wanted, err := regexp.Compile(b.only)
	if err != nil {
		return fmt.Errorf("-only: %w", err)
	}
	for round := range b.rounds {
		for _, l := range dice.Perm(len(loads)) {
			for _, w := range dice.Perm(len(b.ways)) {
				way, load := b.ways[w], loads[l]
				if !wanted.MatchString(load.name + "/" + way.name) {
					continue
				}
				r, err := b.measure(ctx, way, load)
				if err != nil {
					return fmt.Errorf("measure %s under %s: %w", way.name, load.name, err)
				}
				b.results = append(b.results, r)
				fmt.Fprintf(b.out, "round %d: %-14s %-8s %9.0f/s %7.1f us\n", round+1, load.name, way.name, r.tps, r.cpu)
			}
		}
	}
	return nil
}

// measure runs one load over one way.
func (b *bench) measure(ctx context.Context, w way, l workload) (result, error) {
	before, err := w.process.cpu()
	if err != nil {
		return result{}, err
	}
	tps, err := b.pgbench(ctx, w.address(), l)
	if err != nil {
		return result{}, err
	}
	after, err := w.process.cpu()
	return result{way: w.name, load: l.name, tps: tps, cpu: float64((after - before).Microseconds()) / (tps * float64(b.seconds))}, err
}
