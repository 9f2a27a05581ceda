package vault_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"holdfast/internal/backup"
	"holdfast/internal/backup/retention"
	"holdfast/internal/restore"
	"holdfast/internal/vault"
	"holdfast/internal/vault/filestore"
	stores "holdfast/internal/vault/store"
	"holdfast/internal/vault/wal"
)

// memory is a place that dates what is stored by the clock of a synctest bubble.
type memory struct {
	calls atomic.Int64 // requests of any kind
	bytes atomic.Int64 // stored and read

	mu    sync.Mutex // guards what follows
	blobs map[string]kept
}

type kept struct {
	data []byte
	at   time.Time
}

func (m *memory) Put(_ context.Context, name string, data stores.Data) error {
	raw, err := io.ReadAll(data.Reader())
	m.asked(len(raw))
	m.mu.Lock()
	defer m.mu.Unlock()
	if old, ok := m.blobs[name]; ok && err == nil && !bytes.Equal(old.data, raw) {
		return stores.ErrDiffers
	} else if !ok && err == nil {
		m.blobs[name] = kept{raw, time.Now()}
	}
	return err
}

func (m *memory) Replace(_ context.Context, name string, data stores.Data) error {
	raw, err := io.ReadAll(data.Reader())
	m.asked(len(raw))
	m.mu.Lock()
	defer m.mu.Unlock()
	m.blobs[name] = kept{raw, time.Now()}
	return err
}

func (m *memory) Get(_ context.Context, name string, offset, length int64, to io.Writer) error {
	m.mu.Lock()
	b, ok := m.blobs[name]
	m.mu.Unlock()
	if !ok {
		return stores.ErrNotFound
	}
	if length < 0 {
		length = int64(len(b.data)) - offset
	}
	if offset+length > int64(len(b.data)) {
		return stores.ErrShort
	}
	m.asked(int(length))
	_, err := to.Write(b.data[offset : offset+length])
	return err
}

func (m *memory) Stat(_ context.Context, name string) (stores.Info, error) {
	m.asked(0)
	m.mu.Lock()
	defer m.mu.Unlock()
	b, ok := m.blobs[name]
	if !ok {
		return stores.Info{}, stores.ErrNotFound
	}
	return stores.Info{Name: name, Size: int64(len(b.data)), ModTime: b.at}, nil
}

func (m *memory) List(_ context.Context, prefix string, each func(stores.Info) error) error {
	m.asked(0)
	m.mu.Lock()
	var all []stores.Info
	for n, b := range m.blobs {
		if strings.HasPrefix(n, prefix) {
			all = append(all, stores.Info{Name: n, Size: int64(len(b.data)), ModTime: b.at})
		}
	}
	m.mu.Unlock()
	for _, i := range all {
		if err := each(i); err != nil {
			return err
		}
	}
	return nil
}

func (m *memory) Names(_ context.Context, dir string) ([]string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	found := map[string]bool{}
	if dir != "" {
		dir += "/"
	}
	for n := range m.blobs {
		if rest, ok := strings.CutPrefix(n, dir); ok {
			first, _, _ := strings.Cut(rest, "/")
			found[first] = true
		}
	}
	var out []string
	for n := range found {
		out = append(out, n)
	}
	return out, nil
}

func (m *memory) Delete(_ context.Context, name string) error {
	m.asked(0)
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.blobs, name)
	return nil
}

// asked notes one request that moved so many bytes.
func (m *memory) asked(bytes int) {
	m.calls.Add(1)
	m.bytes.Add(int64(bytes))
}

func (*memory) Address() string { return "memory" }

// count is how many blobs have names that begin so.
func (m *memory) count(prefix string) (n int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for name := range m.blobs {
		if strings.HasPrefix(name, prefix) {
			n++
		}
	}
	return n
}

// hourly is a database that is backed up every hour, and archives three segments in each.
type hourly struct {
	*testing.T
	v     *vault.Vault
	place *memory
	hours int

	calls, moved int64 // requests and bytes of the backups of this month
}

