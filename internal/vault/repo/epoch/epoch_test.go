package epoch

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"holdfast/internal/vault/repo/format"
	"holdfast/internal/vault/repo/kepttest"
)

var day0 = time.Unix(1_800_000_000, 0)

// shelf is a place that is well: what it lists is what is there.
type shelf struct {
	mu       sync.Mutex
	now      time.Time
	blobs    map[string]Blob
	contents map[string]string
	onPut    func(name string) error
	onDelete error
	onList   error
	lists    int
}

func newShelf(names ...string) *shelf {
	s := &shelf{now: day0, blobs: map[string]Blob{}, contents: map[string]string{}}
	for _, name := range names {
		s.blobs[name] = Blob{Name: name, Size: 1, Time: day0}
	}
	return s
}

// set is what was made of several blobs, and of which; "" = nothing was.
func (s *shelf) set() (made string) {
	for name, content := range s.contents {
		made = strings.TrimSuffix(name, "hash-snew-c1") + "=" + content
	}
	return made
}

func (s *shelf) List(_ context.Context, prefix string, each func(Blob) error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lists++
	for name, b := range s.blobs {
		if strings.HasPrefix(name, prefix) {
			if err := each(b); err != nil {
				return err
			}
		}
	}
	return s.onList
}

func (s *shelf) Put(_ context.Context, name string, content []byte) error {
	if s.onPut != nil {
		if err := s.onPut(name); err != nil {
			return err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.blobs[name] = Blob{Name: name, Size: int64(len(content)), Time: s.now}
	s.contents[name] = string(content)
	return nil
}

func (s *shelf) Delete(_ context.Context, name string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.onDelete == nil {
		delete(s.blobs, name)
	}
	return s.onDelete
}

func (s *shelf) names() (out []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for name := range s.blobs {
		out = append(out, name)
	}
	slices.Sort(out)
	return out
}

// at gives a blob another time.
func (s *shelf) at(t time.Time, names ...string) *shelf {
	for _, name := range names {
		s.blobs[name] = Blob{Name: name, Size: 1, Time: t}
	}
	return s
}

// manager compacts by writing down what it was given.
func (s *shelf) manager() *Manager {
	compact := func(ctx context.Context, blobs []string, prefix string) error {
		return s.Put(ctx, prefix+"hash-snew-c1", []byte(strings.Join(blobs, " ")))
	}
	return New(s, modelParams(), compact, func() time.Time { s.mu.Lock(); defer s.mu.Unlock(); return s.now }, nil)
}

func current(t *testing.T, m *Manager) []string {
	t.Helper()
	c, err := m.Current(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return namesOf(c.Blobs)
}

func equal[T any](t *testing.T, got, want T) {
	t.Helper()
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
}

func TestWhichIndexesCount(t *testing.T) {
	for _, c := range []struct {
		name string
		have []string
		want []string
	}{
		{"nothing is there", nil, nil},
		{"all of the first two epochs, for a mark may lag behind", []string{"xn0_a", "xn1_b"}, []string{"xn0_a", "xn1_b"}},
		{"a set, and not what it stands for", []string{"xe2", "xn0_a", "xs0_h-s1-c1", "xn1_b", "xn2_c"}, []string{"xs0_h-s1-c1", "xn1_b", "xn2_c"}},
		{"what has no whole set", []string{"xe2", "xn0_a", "xs0_h-s1-c2", "xs0_h-s2-c2", "xs0_h-s3"}, []string{"xn0_a"}},
		{"all of a set, and of one only", []string{"xe2", "xs0_g-s2-c2", "xs0_h-s2-c2", "xs0_i-s3-c1", "xs0_k-s1-c2"}, []string{"xs0_g-s2-c2", "xs0_h-s2-c2"}},
		{"the longest chain of checkpoints, and then sets", []string{"xe12", "xr0_2_h-s1-c1", "xr3_6_h-s1-c1", "xr3_8_h-s1-c2", "xr8_9_h-s1-c1", "xs6_h-s1-c1", "xs7_h-s1-c1", "xn7_a", "xn8_a"},
			[]string{"xr0_2_h-s1-c1", "xr3_6_h-s1-c1", "xs7_h-s1-c1", "xn8_a"}},
		{"of chains that reach equally far the one with fewest parts", []string{"xr0_2_h-s1-c1", "xr3_6_h-s1-c1", "xr0_6_h-s1-c1"}, []string{"xr0_6_h-s1-c1"}},
		{"a checkpoint of one epoch", []string{"xe2", "xr0_0_h-s1-c1", "xn0_a", "xn1_b"}, []string{"xr0_0_h-s1-c1", "xn1_b"}},
		{"no checkpoint with a gap before it", []string{"xe5", "xr1_3_h-s1-c1", "xn0_a", "xn3_b"}, []string{"xn0_a", "xn3_b"}},
		{"a set whose mark was lost", []string{"xn7_a", "xs7_h-s1-c1", "xn8_b", "xn9_c"}, []string{"xs7_h-s1-c1", "xn8_b", "xn9_c"}},
		{"a checkpoint whose mark was lost", []string{"xr0_7_h-s1-c1", "xn7_a", "xn8_b", "xn10_c"}, []string{"xr0_7_h-s1-c1", "xn8_b", "xn10_c"}},
		{"nothing with a strange name", []string{"xe-1", "xe99999999999999999999", "xex", "xn_a", "xnx_b", "xr0_a_h-s1-c1", "xr2_0_h-s1-c1", "xr0", "xs0", "xn1_b", "xw", "xwx"}, []string{"xn1_b"}},
		{"many epochs without a set", append(many("xn%d_a", 40), "xe39", "xs20_h-s1-c1"), replaced(many("xn%d_a", 40), 20, "xs20_h-s1-c1")},
	} {
		t.Run(c.name, func(t *testing.T) {
			equal(t, current(t, newShelf(c.have...).manager()), c.want)
		})
	}
}

func many(form string, n int) (out []string) {
	for i := range n {
		out = append(out, fmt.Sprintf(form, i))
	}
	return out
}

func replaced(names []string, n int, by string) []string {
	names[n] = by
	return names
}

// What kopia wrote for us counts, all of it.
func TestTheIndexesOfTheKeptVaultCount(t *testing.T) {
	var have []string
	blobs := kepttest.Blobs(t)
	for name := range blobs {
		if strings.HasPrefix(name, "x") {
			have = append(have, name)
		}
	}
	f, err := format.Read(blobs["kopia.repository"], kepttest.Password)
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(have)
	s := newShelf(have...)
	m := New(s, Parameters(f.Epochs()), nil, func() time.Time { return day0 }, nil)
	equal(t, current(t, m), have)
	if len(have) != 10 {
		t.Errorf("the kept vault has %d indexes", len(have))
	}
}

func TestWhichEpochIsCompacted(t *testing.T) {
	for _, c := range []struct {
		name string
		have []string
		want string // the set; "" = nothing is compacted
	}{
		{"none that is not settled", []string{"xe1", "xn0_a", "xn1_b"}, ""},
		{"the oldest first", []string{"xe3", "xn0_a", "xn0_b", "xn1_b"}, "xs0_=xn0_a xn0_b"},
		{"none that has a set", []string{"xe3", "xs0_h-s1-c1", "xn0_a", "xn1_b"}, "xs1_=xn1_b"},
		{"one whose set is not whole", []string{"xe3", "xs0_h-s1-c2", "xn0_a"}, "xs0_=xn0_a"},
		{"none for which a checkpoint stands", []string{"xe6", "xr0_2_h-s1-c1", "xn1_a", "xn3_a"}, "xs3_=xn3_a"},
		// kopia issue #5371: epoch 3 was compacted, and its index blobs deleted in part. Made again, its set would say less.
		{"none that has a set, where older ones have none", []string{"xe8", "xr0_2_h-s1-c1", "xs0_h-s1-c1", "xs1_h-s1-c1", "xs3_h-s1-c1", "xn3_rest", "xn4_a"}, "xs4_=xn4_a"},
		{"none again when all have sets", []string{"xe5", "xr0_2_h-s1-c1", "xs0_h-s1-c1", "xs3_h-s1-c1", "xn3_rest", "xn4_a"}, ""},
		{"one in a gap between sets", []string{"xe8", "xs0_h-s1-c1", "xs2_h-s1-c1", "xn1_a"}, "xs1_=xn1_a"},
		{"one behind epochs that are empty", []string{"xe8", "xn3_a"}, "xs3_=xn3_a"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newShelf(c.have...)
			did, err := s.manager().CompactOne(t.Context())
			if err != nil || did != (c.want != "") {
				t.Fatalf("%v, %v", did, err)
			}
			equal(t, s.set(), c.want)
		})
	}
}

func TestWhichEpochsAreJoined(t *testing.T) {
	for _, c := range []struct {
		name string
		have []string
		want string
	}{
		{"none when they are few", []string{"xe3", "xn0_a", "xn1_a"}, ""},
		{"all that are settled", []string{"xe4", "xn0_a", "xs1_h-s1-c1", "xn1_a", "xn2_a", "xn3_a"}, "xr0_2_=xn0_a xs1_h-s1-c1 xn2_a"},
		{"those behind the checkpoints", []string{"xe7", "xr0_2_h-s1-c1", "xn2_a", "xn3_a", "xn5_a", "xn6_a"}, "xr3_5_=xn3_a xn5_a"},
		{"none when too few are behind them", []string{"xe6", "xr0_2_h-s1-c1", "xn3_a", "xn4_a"}, ""},
		{"none when they are empty", []string{"xe9"}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newShelf(c.have...)
			did, err := s.manager().MaybeCheckpoint(t.Context())
			if err != nil || did != (c.want != "") {
				t.Fatalf("%v, %v", did, err)
			}
			equal(t, s.set(), c.want)
		})
	}
}

func TestAnEpochEndsWhenItIsLongAndFull(t *testing.T) {
	day, p := 24*time.Hour, modelParams()
	for _, c := range []struct {
		name  string
		blobs []Blob
		want  bool
	}{
		{"empty", nil, false},
		{"long and full", []Blob{{"xn1_a", 1, day0}, {"xn1_b", 1, day0.Add(day)}}, true},
		{"not long", []Blob{{"xn1_a", 1, day0}, {"xn1_b", 1, day0.Add(day - 1)}, {"xn1_c", 1 << 30, day0}}, false},
		{"in another order", []Blob{{"xn1_a", 1, day0.Add(day)}, {"xn1_b", 1, day0}}, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newShelf("xe1", "xn0_a", "xn0_b")
			for _, b := range c.blobs {
				s.blobs[b.Name] = b
			}
			if err := s.manager().MaybeAdvance(t.Context()); err != nil {
				t.Fatal(err)
			}
			equal(t, s.contents["xe2"], map[bool]string{true: "epoch-marker"}[c.want])
		})
	}
	s := &state{loose: map[int][]Blob{0: {{"xn0_a", 1, day0}, {"xn0_b", 1 << 20, day0.Add(day)}}}}
	if p.EpochAdvanceOnCountThreshold = 3; !s.ended(p) {
		t.Error("a long epoch of many bytes goes on")
	}
	if s.loose[0][1].Size -= 2; s.ended(p) {
		t.Error("a long epoch of few bytes ends")
	}
}

