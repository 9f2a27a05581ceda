package cli

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"holdfast/internal/auth"
	"holdfast/internal/local"
	"holdfast/internal/receipt"
)

// The receipt of a restore from a vault alone is kept beside what was restored; whoever verifies it hears that no host vouches.
func TestAReceiptOfARestoreFromAVaultAloneSaysThatNoHostVouches(t *testing.T) {
	root := twoCopies(t)
	words(t, 0, "vault", "init", "main", "--root="+root)
	ca, err := auth.CreateAuthority(local.AuthorityDir(root), "clinic")
	if err == nil {
		err = ca.WriteHost(local.AdminDir(root), auth.HostCert{Name: "operator", Role: auth.Admin})
	}
	if err != nil {
		t.Fatal(err)
	}
	alone := vaultFlags{url: filepath.Join(root, "home"), key: filepath.Join(root, "vault.key")}
	v, err := alone.openAlone(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer closeVault(t.Context(), v)
	restored := filepath.Join(root, "restored")
	where, err := receiptAlone(t.Context(), v, restored, restoreEvent("records", "records was restored", nil, nil))
	if err != nil {
		t.Fatal(err)
	}
	file, _, _ := strings.Cut(where, ", ")
	if raw, err := os.ReadFile(file); err != nil || !strings.Contains(where, "no host vouches") {
		t.Errorf("%q: %v: %s", where, err, raw)
	}
	dir, public := filepath.Dir(filepath.Dir(file)), filepath.Join(restored+".receipt", receipt.PublicKeyFile)
	says(t, words(t, 0, "receipt", "verify", dir, "--public", public), "NO HOST vouches", "proven")
	says(t, words(t, 1, "receipt", "verify", dir, "--public", filepath.Join(local.AdminDir(root), auth.CACertFile)), "no host vouches for key", "receipt.not-proven")
	if out := words(t, 0, "receipt", "verify", dir, "--public", public, "--output", "json"); !strings.Contains(out, `"unvouched": true`) {
		t.Errorf("JSON does not say it: %s", out)
	}
	// In the vault itself it would be no host's either.
	names, err := v.ReceiptNames(t.Context())
	if err != nil || len(names) != 0 {
		t.Errorf("the vault was written to: %q, %v", names, err)
	}
}