func (y *hourly) must(err error) {
	y.Helper()
	if err != nil {
		y.Fatalf("hour %d: %v", y.hours, err)
	}
}

// live passes an hour.
func (y *hourly) live() {
	y.hours++
	l, at := y.v.Log(7, bundleSize), wal.LSN(y.hours*3*bundleSize)
	content := make([]byte, bundleSize)
	for n := range wal.LSN(3) {
		binary.BigEndian.PutUint64(content, uint64(at+n))
		y.must(l.PutSegment(y.Context(), 1, at+n*bundleSize, content, time.Now()))
	}
	calls, moved := y.place.calls.Load(), y.place.bytes.Load()
	w, err := y.v.Begin(y.Context(), "year")
	y.must(err)
	for n := range 40 {
		last := y.hours - (y.hours-n+400)%40 // each of them changes every 40 hours
		f := w.File(vault.Entry{Path: fmt.Sprintf("pgdata/base/5/%d", n), Mode: 0o600})
		_, err := f.Write(bytes.Repeat(binary.BigEndian.AppendUint64(nil, uint64(last*100+n)), 4096))
		y.must(err)
		y.must(f.Keep())
	}
	b, err := w.Commit(vault.Backup{
		Database: "orders", Kind: "full", SystemID: 7, Timeline: 1, Start: at + 100, Stop: at + bundleSize,
		Started: time.Now().Add(-time.Minute), Stopped: time.Now(), ServerVersion: 150018, SegmentSize: bundleSize,
	})
	y.must(err)
	y.calls, y.moved = y.calls+y.place.calls.Load()-calls, y.moved+y.place.bytes.Load()-moved
	y.must(y.v.Mark(y.Context(), b.ID, vault.Validation{At: time.Now(), Passed: true}))
	y.must(l.PutCovered(y.Context(), 1, at+3*bundleSize, time.Now()))
	if y.hours%6 == 0 {
		_, err := y.v.Compact(y.Context(), func(context.Context) error { return nil })
		y.must(err)
		_, err = y.v.BundleLogs(y.Context(), vault.BundleOptions{})
		y.must(err)
	}
	if y.hours%24 == 0 {
		_, err := backup.Prune(y.Context(), backup.PruneOptions{Vault: y.v, Database: "orders", Policy: retention.Policy{}, Now: time.Now(), By: "h1"})
		y.must(err)
		_, err = y.v.Reclaim(y.Context(), vault.ReclaimOptions{})
		y.must(err)
	}
	time.Sleep(time.Hour)
}

// opened is what a process of its own saw of a vault.
type opened struct {
	Open, List, Load, Compare time.Duration
	CPU                       time.Duration // of the whole process
	Backups, Pieces           int
	Indexes, Log              int   // objects of either kind
	Peak                      int64 // bytes resident at most
	Calls, Moved              int64 // requests and bytes of one backup, on average in the month before
}

const openedEnv = "HOLDFAST_TEST_OPENS"

