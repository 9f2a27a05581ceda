// Command backup measures base backups, restores and the archiving of the log: Holdfast's own beside pg_basebackup, pgBackRest, restic and kopia
// where they are installed, on the same data, in one run on one machine. Every copy that is restored is started and
// compared with its source.
//
// Start at [bench.play]: rounds of a full backup, two changes of one percent with an incremental behind each, and a restore by each
// system, in random order; then [bench.playLog]. source.go has the data, systems.go and holdfast.go what is run, measure.go how it is timed, report.go
// the judgement.
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
	"regexp"
	"runtime"
	"syscall"
	"time"

	"holdfast/bench/machine"
)

// options are the command line's.
type options struct {
	rounds int
	mb     int
	seed   uint64
	keep   bool
	only   string
	kopia  string

	logTime   time.Duration
	logSlices int
	logAway   time.Duration
	logOnly   bool
	logRate   int // commits a second; 0 = as many as can be
	profile   string

	step  string // set in a process that the run starts: what it does for Holdfast
	conn  string
	data  string
	vault string
	to    string
	fetch string
	held  bool
}

func main() {
	var o options
	flag.IntVar(&o.rounds, "rounds", 5, "how often everything is measured")
	flag.IntVar(&o.mb, "mb", 1200, "about how large the database is, in `megabytes`")
	flag.Uint64Var(&o.seed, "seed", uint64(time.Now().UnixNano()), "decides the order of measurements")
	flag.BoolVar(&o.keep, "keep", false, "keep data, repositories and logs")
	flag.StringVar(&o.only, "only", "", "measure only systems that this `expression` matches; targets are judged where all they need was measured")
	flag.StringVar(&o.kopia, "kopia", "kopia", "the kopia `program`, measured where it is found")
	flag.DurationVar(&o.logTime, "log", 6*time.Second, "how long each slice of archiving the log is counted; 0 = the log is left out")
	flag.IntVar(&o.logSlices, "slices", 3, "how many slices of each system a round has")
	flag.DurationVar(&o.logAway, "away", 20*time.Second, "how long the vault is away in the last slice of each round, before it must catch up")
	flag.BoolVar(&o.logOnly, "log-only", false, "measure nothing but archiving the log")
	flag.IntVar(&o.logRate, "rate", 0, "let the log's writers make so many commits a `second` at most, to compare processor times at one load; 0 = as many as they can")
	flag.StringVar(&o.profile, "profile", "", "write where Holdfast's process that takes the log spends its processor time in its last slice to this `file`, for go tool pprof")
	flag.StringVar(&o.step, "step", "", "used by the run itself: one step of Holdfast's own in a process of its own")
	flag.StringVar(&o.conn, "conn", "", "with -step: the server")
	flag.StringVar(&o.data, "data", "", "with -step: its data directory")
	flag.StringVar(&o.vault, "vault", "", "with -step: the vault's directory")
	flag.StringVar(&o.to, "to", "", "with -step restore: where to; with -step log: where log waits")
	flag.StringVar(&o.fetch, "fetch", "", "with -step restore: the restore_command")
	flag.BoolVar(&o.held, "held", false, "with -step: open the vault, say so, and wait for the word to go on")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	work := run
	if o.step != "" {
		work = runStep
	}
	if err := work(ctx, o, os.Stdout); err != nil {
		fmt.Fprintf(os.Stderr, "bench-backup: %v\n", err)
		os.Exit(1)
	}
}

// bench is one run.
type bench struct {
	options
	dir     string
	out     io.Writer
	program string // a copy of this one that the server's user can reach
	server  *server
	systems []system
	results []result
	changed map[string][]float64 // for each change: the shares of all pages that it wrote to
	logs    []logged
	limits  []limit
}

// run measures everything, prints it, and returns an error when a copy differs or a target was missed.
func run(ctx context.Context, o options, out io.Writer) (err error) {
	if o.rounds < 1 || o.mb < 20 || o.logSlices < 1 || o.logRate < 0 {
		return fmt.Errorf("-rounds %d -mb %d -slices %d -rate %d: at least one round of one slice and 20 MB are needed", o.rounds, o.mb, o.logSlices, o.logRate)
	}
	only, err := regexp.Compile(o.only)
	if err != nil {
		return fmt.Errorf("-only: %w", err)
	}
	b := &bench{options: o, out: out, changed: map[string][]float64{}}
	if b.dir, err = os.MkdirTemp("/var/tmp", "holdfast-backup-"); err != nil {
		return fmt.Errorf("make a directory for the run: %w", err)
	}
	defer func() {
		if o.keep {
			fmt.Fprintf(out, "kept for a look: %s\n", b.dir)
			return
		}
		err = errors.Join(err, os.RemoveAll(b.dir))
	}()
	fmt.Fprintf(out, "%s: %d cores, load before the run %s\nseed %d, %d rounds\n",
		time.Now().UTC().Format("2006-01-02 15:04 MST"), runtime.NumCPU(), machine.Load(), o.seed, o.rounds)
	if b.server, err = startServer(ctx, b); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.server.stop()) }()
	if b.program, err = copyProgram(b.dir); err != nil {
		return err
	}
	for _, s := range allSystems(b) {
		if s.missing != "" {
			fmt.Fprintf(out, "%s is not measured: %s\n", s.name, s.missing)
		} else if only.MatchString(s.name) {
			b.systems = append(b.systems, s)
		}
	}
	if !b.logOnly {
		if err := b.play(ctx); err != nil {
			return err
		}
	}
	if err := b.playLog(ctx); err != nil {
		return err
	}
	// Last: a process that this one starts counts the most memory that this one ever had as its own.
	if b.limits, err = measureLimits(ctx, b.server.data, b.dir); err != nil {
		return err
	}
	log, err := logLimit(b.server.archive, b.dir)
	if err != nil {
		return err
	}
	b.limits = append(b.limits, log...)
	b.report()
	return b.verdict()
}

