package vault_test

import (
	"bytes"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"holdfast/internal/redact"
	"holdfast/internal/vault"
	"holdfast/internal/vault/azstore"
	"holdfast/internal/vault/azstore/azuritetest"
	blobs "holdfast/internal/vault/store"
)

// A vault in a container is one as any other: made, written by a signature that cannot delete, read and checked by one
// that can only read, and an equal copy of one in a directory.
func TestAVaultLiesInAzure(t *testing.T) {
	server := azuritetest.Start(t)
	server.Container(t, "vaults")
	conf := config("")
	conf.Azure, conf.URL = server.Config("vaults", ""), "azblob://"+azuritetest.Account+"/vaults/clinic"
	t.Run("what cannot be used is a problem", func(t *testing.T) {
		for code, change := range map[string]func(*vault.Config){
			"vault.no-bucket": func(c *vault.Config) { c.URL = "azblob://" + azuritetest.Account + "/missing/clinic" },
			"vault.denied":    func(c *vault.Config) { c.Azure.Write.Key = redact.Secret("aHVudGVyMg==") },
			"vault.absent":    func(*vault.Config) {},
		} {
			c := conf
			change(&c)
			_, err := vault.Open(t.Context(), c)
			wantProblem(t, err, code)
			if strings.Contains(err.Error(), "aHVudGVyMg") {
				t.Errorf("the key is in %v", err)
			}
		}
	})
	// The host's signature may write, and not delete.
	conf.Azure.Write = azstore.Access{SAS: server.SAS(t, "vaults", "rlcw")}
	dir := filepath.Join(t.TempDir(), "home")
	conf.Copy, conf.Others = "azure", []vault.Place{{Copy: "home", URL: "file://" + dir}}
	v := createIn(t, place{dir, conf})
	small := map[string][]byte{"pgdata/PG_VERSION": []byte("15\n"), "pgdata/base/5/1": sample()["pgdata/base/5/1"][:70_000]}
	b := store(t, v, small)
	segment := bytes.Repeat([]byte{1, 2, 3, 4}, 1<<18)
	l := v.Log(7, 1<<20)
	if err := l.PutPartial(t.Context(), 1, 0, segment[:5000], time.Unix(8, 0)); err != nil {
		t.Fatal(err)
	}
	if err := l.PutSegment(t.Context(), 1, 0, segment, time.Unix(9, 0)); err != nil {
		t.Fatal(err)
	}
	syncAll(t, v)

	conf.Azure.Write = azstore.Access{SAS: server.SAS(t, "vaults", "rl")}
	reader := conf
	reader.ReadOnly, reader.Others, reader.Copy = true, nil, ""
	r := openAll(t, reader)
	if got, err := fetch(t.Context(), r, b.ID); err != nil || differ(small, got) != "" {
		t.Errorf("read from Azure alone: %v", err)
	}
	if s := scrub(t, r); len(s.Damage()) > 0 || s.Blobs == 0 || s.Ended.IsZero() {
		t.Errorf("scrubbed with the right to read alone: %+v", s)
	}
	raw, err := azstore.Open(t.Context(), func() azstore.Config { c := conf.Azure; c.URL = conf.URL; return c }())
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	for _, prefix := range []string{"repository/kopia.repository", "repository/p", "repository/q", "repository/x"} {
		n := 0
		err := raw.List(t.Context(), prefix, func(i blobs.Info) error { n++; return nil })
		if err != nil || n == 0 {
			t.Errorf("the stock program looks for names that begin with %s, and there are %d: %v", prefix, n, err)
		}
	}
	spoil(t, biggest(t, dir, "repository/p"), "a flipped bit")
	damaged := scrub(t, v)
	if len(damaged.Damage()) != 1 {
		t.Fatalf("found %+v", damaged.Damage())
	}
	if done, err := v.Repair(t.Context(), damaged.Damage(), false); err != nil {
		t.Errorf("repaired %+v, %v", done, err)
	}
	if s := scrub(t, v); len(s.Damage()) > 0 {
		t.Errorf("mended from Azure, and found %+v", s.Damage())
	}
}
