package members_test

import (
	"bytes"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"holdfast/internal/cluster/clustertest"
	"holdfast/internal/cluster/members"
)

const patience = 2 * time.Minute

func open(t *testing.T, self, bind string, key []byte, seeds ...string) *members.List {
	t.Helper()
	l, err := members.Open(members.Config{
		Self: self, Bind: bind, Seeds: seeds, Key: key, Meta: []byte("meta of " + self), Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Errorf("close %s: %v", self, err)
		}
	})
	return l
}

func sees(l *members.List, want ...string) func() error {
	return func() error {
		var got []string
		for _, m := range l.Members() {
			got = append(got, m.Name+": "+string(m.Meta))
		}
		if diff := cmp.Diff(want, got); diff != "" {
			return fmt.Errorf("members: %s", diff)
		}
		return nil
	}
}

func TestMembers(t *testing.T) {
	key := bytes.Repeat([]byte{7}, 32)
	b1 := open(t, "b1", "127.41.4.1", key)
	b2 := open(t, "b2", "127.41.4.2", key, b1.Address())
	b3 := open(t, "b3", "127.41.4.3", key, "127.41.4.9:1", b2.Address()) // one seed is nobody
	stranger := open(t, "b4", "127.41.4.4", bytes.Repeat([]byte{8}, 32), b1.Address())
	for _, l := range []*members.List{b1, b2, b3} {
		clustertest.Eventually(t, sees(l, "b1: meta of b1", "b2: meta of b2", "b3: meta of b3"))
	}
	if err := sees(stranger, "b4: meta of b4")(); err != nil {
		t.Errorf("with another key: %v", err)
	}

	for len(b1.Changes()) > 0 {
		<-b1.Changes()
	}
	if err := b2.SetMeta([]byte("new")); err != nil {
		t.Fatal(err)
	}
	select {
	case <-b1.Changes():
	case <-time.After(patience):
		t.Fatal("a changed text wakes nobody")
	}
	clustertest.Eventually(t, sees(b1, "b1: meta of b1", "b2: new", "b3: meta of b3"))

	if err := b2.Leave(5 * time.Second); err != nil {
		t.Fatal(err)
	}
	clustertest.Eventually(t, sees(b3, "b1: meta of b1", "b3: meta of b3"))
}

func TestOpenReportsEveryMistake(t *testing.T) {
	_, err := members.Open(members.Config{Bind: "b1", Key: []byte("short"), Meta: make([]byte, 1000)})
	for _, want := range []string{"no name", "not an address", "5 bytes", "1000 bytes", "logger"} {
		if err == nil || !bytes.Contains([]byte(err.Error()), []byte(want)) {
			t.Errorf("%q is not told in: %v", want, err)
		}
	}
}
