package vault_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"holdfast/internal/clock"
	"holdfast/internal/vault"
	"holdfast/internal/vault/wal"
)

// ahead is an hour ahead, so that nothing counts as on its way.
type ahead struct{}

func (ahead) Now() time.Time { return time.Now().Add(time.Hour) }

func (ahead) NewTimer(d time.Duration) clock.Timer { return clock.Real().NewTimer(d) }

func scrub(t *testing.T, v *vault.Vault) vault.Scrubbed {
	t.Helper()
	s, err := v.Scrub(t.Context(), vault.ScrubOptions{Clock: ahead{}})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// files lists what lies in a directory below a folder, oldest names first.
func files(t *testing.T, dir, below string) []string {
	t.Helper()
	var out []string
	err := filepath.WalkDir(filepath.Join(dir, below), func(p string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			out = append(out, p)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(out)
	return out
}

func biggest(t *testing.T, dir, below string) string {
	t.Helper()
	best, size := "", int64(-1)
	for _, f := range files(t, dir, below) {
		fi, err := os.Stat(f)
		if err != nil {
			t.Fatal(err)
		}
		if fi.Size() > size {
			best, size = f, fi.Size()
		}
	}
	return best
}

// spoil changes a file and gives what it held.
func spoil(t *testing.T, file, how string) []byte {
	t.Helper()
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	bad := slices.Clone(raw)
	switch how {
	case "a flipped bit":
		bad[len(bad)/2] ^= 1
	case "cut short":
		bad = bad[:len(bad)/2]
	case "emptied":
		bad = nil
	case "lost":
		if err := os.Remove(file); err != nil {
			t.Fatal(err)
		}
		return raw
	}
	if err := os.WriteFile(file, bad, 0o600); err != nil {
		t.Fatal(err)
	}
	return raw
}

// Whatever happens to a blob of one copy is found by one scrub and mended from the other, in both directions, and a
// whole blob is never replaced.
func TestScrubFindsAndRepairMends(t *testing.T) {
	conf, home, away := pair(t)
	v := createIn(t, place{home, conf})
	small := map[string][]byte{"pgdata/PG_VERSION": []byte("15\n"), "pgdata/base/5/1": sample()["pgdata/base/5/1"][:70_000]}
	b := store(t, v, small)
	if err := v.Log(7, 1<<20).PutSegment(t.Context(), 1, 0, make([]byte, 1<<20), time.Unix(9, 0)); err != nil {
		t.Fatal(err)
	}
	v2 := openAll(t, conf)
	syncAll(t, v2)
	if s := scrub(t, v2); len(s.Damage()) > 0 || s.Blobs == 0 || s.Ended.IsZero() {
		t.Fatalf("a whole vault: %+v", s)
	}
	whole := map[string]map[string]string{home: fingerprint(t, home), away: fingerprint(t, away)}
	for what, below := range map[string]string{"a pack": "repository/p", "an index": "repository/x", "a segment": "wal", "vault.json": "vault.json", "the format": "repository/kopia.repository.f", "the catalog": "catalog"} {
		for _, how := range []string{"a flipped bit", "cut short", "emptied", "lost"} {
			for name, dir := range map[string]string{"home": home, "away": away} {
				t.Run(fmt.Sprintf("%s of copy %s, %s", what, name, how), func(t *testing.T) {
					file := biggest(t, dir, below)
					spoil(t, file, how)
					s := scrub(t, v2)
					damage := s.Damage()
					if len(damage) != 1 || damage[0].Copy != name || !slices.Equal(damage[0].GoodIn, others(name)) {
						t.Fatalf("found %+v", damage)
					}
					before := fingerprint(t, dir)
					if _, err := v2.Repair(t.Context(), damage, true); err != nil || !cmp.Equal(before, fingerprint(t, dir)) {
						t.Errorf("a dry run changed something, or %v", err)
					}
					done, err := v2.Repair(t.Context(), damage, false)
					if err != nil || len(done) != 1 || !done[0].Done {
						t.Fatalf("mended %+v, %v", done, err)
					}
					if d := cmp.Diff(whole[dir], fingerprint(t, dir)); d != "" {
						t.Error(d)
					}
					// A second time there is nothing to mend, and nothing is.
					again, err := v2.Repair(t.Context(), damage, false)
					if err != nil || again[0].Done {
						t.Errorf("mended again: %+v, %v", again, err)
					}
				})
			}
		}
	}
	if got, err := fetch(t.Context(), v2, b.ID); err != nil || !cmp.Equal(got, small) {
		t.Errorf("afterwards: %v", err)
	}
}

func others(name string) []string {
	if name == "home" {
		return []string{"away"}
	}
	return []string{"home"}
}

// A pack that no copy has: what it takes with it is named, and the next backup stores it again, which makes the old
// backup whole too.
func TestALostPackIsNamedAndStoredAgain(t *testing.T) {
	v, dir := create(t)
	b := store(t, v, sample())
	pack := biggest(t, dir, "repository/p")
	spoil(t, pack, "lost")
	s := scrub(t, v)
	lost := s.Lost()
	if len(lost) != 1 || !strings.HasPrefix(lost[0], "repository/p") {
		t.Fatalf("lost %v: %+v", lost, s.Findings)
	}
	hurt, err := v.Affected(t.Context(), lost)
	if err != nil || !slices.ContainsFunc(hurt, func(a vault.Affected) bool { return a.Backup == b.ID && a.Path == "pgdata/base/5/1" }) {
		t.Errorf("affected %+v, %v", hurt, err)
	}
	if _, err := fetch(t.Context(), v, b.ID); err == nil {
		t.Fatal("a backup without its pack is read")
	}
	if n, err := v.GiveUp(t.Context(), lost); err != nil || n == 0 {
		t.Fatalf("gave up %d, %v", n, err)
	}
	second := store(t, v, sample())
	for _, id := range []string{b.ID, second.ID} {
		if got, err := fetch(t.Context(), v, id); err != nil || differ(sample(), got) != "" {
			t.Errorf("%s: %v", id, err)
		}
	}
	if s := scrub(t, v); len(s.Damage()) > 0 {
		t.Errorf("still %+v", s.Damage())
	}
}

// A clean-up marks chunks that no listed backup uses, and takes the marks away at its next look where one does. Between the two that
// backup can be read: no blob that is lost elsewhere affects it, and those that it needs are told as ever.
func TestABackupWhoseChunksAreMarkedCanBeRead(t *testing.T) {
	v, dir := create(t)
	b := store(t, v, sample())
	if err := v.MarkData(t.Context()); err != nil {
		t.Fatal(err)
	}
	spoil(t, biggest(t, dir, "repository/p"), "lost")
	pack := scrub(t, v).Lost()
	if len(pack) != 1 {
		t.Fatalf("lost %v", pack)
	}
	for _, lost := range []string{"repository/p00", pack[0]} {
		hurt, err := v.Affected(t.Context(), []string{lost})
		wrong := func(a vault.Affected) bool { return a.Backup != b.ID || a.Blob != pack[0] }
		if err != nil || len(hurt) > 0 != (lost == pack[0]) || slices.ContainsFunc(hurt, wrong) {
			t.Errorf("%s affects %+v, %v", lost, hurt, err)
		}
	}
}

// Log and indexes that are lost, and that nothing needs, are settled too; what a backup needs stays lost.
func TestWhatIsLostAndNotNeededIsSettled(t *testing.T) {
	v, dir := create(t)
	log := v.Log(7, 1<<20)
	for seg := range wal.LSN(3) {
		if err := log.PutSegment(t.Context(), 1, seg<<20, make([]byte, 1<<20), time.Unix(1, 0)); err != nil {
			t.Fatal(err)
		}
	}
	held, err := log.Held(t.Context())
	if err != nil || len(held) != 3 {
		t.Fatal(held, err)
	}
	w, err := v.Begin(t.Context(), "test")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Commit(vault.Backup{Database: "orders", Kind: "full", SystemID: 7, Timeline: 1, Start: 1<<20 + 40, Stop: 1<<20 + 80, SegmentSize: 1 << 20}); err != nil {
		t.Fatal(err)
	}
	if _, err := v.GiveUp(t.Context(), []string{held[0].Object}); err == nil {
		t.Error("log that is there was given up")
	}
	for _, p := range held[:2] {
		spoil(t, filepath.Join(dir, p.Object), "lost")
	}
	lost := scrub(t, v).Lost()
	if len(lost) != 2 {
		t.Fatalf("lost %v", lost)
	}
	if _, err := v.GiveUp(t.Context(), append(lost, "vault.json")); err == nil {
		t.Error("what makes it a vault was given up")
	}
	if _, err := v.GiveUp(t.Context(), lost); err == nil || !strings.Contains(err.Error(), held[1].Object) || strings.Contains(err.Error(), held[0].Object) {
		t.Errorf("given up with %v", err)
	}
	if lost := scrub(t, v).Lost(); !slices.Equal(lost, []string{held[1].Object}) {
		t.Errorf("still lost %v, want what a backup needs", lost)
	}
	for _, index := range files(t, dir, "repository/x") {
		whole := spoil(t, index, "lost")
		other := reopened(t, dir)
		lost := slices.DeleteFunc(scrub(t, other).Lost(), func(n string) bool { return n == held[1].Object })
		if len(lost) != 1 {
			t.Fatalf("lost %v, want an index", lost)
		}
		if _, err := other.GiveUp(t.Context(), lost); err == nil {
			t.Errorf("%s is needed, and was given up", lost[0])
		}
		if err := os.WriteFile(index, whole, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func TestAWholePackIsNeverGivenUp(t *testing.T) {
	v, dir := create(t)
	store(t, v, sample())
	rel, err := filepath.Rel(filepath.Join(dir, "repository"), biggest(t, dir, "repository/p"))
	if err != nil {
		t.Fatal(err)
	}
	name := "repository/" + strings.ReplaceAll(strings.TrimSuffix(filepath.ToSlash(rel), ".f"), "/", "")
	if n, err := v.GiveUp(t.Context(), []string{name}); err == nil || n > 0 {
		t.Errorf("gave up %d, %v", n, err)
	}
}

// A scrub goes on where it was, needs no right to write, and its outcome is noted apart from it.
func TestAScrubGoesOnWhereItWas(t *testing.T) {
	v, dir := create(t)
	store(t, v, sample())
	conf := config(dir)
	conf.ReadOnly = true
	reading := openAll(t, conf)
	before := fingerprint(t, dir)
	stop := errors.New("enough")
	var half vault.Scrubbed
	ctx, cancel := context.WithCancelCause(t.Context())
	_, err := reading.Scrub(ctx, vault.ScrubOptions{Clock: ahead{}, Progress: func(s vault.Scrubbed) {
		if s.Blobs == 3 {
			half = s
			cancel(stop)
		}
	}})
	if !errors.Is(err, stop) || half.After == "" {
		t.Fatalf("ended with %v after %q", err, half.After)
	}
	seen := 0
	rest, err := reading.Scrub(t.Context(), vault.ScrubOptions{Clock: ahead{}, Resume: &half, Progress: func(vault.Scrubbed) { seen++ }})
	if err != nil || rest.Blobs != rest.Of || seen != rest.Of-3 {
		t.Errorf("read %d of %d, %d of them in the second run: %v", rest.Blobs, rest.Of, seen, err)
	}
	if d := cmp.Diff(before, fingerprint(t, dir)); d != "" {
		t.Error(d)
	}
	if err := reading.RecordScrub(t.Context(), rest); !errors.Is(err, vault.ErrReadOnly) {
		t.Errorf("noted by who only reads: %v", err)
	}
	if err := v.RecordScrub(t.Context(), rest); err != nil {
		t.Fatal(err)
	}
	if r, err := reading.LastScrub(t.Context()); err != nil || r.Blobs != rest.Blobs || r.Damage != 0 || !r.At.Equal(rest.Ended) {
		t.Errorf("noted %+v, %v", r, err)
	}
}

// An interrupted scrub is not gone on with when that would count as read what nobody has read, or not for long.
func TestAScrubBeginsAnewWhenTheOldOneSaysTooLittle(t *testing.T) {
	conf, home, _ := pair(t)
	v := createIn(t, place{home, conf})
	store(t, v, sample())
	syncAll(t, v)
	begin := func(v *vault.Vault) vault.Scrubbed {
		t.Helper()
		var half vault.Scrubbed
		ctx, cancel := context.WithCancelCause(t.Context())
		stop := errors.New("enough")
		_, err := v.Scrub(ctx, vault.ScrubOptions{Clock: ahead{}, Progress: func(s vault.Scrubbed) {
			if half.After == "" && s.Blobs >= 3 {
				half = s
				cancel(stop)
			}
		}})
		if !errors.Is(err, stop) || half.After == "" {
			t.Fatalf("ended with %v after %q", err, half.After)
		}
		return half
	}
	resume := func(v *vault.Vault, half vault.Scrubbed) (rest vault.Scrubbed, anew bool) {
		t.Helper()
		read := 0
		rest, err := v.Scrub(t.Context(), vault.ScrubOptions{Clock: ahead{}, Resume: &half, Progress: func(s vault.Scrubbed) {
			if read == 0 {
				read = s.Blobs
			}
		}})
		if err != nil {
			t.Fatal(err)
		}
		return rest, read < half.Blobs
	}
	both := begin(v)
	if _, anew := resume(v, both); anew {
		t.Error("a young one began anew")
	}
	old := both
	old.Began = old.Began.Add(-73 * time.Hour)
	if _, anew := resume(v, old); !anew {
		t.Error("one of three days ago was gone on with")
	}
	without := conf
	without.Others = []vault.Place{{Copy: "away", URL: "file:///nowhere/at/all", Filled: true}}
	one := openAll(t, without)
	if rest, anew := resume(one, both); !anew || len(rest.Away) != 1 {
		t.Errorf("with one copy of two: anew %v, away %v", anew, rest.Away)
	}
	if rest, anew := resume(v, begin(one)); !anew || len(rest.Away) != 0 || rest.Blobs != rest.Of {
		t.Errorf("what one copy was read for counts for two: anew %v, %d of %d read", anew, rest.Blobs, rest.Of)
	}
	rest, _ := resume(v, both)
	if err := v.RecordScrub(t.Context(), rest); err != nil {
		t.Fatal(err)
	}
	if _, anew := resume(v, both); !anew {
		t.Error("one that began before the last whole scrub was gone on with")
	}
}
