package epoch

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// lagMax is how far the lists of the model lag behind: a list may lack what was stored, and hold what was deleted, since then.
const lagMax = time.Hour

var errFault = errors.New("the place is ill")

// version is one life of a blob.
type version struct {
	content     string    // numbers of entries, each with a blank behind it
	from, until time.Time // until zero = it is there
}

func (v version) livedAt(t time.Time) bool {
	return !v.from.After(t) && (v.until.IsZero() || v.until.After(t))
}

// world is a place with a few managers that use it at once. It is single-threaded: in the middle of what one does, before any
// of its steps, time may leap, or another does something. So a run is a function of what rapid draws.
type world struct {
	*rapid.T
	now       time.Time
	blobs     map[string][]version
	idle      []*Manager           // those that are not in the middle of something
	faults    bool                 // the place errs now and then
	written   int                  // entries so far
	committed map[string]time.Time // entries whose writer was told that they are stored, and when
}

func modelParams() Parameters {
	return Parameters{Enabled: true, EpochRefreshFrequency: 20 * time.Minute, FullCheckpointFrequency: 2, CleanupSafetyMargin: 4 * time.Hour,
		MinEpochDuration: 24 * time.Hour, EpochAdvanceOnCountThreshold: 2, EpochAdvanceOnTotalSizeBytesThreshold: 1 << 20, DeleteParallelism: 1}
}

func newWorld(t *rapid.T) *world {
	w := &world{T: t, now: time.Unix(1_800_000_000, 0), blobs: map[string][]version{}, committed: map[string]time.Time{}, faults: rapid.Bool().Draw(t, "faults")}
	for range 3 {
		w.idle = append(w.idle, w.manager())
	}
	return w
}

func (w *world) manager() *Manager {
	m := New(w, modelParams(), w.compact, func() time.Time { return w.now }, nil)
	m.lanes = 1
	return m
}

// step lets time go by, and others in between. It gives an error when the place is ill.
func (w *world) step() error {
	n := rapid.IntRange(0, 199).Draw(w.T, "step")
	switch {
	case n >= 196:
		w.now = w.now.Add(time.Duration(n-195) * 9 * time.Hour) // a machine slept
	case n >= 188 && len(w.idle) > 0:
		for range rapid.IntRange(1, 12).Draw(w.T, "actions in between") {
			w.act()
		}
	case n >= 186 && w.faults:
		return errFault
	default:
		w.now = w.now.Add(time.Duration(n) * time.Second)
	}
	return nil
}

func (w *world) act() {
	n, ctx := rapid.IntRange(0, len(w.idle)-1).Draw(w.T, "who"), context.Background()
	m, idle := w.idle[n], w.idle
	w.idle = slices.Delete(slices.Clone(idle), n, n+1)
	defer func() { w.idle = idle }()
	var err error
	switch what := rapid.SampledFrom([]string{"write", "write", "sleep", "compact", "advance", "upkeep", "join", "clean", "clean marks", "watermark", "refresh"}).Draw(w.T, "what"); what {
	case "write":
		w.write(m)
	case "sleep":
		w.now = w.now.Add(time.Duration(rapid.SampledFrom([]int{1, 5, 13, 25, 25}).Draw(w.T, "hours")) * time.Hour)
	case "compact":
		_, err = m.CompactOne(ctx)
	case "advance":
		err = m.MaybeAdvance(ctx)
	case "join":
		_, err = m.MaybeCheckpoint(ctx)
	case "clean":
		err = m.CleanupSuperseded(ctx)
	case "clean marks":
		err = m.CleanupMarkers(ctx)
	case "watermark":
		err = m.AdvanceWatermark(ctx, w.now.Add(-48*time.Hour))
	case "refresh":
		err = m.Refresh(ctx)
	case "upkeep":
		err = upkeep(ctx, m)
	}
	w.expected(err)
}

// upkeep is what a vault does by its schedule.
func upkeep(ctx context.Context, m *Manager) error {
	for range 5 {
		if did, err := m.CompactOne(ctx); err != nil || !did {
			break
		}
	}
	err := m.MaybeAdvance(ctx)
	_, joinErr := m.MaybeCheckpoint(ctx)
	return errors.Join(err, joinErr, m.CleanupSuperseded(ctx), m.CleanupMarkers(ctx))
}

// expected ends the run for errors that nothing explains.
func (w *world) expected(err error) {
	if err != nil && !errors.Is(err, errFault) && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, ErrTooSlow) && !strings.Contains(err.Error(), "longer than") {
		w.Fatal(err)
	}
}

func (w *world) write(m *Manager) {
	shards := map[string][]byte{}
	var entries []string
	for range rapid.IntRange(1, 2).Draw(w.T, "shards") {
		w.written++
		e := strconv.Itoa(w.written)
		entries = append(entries, e)
		shards["hash"+e+"-swriter-c1"] = []byte(e + " ")
	}
	if _, err := m.WriteIndexes(context.Background(), shards, time.Time{}); err != nil {
		w.expected(err)
		return
	}
	for _, e := range entries {
		w.committed[e] = w.now
	}
}