func TestIndexesAreWrittenInTheOpenEpoch(t *testing.T) {
	s := newShelf("xe3")
	got, err := s.manager().WriteIndexes(t.Context(), map[string][]byte{"a-s1-c2": []byte("a"), "b-s1-c2": []byte("b")}, time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	equal(t, got, []string{"xn3_a-s1-c2", "xn3_b-s1-c2"})
	equal(t, s.contents, map[string]string{"xn3_a-s1-c2": "a", "xn3_b-s1-c2": "b"})
}

// Whoever opens epochs while index blobs are stored makes them late, by as much as time goes by.
func TestIndexesThatAreStoredLate(t *testing.T) {
	for _, c := range []struct {
		name    string
		took    time.Duration // the first of them
		opened  []string      // meanwhile
		want    []string      // of the index blobs of the writer
		tooSlow bool
	}{
		{"in the same epoch they count, however late", 40 * time.Hour, nil, []string{"xn3_a", "xn3_b"}, false},
		{"one epoch later they count", time.Hour, []string{"xe4"}, []string{"xn4_a", "xn4_b"}, false},
		{"one epoch and a day later they are stored anew", 25 * time.Hour, []string{"xe4"}, []string{"xn4_a", "xn4_b"}, false},
		{"the last of them one epoch later", 0, []string{"xe4"}, []string{"xn3_a", "xn3_b"}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newShelf("xe3")
			first := true
			s.onPut = func(string) error {
				if first {
					first = false
					s.now = s.now.Add(c.took)
					s.at(s.now, c.opened...)
				}
				return nil
			}
			got, err := s.manager().WriteIndexes(t.Context(), map[string][]byte{"a": nil, "b": nil}, time.Time{})
			if err != nil {
				t.Fatal(err)
			}
			equal(t, got, c.want)
			equal(t, slices.DeleteFunc(s.names(), func(n string) bool { return n[1] == 'e' }), c.want)
		})
	}
}

