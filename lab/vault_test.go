package lab_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"holdfast/internal/api"
	"holdfast/internal/vault/s3store/s3test"
	"holdfast/lab"
)

// A plan archives to a bucket, with a second copy in a directory. The bucket's server dies while the database is written:
// nothing waits for it, status says so, and when it is back it is filled by itself; then a backup restores from either copy.
func TestARunningPlanWithAVaultInABucketAndADirectory(t *testing.T) {
	lab.Long(t)
	server := s3test.Start(t)
	server.Bucket(t, "clinic", false)
	root := s3test.Root()
	secrets := t.TempDir()
	for name, content := range map[string]string{"s3.id": root.KeyID, "s3.secret": root.Secret.Reveal()} {
		if err := os.WriteFile(filepath.Join(secrets, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	w := lab.NewAs(t, "127.60.47", lab.Shape{Services: true, Plan: func(text string) string {
		copies := fmt.Sprintf(`copies:
      bucket:
        url: s3://clinic/records
        endpoint: http://%s
        access_key: "file:%s/s3.id"
        secret_key: "file:%s/s3.secret"
      here: "file://${root}/vault"`, server.Address, secrets, secrets)
		return strings.Replace(text, `copies: { here: "file://${root}/vault" }`, copies, 1)
	}})
	w.Start()
	load := w.Load("copies")
	proven := ""
	w.Await("a backup is proven", 2*recoverMax, func(st api.Status) bool {
		a := st.Databases[0].Archive
		if a != nil && a.Last != nil {
			proven = a.Last.ID
		}
		return lab.Well(st) && a != nil && a.Last != nil && a.Last.Proven
	})
	server.Kill()
	has := func(code string) func(api.Status) bool {
		return func(st api.Status) bool {
			for _, p := range st.Problems {
				if p.Code == code {
					return true
				}
			}
			return false
		}
	}
	w.Await("status says that the bucket is away", 2*recoverMax, has("vault.copy-away"))
	load.Client.Mark("bucket away")
	w.Await("the log goes on into the other copy", recoverMax, func(st api.Status) bool {
		a := st.Databases[0].Archive
		return st.Databases[0].Open && a != nil && a.Trouble == "" && a.Lag != nil && time.Duration(*a.Lag) < 30*time.Second
	})
	server.Run(t)
	w.Await("the bucket is back", 2*recoverMax, func(st api.Status) bool { return !has("vault.copy-away")(st) && !has("vault.copy-behind")(st) })
	load.Recovered()
	for _, args := range [][]string{{"vault", "sync"}, {"vault", "status"}, {"vault", "scrub"}, {"backup", "validate", "records", "--backup", proven}, {"receipt", "list"}, {"receipt", "verify"}} {
		out, err := w.Run(args...)
		if args[1] == "status" && strings.Contains(out, "key        DEGRADED") { // nobody has put a sheet of its key away here
			err = nil
		}
		if err != nil {
			t.Errorf("%s: %v\n%s", strings.Join(args, " "), err, out)
		} else if args[0] == "receipt" && (!strings.Contains(out, "validation") || args[1] == "verify" && !strings.Contains(out, "proven. Each was signed")) {
			t.Errorf("%s says\n%s", strings.Join(args, " "), out)
		}
	}
	if err := os.RemoveAll(filepath.Join(w.Root, "vault")); err != nil { // only the bucket is left
		t.Fatal(err)
	}
	out, err := w.Run("restore", "database", "records", "--to", filepath.Join(filepath.Dir(w.Plan), "restored"))
	if err != nil {
		t.Errorf("restore from the bucket alone: %v\n%s", err, out)
	}
}