func (w *world) List(_ context.Context, prefix string, each func(Blob) error) error {
	if err := w.step(); err != nil {
		return err
	}
	dice := rand.New(rand.NewPCG(rapid.Uint64().Draw(w.T, "list"), 1))
	lag := lagMax * time.Duration(dice.IntN(4)) / 3
	for _, name := range slices.Sorted(maps.Keys(w.blobs)) {
		at := w.now
		if dice.IntN(2) == 0 {
			at = at.Add(-lag)
		}
		for _, v := range w.blobs[name] {
			if !strings.HasPrefix(name, prefix) || !v.livedAt(at) {
				continue
			}
			if err := each(Blob{Name: name, Size: int64(len(v.content)), Time: v.from}); err != nil {
				return err
			}
		}
	}
	return nil
}

// live is the version of a blob that is there, or nil.
func (w *world) live(name string) *version {
	if all := w.blobs[name]; len(all) > 0 && all[len(all)-1].until.IsZero() {
		return &all[len(all)-1]
	}
	return nil
}

func (w *world) Put(_ context.Context, name string, content []byte) error {
	err := w.step()
	if err == nil || rapid.Bool().Draw(w.T, "stored all the same") {
		if w.live(name) == nil {
			w.blobs[name] = append(w.blobs[name], version{content: string(content), from: w.now})
		}
	}
	return err
}

func (w *world) Delete(_ context.Context, name string) error {
	if err := w.step(); err != nil {
		return err
	}
	if v := w.live(name); v != nil {
		v.until = w.now
	}
	return nil
}

func (w *world) read(name string) (string, error) {
	if v := w.live(name); v != nil {
		return v.content, nil
	}
	return "", fmt.Errorf("read %s: %w", name, fs.ErrNotExist)
}

// compact writes what the blobs hold as a set of one blob or two, and may be killed between them.
func (w *world) compact(ctx context.Context, blobs []string, prefix string) error {
	var all []string
	for _, name := range blobs {
		if err := w.step(); err != nil {
			return err
		}
		content, err := w.read(name)
		if err != nil {
			return err
		}
		all = append(all, strings.Fields(content)...)
	}
	set := rapid.Uint64().Draw(w.T, "set")
	half := rapid.IntRange(0, len(all)).Draw(w.T, "half")
	parts := [][]string{all[:half], all[half:]}
	if half == 0 {
		parts = parts[1:]
	}
	for n, part := range parts {
		name := fmt.Sprintf("%shash%d-s%d-c%d", prefix, n, set, len(parts))
		if err := w.Put(ctx, name, []byte(strings.Join(part, " ")+" ")); err != nil {
			return err
		}
	}
	return nil
}

// seen is what somebody finds who opens the repository now.
func (w *world) seen() map[string]bool {
	defer func(faults bool, idle []*Manager) { w.faults, w.idle = faults, idle }(w.faults, w.idle)
	w.faults, w.idle = false, nil // nobody comes in between
	for range 20 {
		current, err := w.manager().Current(context.Background())
		if err != nil {
			w.expected(err)
			continue
		}
		seen, whole := map[string]bool{}, true
		for _, b := range current.Blobs {
			content, err := w.read(b.Name)
			whole = whole && err == nil
			for _, e := range strings.Fields(content) {
				seen[e] = true
			}
		}
		if whole {
			return seen
		}
		w.now = w.now.Add(lagMax) // a list held what is deleted
	}
	w.Fatal("the repository cannot be opened")
	return nil
}

// check opens the repository, and looks for every entry that any list must have shown by then.
func (w *world) check() {
	before := w.now.Add(-lagMax)
	seen := w.seen()
	for e, at := range w.committed {
		if at.Before(before) && !seen[e] {
			w.Fatalf("entry %s, committed %v ago, is invisible; there are %q", e, w.now.Sub(at), w.names())
		}
	}
}

func (w *world) names() (out []string) {
	for name := range w.blobs {
		if w.live(name) != nil {
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return out
}

// No entry of which a writer was told that it is stored is ever invisible to whoever refreshes later, whatever others write, compact,
// join and delete meanwhile, however slowly, and though lists lag.
func TestNoEntryIsEverInvisible(t *testing.T) {
	compacted, joined := 0, 0
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld(t)
		for range rapid.IntRange(1, 100).Draw(t, "actions") {
			w.act()
			if rapid.IntRange(0, 9).Draw(t, "check") < 4 {
				w.check()
			}
		}
		w.now = w.now.Add(2 * lagMax)
		w.check()
		for _, name := range w.names() {
			if strings.HasPrefix(name, singles) {
				compacted++
			}
			if strings.HasPrefix(name, checkpoints) {
				joined++
			}
		}
	})
	if compacted == 0 || joined == 0 {
		t.Errorf("the model came to %d sets and %d checkpoints: it proves nothing", compacted, joined)
	}
	t.Logf("%d blobs of sets, %d of checkpoints", compacted, joined)
}
