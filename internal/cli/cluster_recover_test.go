package cli

import (
	"errors"
	"os"
	"path/filepath"
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