// The last index blob is in place after its epoch was settled: who reads may not find it, and the writer is told so.
func TestIndexesThatAreStoredTooLateAreAnError(t *testing.T) {
	by := day0.Add(12 * time.Hour)
	for _, denied := range []error{nil, errors.New("deleting is denied")} {
		s := newShelf("xe3")
		s.onDelete = denied
		s.onPut = func(string) error {
			s.now = s.now.Add(50 * time.Hour)
			s.at(s.now, "xe4", "xe5")
			return nil
		}
		if got, err := s.manager().WriteIndexes(t.Context(), map[string][]byte{"a": nil}, by); !errors.Is(err, ErrTooSlow) {
			t.Errorf("%v, %v", got, err)
		}
		if there := slices.Contains(s.names(), "xn3_a"); there != (denied != nil) {
			t.Errorf("it is still there: %v", there)
		}
	}
	s := newShelf("xe3")
	m := s.manager()
	s.now = by.Add(1)
	if got, err := m.WriteIndexes(t.Context(), map[string][]byte{"a": nil}, by); !errors.Is(err, ErrTooSlow) {
		t.Errorf("begun too late: %v, %v", got, err)
	}
	equal(t, s.names(), []string{"xe3"})
}

// sleepy is a shelf of a machine that sleeps when it has stored something.
type sleepy struct {
	*shelf
	sleep func()
}

