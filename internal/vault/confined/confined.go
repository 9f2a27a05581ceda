// Package confined collects a vault's garbage in a process of its own with a memory of its own: the index of
// all chunks is in it while it does, and the agent that keeps databases up must not be what the kernel ends for it. Leave for each
// deletion is asked of the parent, which knows whose duty it is. Start at [Reclaim]; [Serve] is the child's body.
package confined

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"strings"
	"sync"
	"time"

	"holdfast/internal/problem"
	"holdfast/internal/vault"
)

// Verb is the hidden command whose body is [Serve].
const Verb = "vault-reclaim"

// MemoryDefault is what a child may have: an index of five million chunks fits, which are up to 5 TB. An entry takes 48 bytes (measured
// with two million), twice that right after indexes were joined, when the new ones are read beside the old; and the memory of the
// program, one index that is written (100 MB) and what garbage waits to be collected come on top.
const MemoryDefault = 1 << 30

// Options say how a child is run.
type Options struct {
	vault.ReclaimOptions
	Memory int64        // bytes that the child may have resident; 0 = [MemoryDefault]
	Argv   []string     // the child's command; nil = this program's own
	Log    *slog.Logger // nil = silent
}

// Report is what a child did.
type Report struct {
	Freed vault.Freed   `json:"freed"`
	Peak  int64         `json:"peak_bytes"` // the most that it had resident, as the kernel counted
	Took  time.Duration `json:"took"`
}

// The pipe carries one JSON value a line. The first to the child is what to do; after that it asks, and is answered.
type (
	order struct {
		Vault wire `json:"vault"`
		Alone bool `json:"alone"`
	}
	word struct { // of the child
		Ask    bool             `json:"ask,omitempty"`
		Done   *Report          `json:"done,omitempty"`
		Failed string           `json:"failed,omitempty"`
		Known  *problem.Problem `json:"problem,omitempty"`
	}
	answer struct { // of the parent
		Refused string `json:"refused,omitempty"`
	}
)

