// Command demo runs the clinic on three hosts of this machine, breaks it in six ways while a client writes,
// and tells after each what the client saw, whether anything it was promised is gone, and when everything was
// whole again. Nothing is simulated: processes are ended with kill -9, and every figure is measured.
//
// Start at story.go, the order of things; steps.go and disaster.go hold one fault each, place.go the files,
// process.go the processes, watch.go the waiting.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

// options are the command line.
type options struct {
	holdfast string
	clinic   string
	plan     string
	root     string   // "" = a new directory below /var/tmp
	network  string   // "" = the plan's own addresses
	only     []string // words of steps; empty = all
	keep     bool
}

// Exit statuses.
const (
	exitKept        = 0 // every promise held
	exitBroken      = 1 // a promise broke, or the demo could not be carried out
	exitUsage       = 2
	exitInterrupted = 130
)

func main() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) }

// run returns the exit status. The first Ctrl-C ends everything in good order; a second one does not wait.
func run(args []string, out, errs io.Writer) int {
	opt, err := parse(args, errs)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return exitKept
	case err != nil:
		_, _ = fmt.Fprintln(errs, "demo:", err) // nobody is left to tell
		return exitUsage
	}
	ctx, stop := context.WithCancelCause(context.Background())
	defer stop(nil)
	patience, hurry := context.WithCancel(context.Background())
	defer hurry()
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	if !signal.Ignored(syscall.SIGHUP) { // nohup keeps it ignored
		signal.Notify(signals, syscall.SIGHUP)
	}
	defer signal.Stop(signals)
	watching, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for n := 0; ; n++ {
			select {
			case <-watching:
				return
			case <-signals:
			}
			if n == 0 {
				stop(errInterrupted)
			} else {
				hurry()
			}
		}
	}()
	err = tell(ctx, patience, opt, &speaker{to: out})
	close(watching)
	<-done
	switch {
	case err == nil:
		return exitKept
	case errors.Is(err, errInterrupted):
		_, _ = fmt.Fprintln(errs, "demo: interrupted")
		return exitInterrupted
	}
	_, _ = fmt.Fprintln(errs, "demo:", err)
	return exitBroken
}

// errInterrupted is why everything ends when a person says so.
var errInterrupted = errors.New("interrupted")

func parse(args []string, errs io.Writer) (options, error) {
	var opt options
	var only string
	flags := flag.NewFlagSet("demo", flag.ContinueOnError)
	flags.SetOutput(errs)
	flags.StringVar(&opt.holdfast, "holdfast", "bin/holdfast", "the holdfast `program`")
	flags.StringVar(&opt.clinic, "clinic", "bin/clinic", "the example application's `program`")
	flags.StringVar(&opt.plan, "plan", "examples/clinic/holdfast.yaml", "the plan `file`")
	flags.StringVar(&opt.root, "root", "", "an empty or absent `directory` for everything (default: a new one below /var/tmp)")
	flags.StringVar(&opt.network, "network", "", "first three `numbers` of other loopback addresses for the hosts, such as 127.47.0")
	flags.StringVar(&only, "only", "", "tell only these `steps`, separated by commas: "+strings.Join(words(), ","))
	flags.BoolVar(&opt.keep, "keep", false, "leave it running at the end")
	if err := flags.Parse(args); err != nil {
		return opt, err
	}
	var bad []error
	if flags.NArg() > 0 {
		bad = append(bad, fmt.Errorf("%q is not understood (flags only)", flags.Arg(0)))
	}
	if only != "" {
		opt.only = strings.Split(only, ",")
	}
	for _, w := range opt.only {
		if !slices.Contains(words(), w) {
			bad = append(bad, fmt.Errorf("-only: there is no step %q (there are %s)", w, strings.Join(words(), ", ")))
		}
	}
	if opt.network != "" && !isNetwork(opt.network) {
		bad = append(bad, fmt.Errorf("-network: %q is not three numbers of a loopback network, such as 127.47.0", opt.network))
	}
	for _, file := range []*string{&opt.holdfast, &opt.clinic, &opt.plan} {
		abs, err := filepath.Abs(*file)
		if err == nil {
			_, err = os.Stat(abs)
		}
		if err != nil {
			bad = append(bad, fmt.Errorf("%w (make demo builds what is needed)", err))
		}
		*file = abs
	}
	if opt.root != "" {
		abs, err := filepath.Abs(opt.root)
		if err != nil {
			bad = append(bad, err)
		}
		opt.root = abs
	}
	return opt, errors.Join(bad...)
}
