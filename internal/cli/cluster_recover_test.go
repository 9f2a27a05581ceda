package cli

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"holdfast/internal/auth"
	"holdfast/internal/problem"
	"holdfast/internal/rebuild"
)

// A saving without the key of the authority is laid out with the authority as it was put away, and with no other.
func TestTheAuthorityThatWasPutAwayComesBackWithASaving(t *testing.T) {
	ours, other := t.TempDir(), t.TempDir()
	for _, dir := range []string{ours, other} {
		if _, err := auth.CreateAuthority(dir, "clinic"); err != nil {
			t.Fatal(err)
		}
	}
	cert, err := os.ReadFile(filepath.Join(ours, auth.CACertFile))
	if err != nil {
		t.Fatal(err)
	}
	s := rebuild.State{Application: "clinic", Files: map[string][]byte{"ca/ca.crt": cert, "ca/gossip.key": []byte("x"), "hosts/h1/tls/host.key": []byte("y")}}
	for _, dir := range []string{"", other} {
		var p *problem.Problem
		if _, err := withAuthority(s, dir); !errors.As(err, &p) || p.Code != "cluster.authority-elsewhere" {
			t.Errorf("authority %q: %v", dir, err)
		}
	}
	if got, err := withAuthority(s, ours); err != nil || got["ca/ca.key"] == nil || len(got) != 4 {
		t.Errorf("the one that was put away: %d files, %v", len(got), err)
	}
	if got, err := withAuthority(s, newAuthority); err != nil || len(got) != 1 {
		t.Errorf("a new one: %d files, %v", len(got), err)
	}
	s.Files["ca/ca.key"] = []byte("z")
	if got, err := withAuthority(s, ""); err != nil || len(got) != 4 {
		t.Errorf("all is saved: %d files, %v", len(got), err)
	}
}

// What a person must know before a cluster is founded with an old record stands below its database, in the order of doing.
func TestTheOutlookTellsOfAnOldRecord(t *testing.T) {
	p := rebuild.Proposal{Survivor: "h1", Databases: []rebuild.DatabaseOutlook{
		{Name: "records", Was: 2, Epoch: 1004, Next: "h1 was its primary in epoch 2, which is not the last one", Older: &rebuild.Older{
			Epoch: 4, Told: "h1's own server promised it", Means: "another host may have been the primary of epochs 3 to 4", Do: []string{"look for a newer one", "then decide"},
		}},
		{Name: "orders", Was: 7, Epoch: 1007, Next: "h1 was its primary"},
	}}
	var out strings.Builder
	if err := writeProposal(&out, p, true); err != nil {
		t.Fatal(err)
	}
	const want = `  database records: epoch 1004 after 2; h1 was its primary in epoch 2, which is not the last one
    This record is old: epoch 4 is known of (h1's own server promised it). So another host may have been the primary of epochs 3 to 4.
    - look for a newer one
    - then decide
  database orders: epoch 1007 after 7; h1 was its primary
`
	if !strings.Contains(out.String(), want) {
		t.Errorf("it says\n%s", out.String())
	}
}