func (s sleepy) Put(ctx context.Context, name string, content []byte) error {
	err := s.shelf.Put(ctx, name, content)
	s.sleep()
	return err
}

// A writer that sleeps when its index blob has arrived in time does not take it away when it wakes: others rely on it since.
func TestAnIndexThatArrivedInTimeStays(t *testing.T) {
	for _, c := range []struct {
		opened []string // while it sleeps
		want   error
	}{{[]string{"xe4", "xe5"}, ErrTooSlow}, {nil, nil}} {
		s := newShelf("xe3")
		m := s.manager()
		m.place = sleepy{s, func() { s.now = s.now.Add(50 * time.Hour); s.at(s.now, c.opened...) }}
		if got, err := m.WriteIndexes(t.Context(), map[string][]byte{"a": nil}, day0.Add(12*time.Hour)); !errors.Is(err, c.want) {
			t.Errorf("%d epochs later: %v, %v", len(c.opened), got, err)
		}
		if !slices.Contains(s.names(), "xn3_a") {
			t.Errorf("%d epochs later it was taken away", len(c.opened))
		}
	}
}

// An index blob under an epoch that is over stays until the one that takes its place is stored.
func TestAnIndexIsNotTakenAwayBeforeItIsStoredAnew(t *testing.T) {
	ill := errors.New("the place is ill")
	s := newShelf("xe3")
	puts := 0
	s.onPut = func(string) error {
		if puts++; puts > 1 {
			return ill
		}
		s.now = s.now.Add(25 * time.Hour)
		s.at(s.now, "xe4")
		return nil
	}
	if _, err := s.manager().WriteIndexes(t.Context(), map[string][]byte{"a": nil}, time.Time{}); !errors.Is(err, ill) {
		t.Error(err)
	}
	if !slices.Contains(s.names(), "xn3_a") {
		t.Error("it is gone, and nothing stands for it")
	}
}

func TestAPlaceThatIsNeverQuickEnoughIsAnError(t *testing.T) {
	s := newShelf()
	s.onPut = func(string) error {
		s.now = s.now.Add(13 * time.Hour)
		s.at(s.now, fmt.Sprintf("xe%d", s.now.Sub(day0)/(13*time.Hour)))
		return nil
	}
	if got, err := s.manager().WriteIndexes(t.Context(), map[string][]byte{"a": nil}, time.Time{}); err == nil {
		t.Errorf("stored as %q", got)
	}
}

