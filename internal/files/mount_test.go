package files_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"holdfast/internal/disktest"
	"holdfast/internal/files"
	"holdfast/internal/files/mount"
	"holdfast/internal/vault"
)

// mounted is a backup that is shown in a directory until it is ended.
type mounted struct {
	dir  string
	stop context.CancelFunc
	over chan struct{}

	ended mount.Ended // once over is closed
	err   error
}

// show mounts a backup, and ends it with the test.
func show(t *testing.T, o mount.Options) *mounted {
	t.Helper()
	if _, err := mount.Check(t.TempDir()); err != nil {
		disktest.Cannot(t, "no backup can be shown here: %v", err)
	}
	m := &mounted{dir: filepath.Join(t.TempDir(), "shown"), over: make(chan struct{})}
	must(t, os.Mkdir(m.dir, 0o755))
	var ctx context.Context
	ctx, m.stop = context.WithCancel(t.Context())
	ready := make(chan mount.Shown, 1)
	o.Dir, o.Ready = m.dir, func(s mount.Shown) { ready <- s }
	go func() {
		m.ended, m.err = mount.Run(ctx, o)
		close(m.over)
	}()
	t.Cleanup(func() { m.end(t) })
	select {
	case s := <-ready:
		if s.Dir != m.dir || s.Names != o.Tree.Backup.Entries {
			t.Errorf("shown %+v of %d names", s, o.Tree.Backup.Entries)
		}
	case <-m.over:
		t.Fatal(m.err)
	}
	return m
}

// end unmounts, and refuses what is left.
func (m *mounted) end(t *testing.T) mount.Ended {
	t.Helper()
	m.stop()
	<-m.over
	must(t, m.err)
	m.nothingLeft(t)
	return m.ended
}

func (m *mounted) nothingLeft(t *testing.T) {
	t.Helper()
	found, err := os.ReadDir(m.dir)
	must(t, err)
	table, err := os.ReadFile("/proc/self/mountinfo")
	must(t, err)
	if len(found) > 0 || strings.Contains(string(table), " "+m.dir+" ") {
		t.Errorf("left behind in %s: %v", m.dir, found)
	}
}

func TestABackupIsShownAsTheDirectoryWas(t *testing.T) {
	v, dir := open(t), filepath.Join(t.TempDir(), "set")
	nasty(t, dir)
	many := filepath.Join(dir, "many")
	must(t, os.Mkdir(many, 0o755))
	for i := range 400 { // more than the kernel asks for at once
		must(t, os.WriteFile(filepath.Join(many, fmt.Sprintf("a rather long name of letter %d", i)), fmt.Append(nil, i), 0o600))
	}
	must(t, os.Link(filepath.Join(many, "a rather long name of letter 7"), filepath.Join(dir, "z-seven")))
	b := backUp(t, files.Options{Vault: v, Path: dir})
	m := show(t, mount.Options{Tree: v.OpenTree(b)})
	if d := cmp.Diff(look(t, dir), look(t, m.dir)); d != "" {
		t.Error(d)
	}
	for _, p := range []string{"nothing", "odd%FF%FE%", "odd\xff", "letters/2026/nothing", "many/a rather long name of letter", "pipe/x"} {
		if _, err := os.Lstat(filepath.Join(m.dir, p)); !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.ENOTDIR) {
			t.Errorf("%q: %v", p, err)
		}
	}
	var up unix.Stat_t
	must(t, unix.Stat(filepath.Join(m.dir, "letters/2026/.."), &up))
	names := map[string]uint64{}
	f, err := os.Open(filepath.Join(m.dir, "letters/2026"))
	must(t, err)
	buf := make([]byte, 8192)
	n, err := unix.Getdents(int(f.Fd()), buf)
	must(t, err)
	must(t, f.Close())
	for rest := buf[:n]; len(rest) > 0; { // struct linux_dirent64 (getdents(2))
		size := int(rest[16]) | int(rest[17])<<8
		var ino uint64
		for i := range 8 {
			ino |= uint64(rest[i]) << (8 * i)
		}
		names[string(bytes.SplitN(rest[19:size], []byte{0}, 2)[0])] = ino
		rest = rest[size:]
	}
	if names[".."] != up.Ino || names["."] == 0 || names["a.txt"] == 0 {
		t.Errorf("the directory above is %d; read %v", up.Ino, names)
	}
	atOnce(t, filepath.Join(dir, "letters/big.bin"), filepath.Join(m.dir, "letters/big.bin"))
	for what, err := range map[string]error{
		"write":     os.WriteFile(filepath.Join(m.dir, "letters.old"), []byte("x"), 0o600),
		"make":      os.WriteFile(filepath.Join(m.dir, "new"), []byte("x"), 0o600),
		"mkdir":     os.Mkdir(filepath.Join(m.dir, "new"), 0o700),
		"remove":    os.Remove(filepath.Join(m.dir, "letters.old")),
		"rename":    os.Rename(filepath.Join(m.dir, "letters.old"), filepath.Join(m.dir, "new")),
		"chmod":     os.Chmod(filepath.Join(m.dir, "letters.old"), 0o600),
		"attribute": unix.Setxattr(filepath.Join(m.dir, "letters.old"), "user.x", []byte("x"), 0),
		"time":      os.Chtimes(filepath.Join(m.dir, "letters.old"), longAgo, longAgo),
		"link":      os.Link(filepath.Join(m.dir, "letters.old"), filepath.Join(m.dir, "new")),
		"symlink":   os.Symlink("x", filepath.Join(m.dir, "new")),
		"truncate":  os.Truncate(filepath.Join(m.dir, "letters.old"), 1),
	} {
		if !errors.Is(err, unix.EROFS) {
			t.Errorf("%s: %v, not that it is read-only", what, err)
		}
	}
	if got := m.end(t); got.Busy || got.Failed > 0 {
		t.Errorf("%+v", got)
	}
}