// Reclaim is [vault.Vault.Reclaim] of the vault that conf names, in a child. It returns when the child has ended. A child
// that grows beyond its memory is ended and told as the problem vault.reclaim-too-large; nothing is lost by that.
func Reclaim(ctx context.Context, conf vault.Config, o Options) (Report, error) {
	fail := func(err error) (Report, error) {
		return Report{}, fmt.Errorf("free space in vault %s: %w", conf.Name, err)
	}
	o.Memory = cmp.Or(o.Memory, MemoryDefault)
	if len(o.Argv) == 0 {
		exe, err := os.Executable()
		if err != nil {
			return fail(err)
		}
		o.Argv = []string{exe, Verb}
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	ctx, end := context.WithCancelCause(ctx)
	defer end(nil)
	cmd := exec.CommandContext(ctx, o.Argv[0], o.Argv[1:]...)
	// Go's own collector works harder as it comes near the limit, so that only what is really used can reach the cap.
	cmd.Env = append(os.Environ(), fmt.Sprintf("GOMEMLIMIT=%d", o.Memory/10*8))
	said := &tail{}
	cmd.Stderr = said
	in, err := cmd.StdinPipe()
	if err != nil {
		return fail(err)
	}
	hangUp := sync.OnceValue(in.Close)
	// A child that has lost its parent's word writes down what it deleted, and ends. One that is too large ends at once.
	cmd.WaitDelay = 10 * time.Second
	cmd.Cancel = func() error {
		if _, ok := errors.AsType[*problem.Problem](context.Cause(ctx)); ok {
			return cmd.Process.Kill()
		}
		return hangUp()
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return fail(err)
	}
	if err := cmd.Start(); err != nil {
		return fail(err)
	}
	measured := make(chan int64, 1)
	watching, stop := context.WithCancel(ctx)
	go func() { measured <- watchMemory(watching, conf.Name, cmd.Process.Pid, o.Memory, end) }()
	report, err := talk(ctx, in, out, conf, o)
	if err != nil {
		end(err) // a child that is not heard out is ended
	}
	err = errors.Join(err, hangUp())
	stop()
	peak := <-measured
	waitErr := cmd.Wait()
	report.Peak = max(report.Peak, peak)
	var large *problem.Problem
	switch cause := context.Cause(ctx); {
	case errors.As(cause, &large):
		return report, large
	case err != nil:
		return report, errors.Join(err, saying(said))
	case waitErr != nil:
		return fail(errors.Join(waitErr, saying(said)))
	}
	o.Log.InfoContext(ctx, "space freed", "vault", conf.Name, "objects", report.Freed.Objects, "locked", report.Freed.Locked, "peak_bytes", report.Peak, "took", report.Took)
	return report, nil
}

// talk gives the order and answers until the child is done.
func talk(ctx context.Context, in io.Writer, out io.Reader, conf vault.Config, o Options) (Report, error) {
	enc := json.NewEncoder(in)
	if err := enc.Encode(order{Vault: wired(conf), Alone: o.Alone}); err != nil {
		return Report{}, fmt.Errorf("tell the child what to do: %w", err)
	}
	dec := json.NewDecoder(out)
	var refused error
	for {
		var w word
		if err := dec.Decode(&w); err != nil {
			return Report{}, fmt.Errorf("free space in vault %s: the child ended early: %w", conf.Name, err)
		}
		switch {
		case w.Done != nil:
			return *w.Done, nil
		case w.Ask:
			var a answer
			if o.May != nil {
				if err := o.May(ctx); err != nil {
					refused, a.Refused = err, err.Error()
				}
			}
			if err := enc.Encode(a); err != nil {
				return Report{}, fmt.Errorf("answer the child: %w", err)
			}
		case refused != nil:
			return Report{}, refused
		case w.Known != nil:
			return Report{}, w.Known
		default:
			return Report{}, errors.New(cmp.Or(w.Failed, "the child says nothing that is known"))
		}
	}
}

// Serve does what stands in in, asks on out before each deletion, and ends when in does.
func Serve(ctx context.Context, in io.Reader, out io.Writer) error {
	last() // the kernel ends this process before any other
	dec, enc := json.NewDecoder(bufio.NewReader(in)), json.NewEncoder(out)
	var o order
	if err := dec.Decode(&o); err != nil {
		return fmt.Errorf("read what to do: %w", err)
	}
	ctx, end := context.WithCancelCause(ctx)
	defer end(nil)
	answers := make(chan answer)
	go func() { // ends with in, which is the parent's end too
		defer close(answers)
		for {
			var a answer
			if err := dec.Decode(&a); err != nil {
				end(errors.New("the parent is gone"))
				return
			}
			select {
			case answers <- a:
			case <-ctx.Done():
				return
			}
		}
	}()
	asking := make(chan struct{}, 1) // one question at a time
	may := func(ctx context.Context) error {
		asking <- struct{}{}
		defer func() { <-asking }()
		if err := enc.Encode(word{Ask: true}); err != nil {
			return err
		}
		select {
		case a, ok := <-answers:
			if !ok {
				return context.Cause(ctx)
			}
			if a.Refused != "" {
				return errors.New(a.Refused)
			}
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	began := time.Now()
	freed, err := reclaim(ctx, o, may)
	w := word{Done: &Report{Freed: freed, Took: time.Since(began), Peak: residentPeak("self")}}
	if err != nil {
		w = word{Failed: err.Error()}
		w.Known, _ = errors.AsType[*problem.Problem](err)
	}
	return enc.Encode(w)
}

func reclaim(ctx context.Context, o order, may func(context.Context) error) (freed vault.Freed, err error) {
	v, err := vault.Open(ctx, o.Vault.config())
	if err != nil {
		return freed, err
	}
	defer func() {
		if closeErr := v.Close(context.WithoutCancel(ctx)); closeErr != nil {
			err = errors.Join(err, closeErr)
		}
	}()
	return v.Reclaim(ctx, vault.ReclaimOptions{May: may, Alone: o.Alone})
}

// saying is what the child wrote to its standard error, if anything.
func saying(t *tail) error {
	if text := strings.TrimSpace(t.String()); text != "" {
		return errors.New("the child said: " + text)
	}
	return nil
}

// tail keeps the end of what is written.
type tail struct{ bytes.Buffer }

const tailMax = 8 << 10

func (t *tail) Write(p []byte) (int, error) {
	n, err := t.Buffer.Write(p)
	if extra := t.Len() - tailMax; extra > 0 {
		t.Next(extra)
	}
	return n, err
}
