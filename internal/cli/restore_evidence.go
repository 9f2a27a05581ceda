package cli

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

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

// evidence is what restores of a database from this vault took until now: trials, as the vault lists them, and what the
// newest receipts of restores and drills say, in the vault and below a directory of this machine ("" = none). Receipts that cannot be read
// are passed over: they are looked at for their figures alone, and are not proven here.
func evidence(ctx context.Context, v *vault.Vault, database string, backups []vault.Backup, beside string) ([]forecast.Run, error) {
	runs := backup.TrialRuns(backups)
	raws, err := newestReceipts(ctx, v)
	if err != nil {
		return runs, err
	}
	here, err := receiptsBeside(beside)
	seen := map[string]bool{}
	for _, raw := range append(raws, here...) {
		r, err := receipt.Read(raw)
		if err != nil || seen[r.Name] || r.Vault != v.Identity().ID || r.Subject != database {
			continue
		}
		seen[r.Name] = true
		if run, ok := runOf(r, thisMachine(), v.Address()); ok {
			runs = append(runs, run)
		}
	}
	return runs, err
}

// receiptsHeard is how many receipts are read for a forecast.
const receiptsHeard = 24

// newestReceipts reads what operators wrote last: restores and drills are theirs, and hosts write many more.
func newestReceipts(ctx context.Context, v *vault.Vault) ([][]byte, error) {
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
	var mu sync.Mutex // guards raws
	var raws [][]byte
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(8)
	for _, n := range names[:min(len(names), receiptsHeard)] {
		g.Go(func() error {
			raw, err := v.Receipt(ctx, n)
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				raws = append(raws, raw)
			}
			return ctx.Err()
		})
	}
	return raws, g.Wait()
}

// receiptsBeside reads the newest receipts that restores and drills without a plan kept below a directory, in it or in one of
// those that lie there.
func receiptsBeside(dir string) ([][]byte, error) {
	if dir == "" {
		return nil, nil
	}
	at := map[string]time.Time{}
	var names []string
	for _, pattern := range []string{"*.receipt", filepath.Join("*", "*.receipt")} {
		found, err := filepath.Glob(filepath.Join(dir, pattern, "*", "*", "*.json"))
		if err != nil {
			return nil, err
		}
		for _, n := range found {
			if fi, err := os.Lstat(n); err == nil && fi.Mode().IsRegular() { // anybody may have put something else there
				at[n], names = fi.ModTime(), append(names, n)
			}
		}
	}
	slices.SortFunc(names, func(a, b string) int { return cmp.Or(at[b].Compare(at[a]), cmp.Compare(a, b)) })
	var raws [][]byte
	for _, n := range names[:min(len(names), receiptsHeard)] {
		if raw, err := os.ReadFile(n); err == nil {
			raws = append(raws, raw)
		}
	}
	return raws, nil
}

// runOf is a restore or drill as its receipt tells; false when the receipt is of something else, or says nothing of phases. Pure.
func runOf(r receipt.Receipt, machine, address string) (forecast.Run, bool) {
	if r.Kind != receipt.Restore && r.Kind != receipt.Drill || r.Outcome == receipt.Failed {
		return forecast.Run{}, false
	}
	var about recorded
	if json.Unmarshal(r.Details, &about) != nil || about.Times.Measured == nil {
		return forecast.Run{}, false
	}
	m, f := about.Times.Measured, r.Figures
	run := forecast.Run{Name: r.Kind + " " + r.ID(), At: r.At, Machine: about.Machine, Here: about.Machine == machine, Took: map[string]time.Duration{},
		Sampled: seconds(about.Times.Expected.Sampled), Work: forecast.Work{Data: int64(f["bytes"]), Log: int64(f["log_bytes"]), Replay: m.Replayed}}
	for _, p := range m.Phases {
		switch {
		case p.Name == forecast.Replay && m.Replayed <= 0:
		case p.Name == forecast.Fetch && (f["kept_bytes"] > 0 || about.Address != address):
		default:
			run.Took[p.Name] = seconds(p.Seconds)
		}
	}
	return run, true
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
