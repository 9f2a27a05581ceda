package cli

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"holdfast/internal/receipt"
	"holdfast/internal/vault"
)

// receiptAlone writes the receipt of a restore without a plan to a directory. No certificate is here, so it is signed with a key
// that is made for it, says that no host vouches for that, and is kept beside what was restored: the vault is open for reading
// alone, and nobody else is there.
func receiptAlone(ctx context.Context, v *vault.Vault, restored string, what receipt.Event) (string, error) {
	id, keeps := v.Identity(), restored+".receipt"
	b := receipt.NewUnvouchedBook(keeps, receipt.Author{Application: id.Application, Host: machineName(), Tool: "holdfast " + Version()})
	r, err := b.Append(ctx, id.ID, nil, what, time.Now())
	if err != nil {
		return "", err
	}
	dir := b.Dir(id.ID)
	return fmt.Sprintf("%s, signed with key %s, for which no host vouches; verify it: holdfast receipt verify %s --public %s",
		filepath.Join(dir, filepath.FromSlash(r.Name)+".json"), r.Envelope.Signatures[0].KeyID, dir, filepath.Join(keeps, receipt.PublicKeyFile)), nil
}

// machineName is the machine's name as a chain of receipts can bear it.
func machineName() string {
	name, err := os.Hostname()
	if err != nil {
		name = ""
	}
	name = strings.Trim(strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' {
			return r
		}
		return '-'
	}, name), "-")
	return "unvouched-" + name[:min(len(name), 60)]
}

// restoredAlone writes the receipt of a restore that is done, and says where it is or why there is none.
func restoredAlone(ctx context.Context, cmd *cobra.Command, v *vault.Vault, restored string, what receipt.Event) string {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), receiptMax)
	defer cancel()
	where, err := receiptAlone(ctx, v, restored, what)
	if err != nil {
		where = "none: " + err.Error()
		_, _ = fmt.Fprintf(cmd.ErrOrStderr(), "done; no receipt was written: %v\n", err)
	}
	return where
}