// atOnce reads one file from several places at the same time.
func atOnce(t *testing.T, want, from string) {
	t.Helper()
	whole, err := os.ReadFile(want)
	must(t, err)
	f, err := os.Open(from)
	must(t, err)
	defer func() { must(t, f.Close()) }()
	var all sync.WaitGroup
	for n := range 4 {
		all.Go(func() {
			buf := make([]byte, 70_000)
			for at := int64(n) * 1234; at < int64(len(whole)); at += 700_001 {
				got, err := f.ReadAt(buf, at)
				if err != nil && !errors.Is(err, io.EOF) || !bytes.Equal(buf[:got], whole[at:min(at+int64(len(buf)), int64(len(whole)))]) {
					t.Errorf("%d bytes from %d on: %v", got, at, err)
				}
			}
		})
	}
	all.Wait()
}

// A vault that is away is an error for who reads, told once, and reads go on when it is back.
func TestWhatALostVaultDoesNotGiveIsAnErrorAndNoHang(t *testing.T) {
	place := filepath.Join(t.TempDir(), "vault")
	v, dir := openIn(t, place), filepath.Join(t.TempDir(), "set")
	nasty(t, dir)
	b := backUp(t, files.Options{Vault: v, Path: dir})
	var mu sync.Mutex
	var told []string
	tell := func(s string) {
		mu.Lock()
		defer mu.Unlock()
		told = append(told, s)
	}
	m := show(t, mount.Options{Tree: v.OpenTree(b), Failed: func(error) { tell("failed") }, Again: func(int) { tell("again") }})
	must(t, os.Rename(filepath.Join(place, "repository"), filepath.Join(place, "away")))
	for _, p := range []string{"letters/big.bin", "letters.old", "letters/big.bin"} {
		if raw, err := os.ReadFile(filepath.Join(m.dir, p)); !errors.Is(err, unix.EIO) {
			t.Errorf("%s of a vault that is away: %d bytes, %v", p, len(raw), err)
		}
	}
	if entries, err := os.ReadDir(filepath.Join(m.dir, "letters/2026")); err != nil || len(entries) != 3 { // names are there
		t.Errorf("%v, %v", entries, err)
	}
	must(t, os.Rename(filepath.Join(place, "away"), filepath.Join(place, "repository")))
	if d := cmp.Diff(look(t, dir), look(t, m.dir)); d != "" {
		t.Error(d)
	}
	got := m.end(t)
	if d := cmp.Diff([]string{"failed", "again"}, told); d != "" || got.Failed < 3 {
		t.Errorf("%s; %+v", d, got)
	}
}

func TestADirectoryThatIsInUseIsTakenAwayAllTheSame(t *testing.T) {
	v, dir := open(t), filepath.Join(t.TempDir(), "set")
	nasty(t, dir)
	b := backUp(t, files.Options{Vault: v, Path: dir})
	m := show(t, mount.Options{Tree: v.OpenTree(b)})
	f, err := os.Open(filepath.Join(m.dir, "letters"))
	must(t, err)
	if got := m.end(t); !got.Busy {
		t.Errorf("%+v", got)
	}
	must(t, f.Close())
	again := show(t, mount.Options{Tree: v.OpenTree(b)})
	for end := time.Now().Add(5 * time.Minute); ; time.Sleep(10 * time.Millisecond) { // as an operator does elsewhere
		err := unix.Unmount(again.dir, 0)
		if err == nil {
			break
		}
		if !errors.Is(err, unix.EBUSY) || time.Now().After(end) {
			t.Fatal(err)
		}
	}
	<-again.over
	if got := again.end(t); got.Busy {
		t.Errorf("%+v", got)
	}
}

// What is shown is mounted on a second place, which keeps the file system alive behind the first one's end.
func TestAnEndWaitsForNoSecondPlace(t *testing.T) {
	disktest.NeedRoot(t)
	v, dir := open(t), filepath.Join(t.TempDir(), "set")
	nasty(t, dir)
	b := backUp(t, files.Options{Vault: v, Path: dir})
	m := show(t, mount.Options{Tree: v.OpenTree(b)})
	second := filepath.Join(t.TempDir(), "second")
	must(t, os.Mkdir(second, 0o755))
	must(t, unix.Mount(m.dir, second, "", unix.MS_BIND, ""))
	t.Cleanup(func() { must(t, unix.Unmount(second, unix.MNT_DETACH)) }) // before show's: else a failure would hang
	m.stop()
	select {
	case <-m.over:
	case <-time.After(time.Minute):
		t.Fatal("it waits for whoever has the second place")
	}
	if got := m.end(t); !got.Busy {
		t.Errorf("%+v", got)
	}
}

func TestAPlaceThatWouldBeHiddenIsRefused(t *testing.T) {
	base := t.TempDir()
	full, file := filepath.Join(base, "full"), filepath.Join(base, "full/file")
	must(t, os.Mkdir(full, 0o755))
	must(t, os.WriteFile(file, nil, 0o600))
	for _, dir := range []string{full, file, filepath.Join(base, "nothing")} {
		_, err := mount.Run(t.Context(), mount.Options{Dir: dir, Tree: &vault.Tree{}, Limit: time.Second})
		wantProblem(t, err, "files.not-mounted")
	}
}