// A year of hourly backups with their log, looked after as hosts do it, leaves a vault that opens as quickly as in its first
// weeks, within bounds that do not grow. It takes minutes: HOLDFAST_LAB=all.
func TestAVaultOpensQuicklyAfterAYear(t *testing.T) {
	if dir := os.Getenv(openedEnv); dir != "" {
		openAndTell(t, dir)
		return
	}
	const hours = 8760
	if os.Getenv("HOLDFAST_LAB") != "all" {
		t.Skip("it takes minutes: HOLDFAST_LAB=all")
	}
	place := &memory{blobs: map[string]kept{}}
	var saw []opened
	synctest.Test(t, func(t *testing.T) {
		v, err := vault.Create(t.Context(), config("").In(place))
		if err != nil {
			t.Fatal(err)
		}
		y := &hourly{T: t, v: v, place: place}
		for y.hours < hours {
			y.live()
			if y.hours%(hours/12) == 0 {
				o := measureOpen(t, place)
				o.Calls, o.Moved = y.calls/(hours/12), y.moved/(hours/12)
				y.calls, y.moved = 0, 0
				saw = append(saw, o)
				t.Logf("after %d hours: %+v", y.hours, saw[len(saw)-1])
			}
		}
		if err := v.Close(t.Context()); err != nil {
			t.Error(err)
		}
	})
	first, last := saw[0], saw[len(saw)-1]
	if last.Indexes > 800 || last.Indexes > first.Indexes*3/2 {
		t.Errorf("%d indexes, and %d after a month", last.Indexes, first.Indexes)
	}
	if last.Log > 1000 {
		t.Errorf("the log lies in %d objects", last.Log)
	}
	if last.Peak > 512<<20 || last.Peak > first.Peak*3/2 {
		t.Errorf("opening takes %d MiB, and %d after a month", last.Peak>>20, first.Peak>>20)
	}
	// A large part of the catalog is written again once in some months, in one of them or in another: the backups of the whole year
	// count. They may move more than those of the first month by as much as the logarithm of their number grows.
	var calls, moved int64
	for _, month := range saw {
		calls, moved = calls+month.Calls, moved+month.Moved
	}
	calls, moved = calls/int64(len(saw)), moved/int64(len(saw))
	grown := math.Log(hours) / math.Log(hours/12)
	if calls > first.Calls*6/5 || float64(moved) > float64(first.Moved)*grown {
		t.Errorf("a backup takes %d requests and %d bytes, and in the first month %d and %d", calls, moved, first.Calls, first.Moved)
	}
	if last.CPU > 5*time.Second { // on a machine with nothing else to do it takes no longer than that
		t.Errorf("opening and listing takes %s", last.CPU)
	}
}

// measureOpen puts a vault on the disk and lets another process open it: in there the clock is real.
func measureOpen(t *testing.T, place *memory) opened {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "vault")
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(os.Mkdir(dir, 0o700))
	to, err := filestore.Open(dir)
	must(err)
	for name, b := range place.blobs {
		if path.Dir(name) != "." || slices.Contains([]string{"vault.json", "kopia.repository.copy"}, name) {
			must(to.Put(t.Context(), name, stores.Bytes(b.data)))
		}
	}
	cmd := exec.Command(os.Args[0], "-test.run=^TestAVaultOpensQuicklyAfterAYear$", "-test.v")
	cmd.Env = append(os.Environ(), openedEnv+"="+dir)
	said, err := cmd.CombinedOutput()
	must(err)
	var o opened
	for line := range strings.Lines(string(said)) {
		if text, ok := strings.CutPrefix(strings.TrimSpace(line), "opened "); ok {
			must(json.Unmarshal([]byte(text), &o))
		}
	}
	if o.Backups == 0 || o.Pieces == 0 {
		t.Fatalf("the other process says %s", said)
	}
	must(os.RemoveAll(dir))
	o.CPU = cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
	o.Indexes, o.Log = place.count("repository/x"), place.count("wal/")
	return o
}

// openAndTell is the other process: what `backup list` and `backup status` ask of a vault.
func openAndTell(t *testing.T, dir string) {
	var o opened
	step := func(took *time.Duration, do func() error) {
		t.Helper()
		began := time.Now()
		if err := do(); err != nil {
			t.Fatal(err)
		}
		*took = time.Since(began)
	}
	var v *vault.Vault
	step(&o.Open, func() (err error) { v, err = vault.Open(t.Context(), config(dir)); return err })
	step(&o.List, func() error {
		all, err := v.Backups(t.Context(), "orders")
		o.Backups = len(all)
		return err
	})
	step(&o.Load, func() error {
		c, err := restore.Load(t.Context(), v, "orders")
		o.Pieces = len(c.Logs[7].Held)
		return err
	})
	step(&o.Compare, func() error { _, err := v.Compare(t.Context()); return err })
	if err := v.Close(t.Context()); err != nil {
		t.Error(err)
	}
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(status)) {
		if text, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			if _, err := fmt.Sscanf(text, "%d kB", &o.Peak); err != nil {
				t.Fatal(err)
			}
			o.Peak <<= 10
		}
	}
	raw, err := json.Marshal(o)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Printf("\nopened %s\n", raw)
}
