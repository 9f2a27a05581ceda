package cli

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"holdfast/internal/disktest"
	"holdfast/internal/receipt"
)

// A restore does not wait for evidence that does not come.
func TestEvidenceIsNotWaitedForLong(t *testing.T) {
	one := []receipt.Receipt{{Name: "a/1"}}
	for name, c := range map[string]struct {
		read func(ctx context.Context, never chan struct{}) ([]receipt.Receipt, error)
		came int
		late bool
	}{
		"what comes in time": {func(context.Context, chan struct{}) ([]receipt.Receipt, error) { return one, nil }, 1, false},
		"a disk that hangs":  {func(_ context.Context, never chan struct{}) ([]receipt.Receipt, error) { <-never; return one, nil }, 0, true},
		"what was read before it hangs": {func(ctx context.Context, _ chan struct{}) ([]receipt.Receipt, error) {
			<-ctx.Done()
			return one, ctx.Err()
		}, 1, true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				never := make(chan struct{})
				defer close(never)
				began := time.Now()
				all, err := soon(t.Context(), evidenceMax, func(ctx context.Context) ([]receipt.Receipt, error) { return c.read(ctx, never) })
				if len(all) != c.came || errors.Is(err, context.DeadlineExceeded) != c.late || time.Since(began) > evidenceMax+evidenceGrace {
					t.Errorf("%d receipts after %s: %v", len(all), time.Since(began), err)
				}
			})
		})
	}
}

// bookBeside makes a book of two receipts, and gives the directory of its chain.
func bookBeside(t *testing.T, dir, name string) string {
	t.Helper()
	b := receipt.NewUnvouchedBook(filepath.Join(dir, name+".receipt"), receipt.Author{Application: "clinic", Host: "unvouched-" + name})
	var r receipt.Receipt
	for range 2 {
		var err error
		if r, err = b.Append(t.Context(), "0123", nil, drillReceipt("records", "latest", "here", aDrill("here")), time.Now()); err != nil {
			t.Fatal(err)
		}
	}
	return filepath.Join(b.Dir("0123"), r.Chain)
}

// Beside a target, where anybody may write, only that counts which this user or root wrote, and whose chain proves it.
func TestOnlyOwnReceiptsBesideATargetCount(t *testing.T) {
	for name, c := range map[string]struct {
		change func(t *testing.T, dir, chain string)
		want   int // of two
	}{
		"as they were written": {func(*testing.T, string, string) {}, 2},
		"in a directory that lies there": {func(t *testing.T, dir, _ string) {
			check(t, os.Mkdir(filepath.Join(dir, "below"), 0o755), os.Rename(filepath.Join(dir, "records.receipt"), filepath.Join(dir, "below", "records.receipt")))
		}, 2},
		"another user's": {func(t *testing.T, dir, _ string) {
			disktest.NeedRoot(t)
			check(t, filepath.WalkDir(dir, func(p string, _ fs.DirEntry, err error) error { return errors.Join(err, os.Chown(p, 65534, 65534)) }))
		}, 0},
		"another user's files in our directory": {func(t *testing.T, _, chain string) {
			disktest.NeedRoot(t)
			for _, n := range receiptsIn(t, chain) {
				check(t, os.Chown(n, 65534, 65534))
			}
		}, 0},
		"one of the chain was changed": {func(t *testing.T, _, chain string) {
			n := receiptsIn(t, chain)[0]
			raw, err := os.ReadFile(n)
			at := bytes.Index(raw, []byte(`"sig"`))
			if at < 0 {
				t.Fatalf("no signature in %s", raw)
			}
			at += bytes.IndexAny(raw[at+6:], "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789") + 6
			if raw[at]++; raw[at] == '9'+1 || raw[at] == 'Z'+1 || raw[at] == 'z'+1 {
				raw[at] -= 2
			}
			check(t, err, os.WriteFile(n, raw, 0o600))
		}, 0},
		"a link, a pipe and a huge file": {func(t *testing.T, dir, chain string) {
			n := receiptsIn(t, chain)[0]
			elsewhere := filepath.Join(t.TempDir(), "r")
			check(t, os.Rename(n, elsewhere), os.Symlink(elsewhere, n), syscall.Mkfifo(filepath.Join(chain, "00000009-x.json"), 0o666),
				os.WriteFile(filepath.Join(chain, "00000010-x.json"), nil, 0o600), os.Truncate(filepath.Join(chain, "00000010-x.json"), 1<<40))
		}, 0}, // the first of the chain is not there then
		"a pipe and a huge file behind them": {func(t *testing.T, dir, chain string) {
			check(t, syscall.Mkfifo(filepath.Join(chain, "00000009-x.json"), 0o666),
				os.WriteFile(filepath.Join(chain, "00000010-x.json"), nil, 0o600), os.Truncate(filepath.Join(chain, "00000010-x.json"), 1<<40))
		}, 2},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			c.change(t, dir, bookBeside(t, dir, "records"))
			all, err := receiptsBeside(t.Context(), dir)
			if err != nil || len(all) != c.want {
				t.Errorf("%d count, want %d: %v", len(all), c.want, err)
			}
			for _, r := range all {
				if run, ok := runOf(r, thisMachine(), "here", time.Now()); !ok || !strings.Contains(run.Name, "nobody vouches for its key") {
					t.Errorf("%v, %+v", ok, run)
				}
			}
		})
	}
}

func receiptsIn(t *testing.T, chain string) []string {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(chain, "*.json"))
	if err != nil || len(names) != 2 {
		t.Fatalf("%v: %v", names, err)
	}
	return names
}

func check(t *testing.T, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

// What a receipt calls its machine stands on a terminal.
func TestAMachinesNameDoesNothingToATerminal(t *testing.T) {
	for given, want := range map[string]string{
		"db1, 8 processors":               "db1, 8 processors",
		"m\x1b]0;owned\x07\u202e\u009b2J": "m?]0;owned???2J",
		strings.Repeat("é", 500):          strings.Repeat("é", 100),
	} {
		if got := machineText(given); got != want {
			t.Errorf("%q: %q, want %q", given, got, want)
		}
	}
}