func TestWhatThePlaceRefusesIsTold(t *testing.T) {
	ill := errors.New("the place is ill")
	s := newShelf("xe3", "xn0_a")
	s.onPut = func(string) error { return ill }
	m := s.manager()
	if _, err := m.WriteIndexes(t.Context(), map[string][]byte{"a": nil}, time.Time{}); !errors.Is(err, ill) {
		t.Errorf("write: %v", err)
	}
	if did, err := m.CompactOne(t.Context()); !errors.Is(err, ill) || did {
		t.Errorf("compact: %v, %v", did, err)
	}
	if err := m.AdvanceWatermark(t.Context(), day0); !errors.Is(err, ill) {
		t.Errorf("watermark: %v", err)
	}
	s.onList = ill
	if err := m.Refresh(t.Context()); !errors.Is(err, ill) {
		t.Errorf("refresh: %v", err)
	}
	p := modelParams()
	p.Enabled = false
	if err := New(s, p, nil, time.Now, nil).Refresh(t.Context()); !errors.Is(err, ErrDisabled) {
		t.Errorf("without epochs: %v", err)
	}
}

func TestTheWatermarkNeverGoesBack(t *testing.T) {
	s := newShelf("xw1000", "xw200", "xw-5", "xw7x")
	m := s.manager()
	for _, seconds := range []int64{999, 1000} {
		if err := m.AdvanceWatermark(t.Context(), time.Unix(seconds, 900_000_000)); err != nil {
			t.Fatal(err)
		}
	}
	equal(t, len(s.contents), 0)
	if err := m.AdvanceWatermark(t.Context(), time.Unix(1001, 5)); err != nil {
		t.Fatal(err)
	}
	equal(t, s.contents, map[string]string{"xw1001": "deletion-watermark"})
	c, err := m.Current(t.Context())
	if err != nil || !c.Watermark.Equal(time.Unix(1001, 0)) {
		t.Errorf("the watermark is %v, %v", c.Watermark, err)
	}
}

// Only what a set stands for that is older than the margin is deleted, by the place's clock.
func TestSupersededIndexesAreDeletedWhenTheirSetIsOld(t *testing.T) {
	s := newShelf("xe4", "xn0_a", "xn1_a", "xn2_a", "xs0_h-s1-c1").at(day0.Add(time.Minute), "xs1_h-s1-c1")
	s.at(day0.Add(4*time.Hour+30*time.Second), "xn4_now")
	m := s.manager()
	if err := m.CleanupSuperseded(t.Context()); err != nil {
		t.Fatal(err)
	}
	equal(t, s.names(), []string{"xe4", "xn1_a", "xn2_a", "xn4_now", "xs0_h-s1-c1", "xs1_h-s1-c1"})
	// By a checkpoint too, which must be whole and begin where the one before it ends.
	// Then the sets beneath it go as well, those that never were whole too.
	s = newShelf("xe9", "xn0_a", "xn1_a", "xn2_a", "xn4_a", "xn6_a", "xr0_1_h-s1-c1", "xr4_5_h-s1-c1", "xs0_h-s1-c2", "xs0_i-s1-c2", "xs1_h-s1-c2", "xs2_h-s1-c1", "xs4_h-s1-c1").at(day0.Add(time.Minute), "xr2_3_h-s1-c2")
	s.at(day0.Add(4*time.Hour+30*time.Second), "xn9_now")
	if err := s.manager().CleanupSuperseded(t.Context()); err != nil {
		t.Fatal(err)
	}
	equal(t, s.names(), []string{"xe9", "xn6_a", "xn9_now", "xr0_1_h-s1-c1", "xr2_3_h-s1-c2", "xr4_5_h-s1-c1", "xs2_h-s1-c1", "xs4_h-s1-c1"})
	// But not by one that is young.
	s = newShelf("xe5", "xn0_a", "xs0_h-s1-c1", "xs1_h-s1-c1").at(day0.Add(time.Minute), "xr0_1_h-s1-c1")
	s.at(day0.Add(4*time.Hour+30*time.Second), "xn5_now")
	if err := s.manager().CleanupSuperseded(t.Context()); err != nil {
		t.Fatal(err)
	}
	equal(t, s.names(), []string{"xe5", "xn5_now", "xr0_1_h-s1-c1", "xs0_h-s1-c1", "xs1_h-s1-c1"})
	s = newShelf("xe4", "xn0_a", "xs0_h-s1-c1") // no index blob of a writer tells the time
	s.now = day0.Add(1000 * time.Hour)
	if err := s.manager().CleanupSuperseded(t.Context()); err != nil {
		t.Fatal(err)
	}
	equal(t, len(s.names()), 3)
}

