package cli

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode"

	"golang.org/x/sync/errgroup"

	"holdfast/internal/backup"
	"holdfast/internal/receipt"
	"holdfast/internal/restore/forecast"
	"holdfast/internal/vault"
)

// recorded is what the receipt of a restore says beside its figures, for the forecast of the next one.
type recorded struct {
	Machine string `json:"machine"`
	Address string `json:"address"` // of the vault: what was fetched from elsewhere says nothing of the time from here
	Times   timed  `json:"times"`
}

// evidenceMax bounds how long evidence is gathered: a restore waits for it.
const evidenceMax = 5 * time.Second

// evidenceGrace is how long is waited for what was read by who heeds that.
const evidenceGrace = time.Second

// evidence is what restores of a database from this vault took until now: trials, as the vault lists them, and what the
// newest receipts of restores and drills say, in the vault and below a directory of this machine ("" = none). Receipts that cannot be
// read or whose signatures do not fit are passed over; who vouches for a key is not judged here. After [evidenceMax] it goes on
// with what was read, and says so in its error.
func evidence(ctx context.Context, v *vault.Vault, database string, backups []vault.Backup, beside string) ([]forecast.Run, error) {
	stored, err := soon(ctx, evidenceMax, func(ctx context.Context) ([]receipt.Receipt, error) { return newestReceipts(ctx, v) })
	here, besideErr := soon(ctx, evidenceMax/5, func(ctx context.Context) ([]receipt.Receipt, error) { return receiptsBeside(ctx, beside) })
	runs, seen := backup.TrialRuns(backups), map[string]bool{}
	for _, r := range append(stored, here...) {
		if seen[r.Name] || r.Vault != v.Identity().ID || r.Subject != database {
			continue
		}
		seen[r.Name] = true
		if run, ok := runOf(r, thisMachine(), v.Address(), time.Now()); ok {
			runs = append(runs, run)
		}
	}
	return runs, errors.Join(err, besideErr)
}

// soon gives what a read comes to within a time. Who does not heed the end of its context, as a disk that hangs, is left behind: it
// ends with the program.
func soon(ctx context.Context, most time.Duration, read func(context.Context) ([]receipt.Receipt, error)) ([]receipt.Receipt, error) {
	type result struct {
		all []receipt.Receipt
		err error
	}
	inTime, cancel := context.WithTimeout(ctx, most)
	defer cancel()
	came := make(chan result, 1)
	go func() {
		all, err := read(inTime)
		came <- result{all, err}
	}()
	var r result
	select {
	case r = <-came:
	case <-inTime.Done():
		select {
		case r = <-came:
		case <-time.After(evidenceGrace):
			r.err = inTime.Err()
		}
	}
	if inTime.Err() != nil && ctx.Err() == nil {
		r.err = fmt.Errorf("receipts were read for %s, and no longer: %w", most, context.DeadlineExceeded)
	}
	return r.all, r.err
}

// receiptsHeard is how many receipts are read for a forecast.
const receiptsHeard = 24

// newestReceipts reads what operators wrote last: restores and drills are theirs, and hosts write many more.
func newestReceipts(ctx context.Context, v *vault.Vault) ([]receipt.Receipt, error) {
	names, err := v.ReceiptNames(ctx)
	if err != nil {
		return nil, err
	}
	names = slices.DeleteFunc(names, func(n string) bool { return !strings.HasPrefix(n, "operator-") })
	slices.SortFunc(names, func(a, b string) int {
		_, x, _, _ := receipt.ParseName(a)
		_, y, _, _ := receipt.ParseName(b)
		return cmp.Or(cmp.Compare(y, x), cmp.Compare(a, b))
	})
	var mu sync.Mutex // guards all
	var all []receipt.Receipt
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(8)
	for _, n := range names[:min(len(names), receiptsHeard)] {
		g.Go(func() error {
			raw, err := v.Receipt(ctx, n)
			if err != nil {
				return ctx.Err()
			}
			r, err := receipt.Read(raw)
			if err != nil || !receipt.Verify([]receipt.Receipt{r}, receipt.Trust{}, true).OK {
				return nil
			}
			mu.Lock()
			defer mu.Unlock()
			all = append(all, r)
			return nil
		})
	}
	err = g.Wait()
	return all, err
}

// Bounds of what a receipt may claim: beyond them it is none of a restore.
const (
	claimedMax = 365 * 24 * time.Hour // of a phase
	clockSlack = 10 * time.Minute     // by which another machine's clock may be ahead
)

// runOf is a restore or drill as its receipt tells; false when the receipt is of something else, says nothing of phases, or says what
// cannot be: time below zero, or a moment that is still to come. Pure.
func runOf(r receipt.Receipt, machine, address string, now time.Time) (forecast.Run, bool) {
	if r.Kind != receipt.Restore && r.Kind != receipt.Drill || r.Outcome == receipt.Failed || r.At.After(now.Add(clockSlack)) {
		return forecast.Run{}, false
	}
	var about recorded
	if json.Unmarshal(r.Details, &about) != nil || about.Times.Measured == nil {
		return forecast.Run{}, false
	}
	m, f := about.Times.Measured, r.Figures
	if !claims(about.Times.Expected.Sampled, claimedMax.Seconds()) || !claims(f["bytes"], 1<<60) || !claims(f["log_bytes"], 1<<60) || m.Replayed < 0 {
		return forecast.Run{}, false
	}
	name := r.Kind + " " + r.ID()
	if r.Unvouched {
		name += " (nobody vouches for its key)"
	}
	run := forecast.Run{Name: name, At: r.At, Machine: machineText(about.Machine), Here: about.Machine == machine, Took: map[string]time.Duration{},
		Sampled: seconds(about.Times.Expected.Sampled), Work: forecast.Work{Data: int64(f["bytes"]), Log: int64(f["log_bytes"]), Replay: m.Replayed}}
	for _, p := range m.Phases {
		if !claims(p.Seconds, claimedMax.Seconds()) {
			return forecast.Run{}, false
		}
		switch {
		case (p.Name == forecast.Start || p.Name == forecast.Replay) && m.Replayed <= 0: // the start holds some of the replay, or all
		case p.Name == forecast.Fetch && (f["kept_bytes"] > 0 || about.Address != address):
		default:
			run.Took[p.Name] = seconds(p.Seconds)
		}
	}
	return run, true
}

// claims reports whether a figure is one at all, at least zero and at most so much. Pure.
func claims(x, most float64) bool { return x >= 0 && x <= most } // NaN is neither

// machineText is a machine's name as a terminal can bear it.
func machineText(s string) string {
	clean := []rune(strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, s))
	return string(clean[:min(len(clean), 100)])
}

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }

// thisMachine is by what restores of one machine are told from those of another.
func thisMachine() string {
	name, err := os.Hostname()
	if err != nil {
		name = "a machine without a name"
	}
	return fmt.Sprintf("%s, %d processors", name, runtime.NumCPU())
}
