package vault_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"holdfast/internal/clock"
	"holdfast/internal/vault"
	"holdfast/internal/vault/wal"
)

// days is two days ahead: what was begun by then has ended.
type days struct{ ahead }

func (days) Now() time.Time { return time.Now().Add(48 * time.Hour) }

var _ clock.Clock = days{}

// A run that lets go of log is killed, or ends early, between a deletion and its row in the catalog: nothing is lost by
// that, retention goes on, and what was not deleted is watched over again.
func TestWhatAKilledRunDeletedIsNotLost(t *testing.T) {
	refused := errors.New("another host has the duty")
	for name, after := range map[string]func(t *testing.T, v *vault.Vault, release func() error){
		"it is told to stop": func(t *testing.T, _ *vault.Vault, release func() error) {
			if err := release(); !errors.Is(err, refused) {
				t.Errorf("the run ended with %v", err)
			}
		},
		"it is killed, and a later scrub says what came of it": func(t *testing.T, v *vault.Vault, _ func() error) {
			s, err := v.Scrub(t.Context(), vault.ScrubOptions{Clock: days{}})
			if err != nil || len(s.Damage()) > 0 {
				t.Fatalf("found %+v, %v", s.Findings, err)
			}
			if err := v.RecordScrub(t.Context(), s); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			v, dir := create(t)
			for seg := range wal.LSN(3) {
				if err := v.Log(7, 1<<20).PutSegment(t.Context(), 1, seg<<20, make([]byte, 1<<20), time.Unix(1, 0)); err != nil {
					t.Fatal(err)
				}
			}
			store(t, v, map[string][]byte{"pgdata/PG_VERSION": []byte("15\n")}) // its end writes the catalog
			held, err := v.Log(7, 1<<20).Held(t.Context())
			if err != nil || len(held) != 3 {
				t.Fatal(held, err)
			}
			stuck, goOn, ended := make(chan struct{}), make(chan struct{}), make(chan error, 1)
			asked := 0
			may := func(context.Context) error {
				if asked++; asked < 3 {
					return nil
				}
				close(stuck)
				<-goOn
				return refused
			}
			dropping := reopened(t, dir)
			go func() {
				_, err := dropping.Log(7, 1<<20).Drop(t.Context(), held, time.Now().Add(time.Hour), may)
				ended <- err
			}()
			released := false
			release := func() error { released = true; close(goOn); return <-ended }
			defer func() {
				if !released {
					_ = release() // it is refused
				}
			}()
			select {
			case <-stuck:
			case err := <-ended:
				released = true
				t.Fatalf("the run ended with %v", err)
			}
			if left, err := v.Log(7, 1<<20).Held(t.Context()); err != nil || len(left) != 1 {
				t.Fatalf("left %v, %v", left, err)
			}
			s := scrub(t, v)
			if len(s.Findings) > 0 {
				t.Errorf("found %+v", s.Findings)
			}
			if err := v.RecordScrub(t.Context(), s); err != nil {
				t.Fatal(err)
			}
			if err := v.MayDelete(t.Context()); err != nil {
				t.Errorf("retention stops: %v", err)
			}
			after(t, v, release)
			if err := os.Remove(filepath.Join(dir, held[2].Object)); err != nil {
				t.Fatal(err)
			}
			if lost := scrub(t, v).Lost(); len(lost) != 1 || lost[0] != held[2].Object {
				t.Errorf("lost %v, want the one that stayed", lost)
			}
		})
	}
}
