package backup

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"holdfast/internal/clock"
	"holdfast/internal/disktest"
	"holdfast/internal/redact"
	"holdfast/internal/vault"
	"holdfast/internal/vault/wal"
)

const sealedSize = 1 << 20

// vaultKeys are those of all tests' vaults: stretching each again takes a quarter of a second.
var vaultKeys vault.Keyring

func vaultOf(t *testing.T) *vault.Vault {
	t.Helper()
	v, err := vault.Create(t.Context(), vault.Config{URL: "file://" + filepath.Join(t.TempDir(), "vault"), Key: redact.Secret("k"), Keys: &vaultKeys, Application: "clinic", Host: "h1"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := v.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return v
}

// sealed puts segment n of a timeline of cluster 7 into a directory, with a content of its own, and gives its name.
func sealed(t *testing.T, v *vault.Vault, dir string, timeline uint32, n int) string {
	t.Helper()
	b := make([]byte, sealedSize)
	b[n] = 1
	name, raw, err := v.Log(7, sealedSize).Seal(timeline, wal.LSN(n)*sealedSize, b, time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, name), raw, 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

// One vault for all of them, for it takes a while to make: each works on timelines of its own.
func TestTheSecondPlaceIsBroughtIntoTheVault(t *testing.T) {
	v := vaultOf(t)
	t.Run("what cannot be brought holds nothing up", func(t *testing.T) { whatCannotBeBroughtHoldsNothingUp(t, v) })
	t.Run("a disk that is gone is one gap", func(t *testing.T) { aDiskThatIsGoneIsOneGap(t, v) })
	t.Run("nothing is stored ahead of what went there", func(t *testing.T) { nothingIsStoredAhead(t, v) })
	t.Run("half of the first place is emptied at once", func(t *testing.T) { halfIsEmptied(t, v) })
}

// What the second place does not give back, or the vault can never take, is tried for a while, told, and set aside; what
// follows it is brought all the same.
func whatCannotBeBroughtHoldsNothingUp(t *testing.T, v *vault.Vault) {
	timeline := uint32(10)
	cut := func(t *testing.T, at string) {
		if err := os.Truncate(at, 200); err != nil {
			t.Fatal(err)
		}
	}
	for name, c := range map[string]struct {
		spoil func(t *testing.T, at string)
		other bool // the vault holds other content there
		tries time.Duration
		aside int
	}{
		"one that is damaged":                  {spoil: cut, aside: 1},
		"one of which the vault holds another": {spoil: func(*testing.T, string) {}, other: true, aside: 1},
		"one that cannot be read": {spoil: func(t *testing.T, at string) {
			if err := errors.Join(os.Remove(at), os.Mkdir(at, 0o700)); err != nil {
				t.Fatal(err)
			}
		}, tries: unreadFor, aside: 1},
		"one that is gone": {spoil: func(t *testing.T, at string) {
			if err := os.Remove(at); err != nil {
				t.Fatal(err)
			}
		}, tries: unreadFor},
	} {
		t.Run(name, func(t *testing.T) {
			timeline++
			dir := filepath.Join(t.TempDir(), "second")
			if err := os.Mkdir(dir, 0o700); err != nil {
				t.Fatal(err)
			}
			var names []string
			for n := range 3 {
				names = append(names, sealed(t, v, dir, timeline, n))
			}
			if c.other {
				if err := v.Log(7, sealedSize).PutSegment(t.Context(), timeline, sealedSize, make([]byte, sealedSize), time.Time{}); err != nil {
					t.Fatal(err)
				}
			}
			var told []GapError
			r := &Receiver{o: ReceiverOptions{Database: "orders", Lost: func(g *GapError, _ error) { told = append(told, *g) }}}
			p := newSpill(dir, "", v)
			if err := p.take(); err != nil {
				t.Fatal(err)
			}
			if n := len(p.holds(7)); n != 3 || len(p.holds(8)) != 0 {
				t.Fatalf("%d segments of the cluster are there, %d of another", n, len(p.holds(8)))
			}
			c.spoil(t, filepath.Join(dir, names[1]))
			now, brought := time.Now(), 0
			drain := func() error {
				return p.drain(t.Context(), draining{more: func() bool { return true }, now: func() time.Time { return now },
					stored: func(wal.Held) { brought++ }, lost: func(object string, err error) { r.lostSpilled(object, sealedSize, err) }})
			}
			err := drain()
			if c.tries > 0 {
				if _, is := errors.AsType[*unreadError](err); !is || len(told) > 0 || brought != 1 {
					t.Fatalf("at once: %v, told %v, brought %d", err, told, brought)
				}
				if failed, _ := p.trouble(); failed == nil {
					t.Error("nothing is told of a place that gives nothing back")
				}
				now = now.Add(c.tries)
				err = drain()
			}
			if err != nil || brought != 2 || !p.empty() {
				t.Errorf("%v; brought %d, all: %v", err, brought, p.empty())
			}
			if want := (GapError{Database: "orders", Timeline: timeline, From: sealedSize, ToTimeline: timeline, To: 2 * sealedSize}); !slices.Equal(told, []GapError{want}) {
				t.Errorf("told is %v", told)
			}
			if aside, err := filepath.Glob(filepath.Join(dir, "*"+badSuffix)); err != nil || len(aside) != c.aside {
				t.Errorf("set aside: %v, %v", aside, err)
			}
		})
	}
}

// An unmounted disk holds nothing up for longer than one segment would, is one gap, and is looked at again.
func aDiskThatIsGoneIsOneGap(t *testing.T, v *vault.Vault) {
	dir := filepath.Join(t.TempDir(), "second")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	for n := range 3 {
		sealed(t, v, dir, 2, n)
	}
	var told []GapError
	r := &Receiver{o: ReceiverOptions{Lost: func(g *GapError, _ error) { told = append(told, *g) }}}
	p, now, brought := newSpill(dir, "", v), time.Now(), 0
	if err := p.take(); err != nil {
		t.Fatal(err)
	}
	drain := func() error {
		return p.drain(t.Context(), draining{more: func() bool { return true }, now: func() time.Time { return now },
			stored: func(wal.Held) { brought++ }, lost: func(object string, err error) { r.lostSpilled(object, sealedSize, err) }})
	}
	if err := os.Rename(dir, dir+".away"); err != nil {
		t.Fatal(err)
	}
	if err := drain(); err == nil {
		t.Error("a disk that is gone gave everything")
	}
	now = now.Add(unreadFor)
	if err := drain(); err != nil || !p.empty() {
		t.Errorf("what follows still waits: %v", err)
	}
	if last := told[len(told)-1]; len(told) != 3 || last.From != 0 || last.To != 3*sealedSize {
		t.Errorf("told is %v", told)
	}
	if _, again := p.trouble(); !again {
		t.Error("nobody looks at the disk again")
	}
	if err := p.take(); err != nil { // an empty directory in its place
		t.Fatal(err)
	}
	if err := errors.Join(os.Remove(dir), os.Rename(dir+".away", dir)); err != nil {
		t.Fatal(err)
	}
	if err := p.take(); err != nil {
		t.Fatal(err)
	}
	if err := drain(); err != nil || brought != 3 {
		t.Errorf("of the disk that is back %d were brought, %v", brought, err)
	}
}

// The spiller moves the oldest segment after the archiver has looked into the second place, and before it chooses.
func nothingIsStoredAhead(t *testing.T, v *vault.Vault) {
	dir := t.TempDir()
	q, err := openSpool(filepath.Join(t.TempDir(), "spool"), sealedSize, 1)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = q.close() }()
	if err := errors.Join(q.append(1, 0, make([]byte, 2*sealedSize), time.Now()), q.flush()); err != nil {
		t.Fatal(err)
	}
	p := newSpill(dir, "", v)
	if err := p.take(); err != nil {
		t.Fatal(err)
	}
	s := &stream{spool: q, spill: p, log: v.Log(7, sealedSize), segmentSize: sealedSize}
	if _, ok, again := s.choose(false); !ok || again {
		t.Fatalf("the oldest waits in the first place: %v, %v", ok, again)
	}
	oldest, _ := q.next(false)
	content, err := oldest.read()
	if err == nil {
		err = errors.Join(p.put(s.log, oldest, content, time.Time{}), q.stored(oldest))
	}
	if err != nil {
		t.Fatal(err)
	}
	if got, ok, again := s.choose(false); !ok || !again {
		t.Errorf("%+v is chosen (%v) though an older one is in the second place", got, ok)
	}
	if held := p.holds(7); len(held) != 1 || held[0].Start != 0 || held[0].End != sealedSize {
		t.Errorf("the second place holds %+v", held)
	}
}

// One segment for each look would be slower than a server that is loaded writes.
func halfIsEmptied(t *testing.T, v *vault.Vault) {
	q, err := openSpool(filepath.Join(t.TempDir(), "spool"), sealedSize, 4*sealedSize)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = q.close() }()
	if err := errors.Join(q.append(1, 0, make([]byte, 5*sealedSize), time.Now()), q.flush()); err != nil {
		t.Fatal(err)
	}
	p := newSpill(t.TempDir(), "", v)
	if err := p.take(); err != nil {
		t.Fatal(err)
	}
	s := &stream{r: &Receiver{o: ReceiverOptions{Clock: clock.Real()}}, spool: q, spill: p, log: v.Log(7, sealedSize), segmentSize: sealedSize}
	if !q.full() {
		t.Fatal("the first place has room")
	}
	if err := s.spillOldest(); err != nil {
		t.Fatal(err)
	}
	if n := p.waiting(); n != 3 || q.over(2*sealedSize) || s.r.Status().Released != 3*sealedSize {
		t.Errorf("%d segments went to the second place, up to %s", n, s.r.Status().Released)
	}
	select {
	case <-q.room:
	default:
		t.Error("nobody tells the reader that there is room")
	}
}

func TestHowFarTheServerIsToldToForget(t *testing.T) {
	for name, c := range map[string]struct {
		st   Status
		full bool
		want wal.LSN // of 1000 received, where the server keeps 400 besides
	}{
		"what the vault holds":                                   {Status{Told: 100, Archived: 900, Released: 900}, false, 900},
		"of what the second place holds, what is old":            {Status{Told: 100, Archived: 100, Released: 900}, false, 600},
		"no more than lies there":                                {Status{Told: 100, Archived: 100, Released: 300}, false, 300},
		"the same while the first place is full":                 {Status{Told: 100, Archived: 100, Released: 900}, true, 600},
		"all of it when the second place takes no more either":   {Status{Told: 100, Archived: 100, Released: 900, SpillError: "full"}, true, 900},
		"not while the first place has room":                     {Status{Told: 100, Archived: 100, Released: 900, SpillError: "full"}, false, 600},
		"and nothing of that is ever taken back":                 {Status{Told: 900, Archived: 100, Released: 900}, false, 900},
		"what an earlier run has told is not told otherwise now": {Status{Told: 850, Archived: 100, Released: 700}, false, 850},
	} {
		if got := mayForget(c.st, 1000, 400, c.full); got != c.want {
			t.Errorf("%s: %d, want %d", name, got, c.want)
		}
	}
}

func TestHowFarTheVaultItselfHoldsWhatTheSecondPlaceGoesOnWith(t *testing.T) {
	const size = sealedSize
	whole := func(n int) wal.Held {
		return wal.Held{Timeline: 1, Start: wal.LSN(n) * size, End: wal.LSN(n+1) * size}
	}
	history := wal.History{{Timeline: 1}}
	for name, c := range map[string]struct {
		held, there   []wal.Held
		vault, stream wal.LSN
	}{
		"the vault alone":                   {[]wal.Held{whole(1), whole(2)}, nil, 3 * size, 3 * size},
		"the second place goes on from it":  {[]wal.Held{whole(1), whole(2)}, []wal.Held{whole(3), whole(4)}, 3 * size, 5 * size},
		"some of it is in the vault by now": {[]wal.Held{whole(1), whole(2), whole(3)}, []wal.Held{whole(3), whole(4)}, 4 * size, 5 * size},
		"the vault holds nothing":           {nil, []wal.Held{whole(3), whole(4)}, 3 * size, 5 * size},
	} {
		if got := storedUpTo(history, c.held, c.there, 9*size, size); got != c.vault {
			t.Errorf("%s: the vault holds it up to %s, want %s", name, got, c.vault)
		}
		if _, got, _ := resume(history, slices.Concat(c.held, c.there), 9*size, size); got != c.stream {
			t.Errorf("%s: the server is asked from %s on, want %s", name, got, c.stream)
		}
	}
}

func TestTheSecondPlaceIsBroughtForAsLongAsTheStreamRunsAndALittleLonger(t *testing.T) {
	received := make(chan struct{})
	s := &stream{r: &Receiver{o: ReceiverOptions{Clock: stepClock{now: new(time.Time)}}}}
	at := s.r.o.Clock.(stepClock).now
	more := s.untilOver(received)
	*at = at.Add(time.Hour)
	if !more() {
		t.Error("it ends while the stream runs")
	}
	close(received)
	if !more() {
		t.Error("the stream has ended, and not even a little is brought")
	}
	*at = at.Add(drainFor)
	if more() {
		t.Error("it goes on though the stream has long ended")
	}
}

// A disk that is not mounted leaves its directory on the disk of the root, and that is not the disk of the first place.
func TestASecondPlaceOnTheDiskOfTheRootIsRefused(t *testing.T) {
	var root, here, memory unix.Stat_t
	const other = "/dev/shm"
	dir := t.TempDir()
	if err := errors.Join(unix.Stat("/", &root), unix.Stat(dir, &here), unix.Stat(other, &memory)); err != nil || root.Dev != here.Dev || memory.Dev == root.Dev {
		disktest.Cannot(t, "the test's directory is not on the disk of the root, or there is no other: %v", err)
	}
	err := newSpill(filepath.Join(dir, "second"), other, nil).take()
	if same, ok := errors.AsType[*SameDiskError](err); !ok || same.First != "/" || !strings.Contains(same.Error(), dir) {
		t.Errorf("on the disk of the root: %v", err)
	}
}

// stepClock stands still; nobody waits by it.
type stepClock struct {
	clock.Clock
	now *time.Time
}

func (c stepClock) Now() time.Time { return *c.now }
