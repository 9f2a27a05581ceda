package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"holdfast/internal/auth"
	"holdfast/internal/host"
	"holdfast/internal/local"
	"holdfast/internal/receipt"
	"holdfast/internal/redact"
	"holdfast/internal/restore"
	"holdfast/internal/vault"
)

// Receipts of a host and an operator in a vault of two copies are listed, shown, exported, and proven with nothing but the
// authority's certificate; what is changed or taken out is named.
func TestReceiptsByTheCommandLine(t *testing.T) {
	root := twoCopies(t)
	at := "--root=" + root
	ca, err := auth.CreateAuthority(filepath.Join(root, "ca"), "clinic")
	if err == nil {
		err = ca.WriteHost(host.CertDir(local.HostDir(root, "h1")), auth.HostCert{Name: "h1"})
	}
	if err == nil {
		err = ca.WriteHost(local.AdminDir(root), auth.HostCert{Name: "operator", Role: auth.Admin})
	}
	if err != nil {
		t.Fatal(err)
	}
	words(t, 0, "vault", "init", "main", at)
	says(t, words(t, 1, "receipt", "verify", at), "receipt.not-proven", "there are no receipts")

	dir := local.HostDir(root, "h1")
	b, err := host.ReceiptBook(host.ReceiptDir(dir), host.CertDir(dir), "clinic", "h1", "test")
	if err != nil {
		t.Fatal(err)
	}
	write := func() {
		t.Helper()
		v, err := vault.Open(t.Context(), vault.Config{Key: redact.Secret("a key of the test"), URL: "file://" + filepath.Join(root, "home"), Copy: "home", Filled: true,
			Others: []vault.Place{{Copy: "away", URL: "file://" + filepath.Join(root, "away"), Filled: true}}})
		if err != nil {
			t.Fatal(err)
		}
		for i, outcome := range []string{receipt.Passed, receipt.Failed} {
			_, err := b.Append(t.Context(), v.Identity().ID, v, receipt.Event{Kind: receipt.Validation, Subject: "records", Outcome: outcome, Says: fmt.Sprintf("looked at %d", i)}, time.Now())
			if err != nil {
				t.Fatal(err)
			}
		}
		if _, err := v.Sync(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := v.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	write()
	a, err := findApplication(New(), root)
	if err != nil {
		t.Fatal(err)
	}
	over, cancel := context.WithCancel(t.Context())
	cancel() // an interrupt behind the restore keeps no receipt back
	cmd, told := New(), &bytes.Buffer{}
	cmd.SetErr(told)
	exchanged := []restore.Exchange{{Name: "clinic", Kept: "clinic_kept_1", Bytes: 7}, {Name: "fresh", Bytes: 5}}
	for _, what := range []receipt.Event{
		restoreReceipt(restoredDatabase{Database: "records", At: "latest"}),
		backReceipt(wentBack{Database: "records", At: "noon", Backup: "b7", Since: 3, Databases: exchanged}),
		undoReceipt(wentBack{Database: "records", At: "noon", Databases: exchanged}),
		intoReceipt(broughtInto{Database: "records", At: "noon", Backup: "b7", Inside: "clinic", Table: "rows", Into: "rescued"}),
		putBackReceipt(broughtBack{Database: "records", At: "noon", Backup: "b7", PutBack: &restore.PutBackReport{Table: "rows", Wanted: 3, Inserted: 2, Already: 1}}),
	} {
		a.restored(over, cmd, "main", what)
	}
	if told.Len() > 0 {
		t.Fatal(told)
	}

	says(t, words(t, 0, "receipt", "list", at), "/1 ", "looked at 0", "validation", "failed", "records at latest was restored",
		"records was restored in place at noon from base backup b7: clinic (what was live is kept as clinic_kept_1), fresh",
		"the restore of records in place at noon was taken back: clinic",
		"table rows of records at noon was restored from base backup b7 as the new schema rescued of SQL database clinic",
		"2 rows of records at noon put back into the live table rows, from base backup b7")
	says(t, words(t, 0, "receipt", "list", "records", "--kind", "restore", "--output", "json", at), `"host": "operator"`, `"rto_seconds": 0`, `"transactions_since": 3`, `"kept_out_rows": 1`)
	says(t, words(t, 0, "receipt", "verify", at), "1 validation failed, 1 validation passed", "of host h1", "of admin operator", "main: proven.")
	alone := []string{"--vault", filepath.Join(root, "away"), "--key", filepath.Join(root, "vault.key")}
	says(t, words(t, 0, append([]string{"receipt", "verify", "--public", filepath.Join(root, "ca", "ca.crt")}, alone...)...), "proven. Each was signed")

	says(t, words(t, 0, "receipt", "rotate", at), "h1 signs with key ")
	write()
	says(t, words(t, 0, "receipt", "verify", at), "1 key done", "main: proven.", "its head 5 is noted by h1-", "its head is noted up to 2, by operator-", "whether more was behind 5, and was cut off, cannot be told")

	out := filepath.Join(t.TempDir(), "evidence")
	says(t, words(t, 0, "receipt", "export", out, at), "10 receipts in ", "--public "+filepath.Join(out, "ca.crt"))
	ours := filepath.Join(out, "ca.crt")
	says(t, words(t, 0, "receipt", "verify", out, "--public", ours), "files: proven.")
	files, err := filepath.Glob(filepath.Join(out, "h1-*", "*.json"))
	if err != nil || len(files) != 5 {
		t.Fatal(files, err)
	}
	says(t, words(t, 0, "receipt", "verify", files[2], "--public", ours), "files: proven.", "whether others are missing is not judged")
	// Of a chain that is alone nobody notes how far it goes: that none is missing behind its last is not said.
	lone := verified{Report: receipt.Report{Chains: []receipt.Chain{{Chain: "h1-1", Last: 3}}}}
	says(t, noneMissingText(lone)+notedText(lone.Chains[0]), "No head is noted", "a chain of which none is here, could be cut off unseen", "noted by no other chain")
	says(t, words(t, 0, "receipt", "verify", out, "--public", ours), "none is missing up to the heads that are noted (", "could be cut off unseen")
	// The data root's own authority judges files too. Another's does not stand behind them.
	says(t, words(t, 0, "receipt", "verify", out, at), "files: proven.")
	if _, err := auth.CreateAuthority(filepath.Join(root, "other"), "clinic"); err != nil {
		t.Fatal(err)
	}
	again := strings.TrimSuffix(files[1], filepath.Base(files[1])) + "00000009-" + strings.SplitN(filepath.Base(files[1]), "-", 2)[1] // replayed as a later one
	repeated, err := os.ReadFile(files[1])
	if err == nil {
		err = os.WriteFile(again, repeated, 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
	says(t, words(t, 1, "receipt", "verify", out, "--public", ours), "receipt.not-proven", "is kept under its name")
	says(t, words(t, 1, "receipt", "verify", files[1], again, "--public", ours), "it is repeated", "field sequence")
	if err := os.Remove(again); err != nil {
		t.Fatal(err)
	}
	says(t, words(t, 1, "receipt", "verify", out, "--public", filepath.Join(root, "other", "ca.crt")), "receipt.not-proven", "another authority vouches for it")
	words(t, 1, "receipt", "verify", out, "--root", filepath.Join(root, "nowhere"))
	chain := filepath.Base(filepath.Dir(files[0]))
	says(t, words(t, 0, "receipt", "show", chain+"/2", at), `"says": "looked at 1"`, "for which authority")

	// The fourth is changed, the second taken out.
	raw, err := os.ReadFile(files[3])
	if err != nil {
		t.Fatal(err)
	}
	raw = bytes.Replace(raw, []byte(`"sig": "`), []byte(`"sig": "AAAA`), 1) // longer by three bytes, and base64 still
	if err := errors.Join(os.WriteFile(files[3], raw, 0o600), os.Remove(files[1])); err != nil {
		t.Fatal(err)
	}
	says(t, words(t, 1, "receipt", "verify", out, "--public", ours), "receipt.not-proven", "missing are 2 to 2", "4: it was changed, or its signature was")
	// In the vault: one copy's object is put in another's place. Its seal is for its own name.
	objects, err := filepath.Glob(filepath.Join(root, "away", "receipts", "h1-*", "*"))
	if err != nil || len(objects) != 5 {
		t.Fatal(objects, err)
	}
	if raw, err = os.ReadFile(objects[0]); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.Chmod(objects[1], 0o600), os.WriteFile(objects[1], raw, 0o600)); err != nil {
		t.Fatal(err)
	}
	says(t, words(t, 1, append([]string{"receipt", "verify"}, alone...)...), "its seal does not fit", "missing are 2 to 2")
	says(t, words(t, 1, "vault", "scrub", at), "in copy away (damaged: its seal does not fit); whole in home")
	words(t, 0, "vault", "repair", at, "--yes")
	says(t, words(t, 0, append([]string{"receipt", "verify"}, alone...)...), "whole and in order, and NOT PROVEN")
}
