package s3store_test

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"

	"holdfast/internal/vault/s3store/s3test"
	"holdfast/internal/vault/store"
)

// What cannot be found right behind its upload is not told as stored before it can, and other bytes under its name are refused meanwhile.
func TestAnS3StoreThatFindsAnObjectLateNeverGivesAWrongSuccess(t *testing.T) {
	t.Parallel()
	server := s3test.Start(t)
	s, p, there := bad(t, server, "late", 3, 12)
	for lookups := range 5 {
		p.Set(s3test.Faults{Lookups: lookups, Unlisted: lookups})
		name, want := fmt.Sprintf("wal/%d", lookups), content(lookups, 4<<10)
		for _, put := range []func() error{
			func() error { return s.Put(t.Context(), name, store.Bytes(want)) },
			func() error { return s.Replace(t.Context(), "r"+name, store.Bytes(want)) },
		} {
			if err := put(); err != nil {
				t.Errorf("%d lookups too early: %v", lookups, err)
			}
		}
		for _, n := range []string{name, "r" + name} {
			if got, err := store.Read(t.Context(), s, n); err != nil || !bytes.Equal(got, want) {
				t.Errorf("%s was said to be stored: %d bytes of %d, %v", n, len(got), len(want), err)
			}
			if raw, err := there.Read(t.Context(), n); err != nil || !bytes.Equal(raw, want) {
				t.Errorf("%s: there are %d bytes of %d, %v", n, len(raw), len(want), err)
			}
		}
		if err := s.Put(t.Context(), name, store.Bytes(content(9, len(want)))); !errors.Is(err, store.ErrDiffers) {
			t.Errorf("other bytes under %s: %v", name, err)
		}
	}
	// Another writer's object that cannot be read yet is neither replaced nor taken for ours.
	p.Set(s3test.Faults{Lookups: 6})
	fast := open(t, server.Config("late", "v"))
	if err := fast.Put(t.Context(), "theirs", store.Bytes("first")); err != nil {
		t.Fatal(err)
	}
	p.Hide("late/v/theirs")
	if err := s.Put(t.Context(), "theirs", store.Bytes("other")); !errors.Is(err, store.ErrDiffers) {
		t.Errorf("other bytes under a name that is taken and not found: %v", err)
	}
	p.Set(s3test.Faults{Lookups: 1 << 30})
	for name, put := range map[string]func(string) error{
		"a new object":  func(n string) error { return s.Put(t.Context(), n, store.Bytes("x")) },
		"one to change": func(n string) error { return s.Replace(t.Context(), n, store.Bytes("x")) },
	} {
		before := p.Asked()
		if err := put("never-" + strings.ReplaceAll(name, " ", "-")); err == nil {
			t.Errorf("%s that is never found was said to be stored", name)
		}
		if n := p.Asked() - before; n > 2*12 { // attempts, each with an upload and a look
			t.Errorf("%s that is never found: %d requests", name, n)
		}
	}
	if got := p.Count(); !strings.Contains(got, "not found yet:") {
		t.Errorf("no lookup came too early: %s", got)
	}
}

// Lists that lag say what was there: the proxy does so, and a deletion is told all the same.
func TestAnS3StoreWhoseListsLagSaysSoInNothingElse(t *testing.T) {
	t.Parallel()
	server := s3test.Start(t)
	s, p, _ := bad(t, server, "lagging", 3, 12)
	listed := func() string {
		t.Helper()
		var names []string
		if err := s.List(t.Context(), "d/", func(i store.Info) error { names = append(names, i.Name); return nil }); err != nil {
			t.Fatal(err)
		}
		return strings.Join(names, " ")
	}
	put := func(name string) {
		t.Helper()
		if err := s.Put(t.Context(), name, store.Bytes(name)); err != nil {
			t.Fatal(err)
		}
	}
	put("d/a")
	p.Set(s3test.Faults{Unlisted: 1, Listed: 1})
	put("d/b")
	put("d/sub/c")
	if got := listed(); got != "d/a" {
		t.Errorf("a list that is stale shows %q", got)
	}
	if got := listed(); got != "d/a d/b d/sub/c" {
		t.Errorf("the next shows %q", got)
	}
	if err := s.Delete(t.Context(), "d/b"); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Stat(t.Context(), "d/b"); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("what was deleted is %v", err)
	}
	if err := s.Delete(t.Context(), "d/b"); err != nil {
		t.Errorf("deleted once more as a stale list asks for: %v", err)
	}
	if got := listed(); got != "d/a d/b d/sub/c" {
		t.Errorf("a list that is stale shows %q", got)
	}
	if got := listed(); got != "d/a d/sub/c" {
		t.Errorf("the next shows %q", got)
	}
}