func TestOldMarksAreDeleted(t *testing.T) {
	s := newShelf("xe1", "xe2", "xe3", "xe4", "xw100", "xw300", "xwx", "xs3_h-s1-c1").at(day0.Add(time.Minute), "xw200")
	s.at(day0.Add(4*time.Hour+30*time.Second), "xn4_now")
	if err := s.manager().CleanupMarkers(t.Context()); err != nil {
		t.Fatal(err)
	}
	equal(t, s.names(), []string{"xe3", "xe4", "xn4_now", "xs3_h-s1-c1", "xw200", "xw300", "xwx"})
	s.at(day0, "xe1")
	s.onDelete = errors.New("denied")
	if err := s.manager().CleanupMarkers(t.Context()); !errors.Is(err, s.onDelete) {
		t.Errorf("%v", err)
	}
}

// A state is believed for a while and then read again; a list that takes longer than that is not believed at all.
func TestAStateIsReadAnewWhenItIsOld(t *testing.T) {
	s := newShelf("xn0_a")
	m := s.manager()
	current(t, m)
	lists := s.lists
	s.at(day0, "xn0_b")
	equal(t, current(t, m), []string{"xn0_a"})
	equal(t, s.lists, lists)
	s.now = s.now.Add(20*time.Minute + 1)
	equal(t, current(t, m), []string{"xn0_a", "xn0_b"})
	s.at(day0, "xn0_c")
	m.Invalidate()
	equal(t, current(t, m), []string{"xn0_a", "xn0_b", "xn0_c"})
	s.at(day0, "xn0_d")
	s.now = s.now.Add(-30 * 24 * time.Hour) // the clock was ahead
	equal(t, current(t, m), []string{"xn0_a", "xn0_b", "xn0_c", "xn0_d"})
	slow := New(s, modelParams(), nil, func() time.Time { s.now = s.now.Add(21 * time.Minute); return s.now }, nil)
	if err := slow.Refresh(t.Context()); err == nil {
		t.Error("a state was believed that was too old when it was there")
	}
}

// One manager serves many goroutines; the race detector looks on.
func TestManyUseOneManager(t *testing.T) {
	s := newShelf("xe3", "xn0_a", "xn1_a")
	m := s.manager()
	var all sync.WaitGroup
	for n := range 8 {
		all.Go(func() {
			if _, err := m.WriteIndexes(t.Context(), map[string][]byte{fmt.Sprint("g", n): nil}, time.Time{}); err != nil {
				t.Error(err)
			}
			if _, err := m.Current(t.Context()); err != nil {
				t.Error(err)
			}
			if _, err := m.CompactOne(t.Context()); err != nil {
				t.Error(err)
			}
			m.Invalidate()
		})
	}
	all.Wait()
	got := current(t, m)
	equal(t, len(got), 2+8)
	equal(t, got[:2], []string{"xs0_hash-snew-c1", "xs1_hash-snew-c1"})
}

// After years of days that all were compacted, a few blobs say all, and a few lists find them.
func TestAYearIsFewIndexes(t *testing.T) {
	s := newShelf()
	m := s.manager()
	for day := range 365 {
		for hour := range 3 {
			s.now = day0.Add(time.Duration(day*25+hour*12) * time.Hour)
			if _, err := m.WriteIndexes(t.Context(), map[string][]byte{fmt.Sprintf("day%d-%d", day, hour): nil}, time.Time{}); err != nil {
				t.Fatal(err)
			}
		}
		if err := upkeep(t.Context(), m); err != nil {
			t.Fatal(err)
		}
	}
	if err := m.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	before := s.lists
	if err := m.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	c, err := m.Current(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if c.WriteEpoch < 300 || len(c.Blobs) > 365/3+15 || s.lists-before > 10 {
		t.Errorf("in epoch %d, %d blobs count, found by %d lists", c.WriteEpoch, len(c.Blobs), s.lists-before)
	}
	for _, prefix := range []string{"xn", "xs"} {
		if left := strings.Count(strings.Join(s.names(), " "), prefix); left > 12 {
			t.Errorf("%d index blobs %s* are left", left, prefix)
		}
	}
}
