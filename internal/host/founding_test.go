package host

import (
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"holdfast/internal/cluster/etcd"
)

func TestVotersStayOdd(t *testing.T) {
	voter := func(name string) etcd.Seat { return etcd.Seat{Name: name} }
	learner := func(name string) etcd.Seat { return etcd.Seat{Name: name, Learner: true} }
	for _, c := range []struct {
		name  string
		seats []etcd.Seat
		want  []string
	}{
		{"nobody learns", []etcd.Seat{voter("b1")}, nil},
		{"the first that comes back follows without a vote", []etcd.Seat{voter("b1"), learner("b2")}, nil},
		{"the second one lets both vote", []etcd.Seat{voter("b1"), learner("b3"), learner("b2")}, []string{"b2", "b3"}},
		{"one that has not run yet is not counted", []etcd.Seat{voter("b1"), learner("b2"), learner("")}, nil},
		{"the one that is missing beside two votes at once", []etcd.Seat{voter("b1"), voter("b2"), learner("b3")}, []string{"b3"}},
		{"a fourth beside three waits", []etcd.Seat{voter("b1"), voter("b2"), voter("b3"), learner("b4")}, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := seatNow(c.seats); !slices.Equal(got, c.want) {
				t.Errorf("votes next: %v, want %v", got, c.want)
			}
		})
	}
}

func TestAnOrderToJoinIsCarriedOutOnceAndKeepsTheOldData(t *testing.T) {
	dir := t.TempDir()
	cfg := Config{Self: "b2", Dir: dir, Log: slog.New(slog.DiscardHandler)}
	data, marker := memberFiles(dir)
	order := joinOrder{Founding: founding{ClusterID: 7, Seat: 41, Founding: "1-b1", Recovery: 1, Join: true, Clients: []string{"https://b1:2379"}, Members: map[string]string{"b2": "https://b2:2380"}}}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(os.MkdirAll(data, 0o700))
	must(os.WriteFile(filepath.Join(data, "life"), []byte("old"), 0o600))
	must(os.WriteFile(marker, []byte("old"), 0o600))
	must(writeJSON(overruledFile(dir), overruling{Number: 1, By: "b1"}))
	must(writeJSON(joinFile(dir), order))

	must(join(t.Context(), cfg))
	got, err := readFounding(dir)
	must(err)
	if got.ClusterID != 7 || got.Recovery != 1 || !got.Join || !slices.Equal(got.endpoints(nil), order.Founding.Clients) {
		t.Errorf("it belongs to %+v", got)
	}
	if o, err := readOverruling(dir); err != nil || o.Number != 0 {
		t.Errorf("still written off: %+v, %v", o, err)
	}
	for _, gone := range []string{data, marker, joinFile(dir)} {
		if _, err := os.Stat(gone); !os.IsNotExist(err) {
			t.Errorf("%s is there: %v", gone, err)
		}
	}
	aside, err := filepath.Glob(data + ".before-*")
	must(err)
	if len(aside) != 1 {
		t.Fatalf("the old data were not put aside: %v", aside)
	}
	must(join(t.Context(), cfg)) // nothing is ordered any more

	// The same order once more finds a member that may have run: it must not begin empty under the id that it had.
	must(os.MkdirAll(data, 0o700))
	must(os.WriteFile(filepath.Join(data, "life"), []byte("new"), 0o600))
	must(writeJSON(joinFile(dir), order))
	must(join(t.Context(), cfg))
	if text, err := os.ReadFile(filepath.Join(data, "life")); err != nil || string(text) != "new" {
		t.Errorf("the member of the same order lost its data: %q, %v", text, err)
	}
	order.Founding.Seat++ // another order

	// Cut short after the data were put aside, it is carried out again.
	must(writeJSON(joinFile(dir), order))
	must(putAside(dir, time.Now()))
	must(join(t.Context(), cfg))
}

func TestAnOrderIsTheSameOnlyWhileItWouldChangeNothing(t *testing.T) {
	seated := founding{ClusterID: 7, Recovery: 1, Join: true, Seat: 41, Clients: []string{"https://b1:2379"}}
	bare := founding{ClusterID: 7, Recovery: 1, Join: true, Clients: []string{"https://b1:2379"}}
	change := func(f founding, how func(*founding)) founding { how(&f); return f }
	for _, c := range []struct {
		name       string
		now, order founding
		same       bool
	}{
		{"the same seat", seated, seated, true},
		{"another seat", seated, change(seated, func(f *founding) { f.Seat++ }), false},
		{"a host that keeps no member, and entered", bare, bare, true},
		{"it was written off since", bare, change(bare, func(f *founding) { f.Recovery++ }), false},
		{"another cluster", bare, change(bare, func(f *founding) { f.ClusterID++ }), false},
		{"others are to be asked", bare, change(bare, func(f *founding) { f.Clients = []string{"https://b2:2379"} }), false},
		{"a host of the first cluster is given a seat", founding{ClusterID: 7}, seated, false},
		{"a host that was founded with the cluster is told to enter it", founding{ClusterID: 7, Clients: bare.Clients}, bare, false},
	} {
		if got := c.now.same(c.order); got != c.same {
			t.Errorf("%s: %t, want %t", c.name, got, c.same)
		}
	}
}

func TestARebuildingThatIsCutShortLeavesNoMemberThatBeginsEmpty(t *testing.T) {
	dir := t.TempDir()
	data, marker := memberFiles(dir)
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(os.MkdirAll(data, 0o700))
	must(os.WriteFile(marker, []byte("old"), 0o600))
	must(writeJSON(joinFile(dir), joinOrder{}))
	made, next := data+".new", founding{ClusterID: 7, Recovery: 1}
	if err := enter(dir, made, next); err == nil {
		t.Fatal("a cluster that was never made is entered")
	}
	if _, err := os.Stat(marker); err != nil {
		t.Errorf("a member would begin anew without data: %v", err)
	}
	must(os.MkdirAll(made, 0o700))
	must(enter(dir, made, next))
	for _, gone := range []string{marker, made, joinFile(dir)} {
		if _, err := os.Stat(gone); !os.IsNotExist(err) {
			t.Errorf("%s is there: %v", gone, err)
		}
	}
	if got, err := readFounding(dir); err != nil || got.ClusterID != 7 {
		t.Errorf("it belongs to %+v, %v", got, err)
	}
}