// opening is what it is called to open a vault and close it again.
const opening = "open"

// play measures every system in each round: a full backup of the same data by all, in an order of chance; then one percent
// of the rows changes, and all make an incremental; then others do, and all make another one and restore it.
func (b *bench) play(ctx context.Context) error {
	dice := rand.New(rand.NewPCG(b.seed, 0))
	for round := range b.rounds {
		for _, s := range b.systems {
			if err := b.fresh(ctx, s); err != nil {
				return fmt.Errorf("prepare %s: %w", s.name, err)
			}
		}
		for _, i := range dice.Perm(len(b.systems)) {
			if err := b.take(ctx, round, "full", b.systems[i], b.systems[i].full); err != nil {
				return err
			}
		}
		for _, c := range []change{clustered, scattered} {
			if err := b.again(ctx, dice, round, c); err != nil {
				return err
			}
		}
		want, err := b.server.sums(ctx)
		if err != nil {
			return err
		}
		for _, s := range b.systems {
			if s.open == nil {
				continue
			}
			r, err := b.measure(ctx, s, s.open(), false, false)
			if err != nil {
				return fmt.Errorf("round %d: open the vault of %s: %w", round+1, s.name, err)
			}
			r.system, r.what = s.name, opening
			b.add(round, r)
		}
		for _, i := range dice.Perm(len(b.systems)) {
			if err := b.bringBack(ctx, round, b.systems[i], want); err != nil {
				return err
			}
		}
	}
	return nil
}

// again changes the data and measures an incremental of them by every system, in an order of chance. Systems that make
// only full backups make one behind the last change, because its moment is what is restored.
func (b *bench) again(ctx context.Context, dice *rand.Rand, round int, c change) error {
	share, err := b.server.change(ctx, round, c)
	if err != nil {
		return err
	}
	fmt.Fprintf(b.out, "round %d: %s: %.1f %% of all pages changed\n", round+1, c.what, 100*share)
	b.changed[c.what] = append(b.changed[c.what], share)
	for _, i := range dice.Perm(len(b.systems)) {
		s := b.systems[i]
		what, how := c.what, s.again
		if how == nil {
			if c.what != scattered.what {
				continue
			}
			what, how = "full again", s.full
			if err := b.fresh(ctx, s); err != nil {
				return fmt.Errorf("prepare %s: %w", s.name, err)
			}
		}
		if err := b.take(ctx, round, what, s, how); err != nil {
			return err
		}
	}
	return nil
}

// take measures one backup.
func (b *bench) take(ctx context.Context, round int, what string, s system, how func() []string) error {
	before, err := sizeOf(s.repo)
	if err != nil {
		return err
	}
	from, err := b.server.size()
	if err != nil {
		return err
	}
	r, err := b.measure(ctx, s, how(), s.between, s.open != nil)
	if err != nil {
		return fmt.Errorf("round %d: %s of %s: %w", round+1, what, s.name, err)
	}
	after, err := sizeOf(s.repo)
	if err != nil {
		return err
	}
	r.system, r.what, r.bytes, r.stored = s.name, what, from, after-before
	b.add(round, r)
	return nil
}

// bringBack measures one restore, starts a server on it, and compares.
func (b *bench) bringBack(ctx context.Context, round int, s system, want map[string]string) error {
	to := filepath.Join(b.dir, "restored")
	if err := b.server.freshDir(to); err != nil {
		return err
	}
	r, err := b.measure(ctx, s, s.restore(to), false, false)
	if err != nil {
		return fmt.Errorf("round %d: restore of %s: %w", round+1, s.name, err)
	}
	data := to
	if s.below != nil {
		data = s.below(to)
	}
	if r.bytes, err = sizeOf(data); err != nil {
		return err
	}
	got, err := b.server.look(ctx, data, s.label, s.led)
	if err != nil {
		return fmt.Errorf("round %d: what %s restored does not start: %w", round+1, s.name, err)
	}
	r.system, r.what, r.differs = s.name, "restore", differences(want, got)
	b.add(round, r)
	return os.RemoveAll(to)
}

func (b *bench) add(round int, r result) {
	b.results = append(b.results, r)
	note := ""
	if r.differs != "" {
		note = "  DIFFERS: " + r.differs
	}
	fmt.Fprintf(b.out, "round %d: %-11s %-16s %6.2f s %5.0f MB/s %6.2f CPU s %8.1f MB stored %4d MiB%s\n",
		round+1, r.what, r.system, r.wall.Seconds(), r.rate(), r.cpu.Seconds(), float64(r.stored)/1e6, r.rss>>20, note)
}

// copyProgram puts a copy of this program where the server's user can run it.
func copyProgram(dir string) (string, error) {
	self, err := os.Executable()
	if err != nil {
		return "", fmt.Errorf("find this program: %w", err)
	}
	content, err := os.ReadFile(self)
	if err != nil {
		return "", fmt.Errorf("copy this program: %w", err)
	}
	to := filepath.Join(dir, "bench-backup")
	if err := os.WriteFile(to, content, 0o755); err != nil {
		return "", fmt.Errorf("copy this program: %w", err)
	}
	return to, nil
}
