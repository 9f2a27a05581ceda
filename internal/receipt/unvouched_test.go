package receipt_test

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"holdfast/internal/disktest"
	"holdfast/internal/receipt"
)

// What no host vouches for says so, is proven against its own key alone, and passes for nothing else.
func TestAReceiptThatNoHostVouchesForIsProvenAgainstItsKeyAlone(t *testing.T) {
	dir := t.TempDir()
	open := func() *receipt.Book {
		return receipt.NewUnvouchedBook(dir, receipt.Author{Application: "clinic", Host: "unvouched-new", Tool: "test"})
	}
	var all []receipt.Receipt
	for range 2 { // one chain, though it is opened anew
		r, err := open().Append(t.Context(), "v1", nil, receipt.Event{Kind: receipt.Restore, Subject: "records", Outcome: receipt.Done, Says: "restored"}, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, r)
	}
	trust := func(file string) receipt.Trust {
		t.Helper()
		raw, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		out, err := receipt.ParseTrust(raw)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	own := trust(filepath.Join(dir, receipt.PublicKeyFile))
	if r := receipt.Verify(all, own, false); !r.OK || !r.Trusted || !r.Chains[0].Signed.Unvouched || r.Chains[0].Count != 2 {
		t.Errorf("against its own key: %+v", r)
	}
	if r := receipt.Verify(all, receipt.Trust{}, false); !r.OK || r.Trusted || !r.Chains[0].Signed.Unvouched {
		t.Errorf("with nobody to be trusted: %+v", r)
	}
	other := t.TempDir()
	if _, err := receipt.NewUnvouchedBook(other, receipt.Author{Application: "clinic", Host: "x"}).Append(t.Context(), "v1", nil, receipt.Event{Kind: receipt.Restore}, time.Now()); err != nil {
		t.Fatal(err)
	}
	if r := receipt.Verify(all, trust(filepath.Join(other, receipt.PublicKeyFile)), false); r.OK || r.Trusted || !strings.Contains(strings.Join(r.Faults, " "), "no host vouches") {
		t.Errorf("against another key: %+v", r)
	}
	if at, err := os.Stat(filepath.Join(dir, "key.pem")); err != nil || at.Mode().Perm() != 0o600 {
		t.Errorf("the key: %v, %v", at, err)
	}

	// Who takes the voucher off a host's receipt does not make one of these of it.
	w := newWorld(t)
	host := w.book("b1")
	var e receipt.Envelope
	if err := json.Unmarshal(w.add(host, receipt.Backup).Raw, &e); err != nil {
		t.Fatal(err)
	}
	e.Signer = nil
	raw, err := json.Marshal(e)
	if err != nil {
		t.Fatal(err)
	}
	bare, err := receipt.Read(raw)
	if err != nil {
		t.Fatal(err)
	}
	if r := receipt.Verify([]receipt.Receipt{bare}, receipt.Trust{}, false); r.OK {
		t.Errorf("a host's receipt without who vouches: %+v", r)
	}
	// And a host's book does not go on with a key for which nobody vouches.
	key, err := os.ReadFile(filepath.Join(dir, "key.pem"))
	if err == nil {
		err = os.WriteFile(filepath.Join(w.dir, "b1", "receipts", "key.pem"), key, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	if _, err := host.Append(t.Context(), "v1", nil, receipt.Event{Kind: receipt.Restore}, time.Now()); err == nil {
		t.Error("a host signed with a key for which nobody vouches")
	}
}

// Where anybody can write, another user may have made the directory first, with a key of his own in it.
func TestABookThatAnotherUserBeganIsNotWrittenOn(t *testing.T) {
	disktest.NeedRoot(t)
	for name, spoil := range map[string]func(dir string) error{
		"it is another user's": func(dir string) error {
			return filepath.WalkDir(dir, func(at string, _ fs.DirEntry, err error) error { return errors.Join(err, os.Chown(at, 65534, 65534)) })
		},
		"others may write to it": func(dir string) error { return os.Chmod(dir, 0o777) },
		"it leads elsewhere": func(dir string) error {
			return errors.Join(os.Rename(dir, dir+".other"), os.Symlink(dir+".other", dir))
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "records.drill.receipt")
			write := func() error {
				b := receipt.NewUnvouchedBook(dir, receipt.Author{Application: "clinic", Host: "unvouched-new"})
				_, err := b.Append(t.Context(), "v1", nil, receipt.Event{Kind: receipt.Drill, Subject: "records", Outcome: receipt.Passed}, time.Now())
				return err
			}
			if err := errors.Join(write(), spoil(dir)); err != nil {
				t.Fatal(err)
			}
			if err := write(); err == nil || !strings.Contains(err.Error(), "nobody else can write to") {
				t.Errorf("written on: %v", err)
			}
		})
	}
}
