package files_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"holdfast/internal/files"
	"holdfast/internal/vault"
)

// version is the content of a file at one moment: no byte of it is in another version.
func version(n int) []byte { return bytes.Repeat([]byte{byte('a' + n)}, 1<<20) }

// A file that changes while it is read is stored as it was at one moment, or named: never the beginning of one version
// with the end of another as if that had been there.
func TestAFileThatChangesWhileItIsReadIsWholeOrNamed(t *testing.T) {
	mapped := func(t *testing.T, at string) []byte {
		f, err := os.OpenFile(at, os.O_RDWR, 0)
		must(t, err)
		m, err := unix.Mmap(int(f.Fd()), 0, 1<<20, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
		must(t, err)
		must(t, f.Close())
		t.Cleanup(func() { must(t, unix.Munmap(m)) })
		return m
	}
	inPlace := func(t *testing.T, at string, content []byte) {
		f, err := os.OpenFile(at, os.O_WRONLY, 0)
		must(t, err)
		_, err = f.WriteAt(content, 0)
		must(t, err)
		must(t, f.Close())
	}
	v := open(t)
	for name, c := range map[string]struct {
		before  func(t *testing.T, at string) (change func(try int)) // with what a program does in the middle of each reading
		changes int                                                  // in how many readings it does
		named   bool
		memory  bool // a file system in memory alone keeps no trace of it
	}{
		"in place, with its old time": {func(t *testing.T, at string) func(int) {
			return func(try int) {
				inPlace(t, at, version(try))
				must(t, os.Chtimes(at, longAgo, longAgo))
			}
		}, 1, false, true},
		"in place, whenever it is read": {func(t *testing.T, at string) func(int) {
			return func(try int) { inPlace(t, at, version(try)) }
		}, 99, true, true},
		"by another file of its name": {func(t *testing.T, at string) func(int) {
			return func(try int) {
				must(t, os.WriteFile(at+".new", version(try), 0o600))
				must(t, os.Rename(at+".new", at))
			}
		}, 1, false, true},
		"cut short and written anew": {func(t *testing.T, at string) func(int) {
			return func(try int) { must(t, os.WriteFile(at, version(try), 0o600)) }
		}, 2, false, true},
		"by growing whenever it is read": {func(t *testing.T, at string) func(int) {
			return func(int) {
				f, err := os.OpenFile(at, os.O_WRONLY|os.O_APPEND, 0)
				must(t, err)
				_, err = f.Write(version(0)[:4])
				must(t, err)
				must(t, f.Close())
			}
		}, 99, true, true},
		"through another name": {func(t *testing.T, at string) func(int) {
			must(t, os.Link(at, filepath.Join(filepath.Dir(at), "zz")))
			return func(try int) { inPlace(t, filepath.Join(filepath.Dir(at), "zz"), version(try)) }
		}, 1, false, true},
		"through a mapping that was written to before": {func(t *testing.T, at string) func(int) {
			m := mapped(t, at)
			copy(m, version(0))
			return func(try int) { copy(m, version(try)) }
		}, 1, false, false},
		"through a mapping, whenever it is read": {func(t *testing.T, at string) func(int) {
			m := mapped(t, at)
			copy(m, version(0))
			return func(try int) { copy(m, version(try)) }
		}, 99, true, false},
	} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "set")
			must(t, os.Mkdir(dir, 0o755))
			var fs unix.Statfs_t
			must(t, unix.Statfs(dir, &fs))
			if !c.memory && fs.Type == unix.TMPFS_MAGIC {
				t.Skip("a file system in memory gives no time to what comes through a mapping")
			}
			at := filepath.Join(dir, "letter")
			must(t, os.WriteFile(at, version(0), 0o600))
			change := c.before(t, at)
			try, last := 0, int64(1<<62)
			o := files.Options{Vault: v, Set: "attachments", Host: "east-1", Path: dir}.WhenRead(func(path string, read int64) {
				if path != "letter" {
					return
				}
				if read < last { // the next reading has begun
					if try++; try <= c.changes {
						change(try)
					}
				}
				last = read
			})
			b := backUp(t, o)
			if named := b.Changed.Count == 1 && b.Changed.First[0] == "letter"; named != c.named {
				t.Errorf("after %d readings: changed %+v", try, b.Changed)
			}
			oneMoment(t, v, b, c.named)
			again := backUp(t, files.Options{Vault: v, Path: dir, Earlier: &b})
			if again.Changed.Count > 0 {
				t.Errorf("at rest: changed %+v", again.Changed)
			}
			oneMoment(t, v, again, false)
		})
	}
}

// oneMoment refuses a backup whose file is of two moments, unless it says so.
func oneMoment(t *testing.T, v *vault.Vault, b vault.FileBackup, named bool) {
	t.Helper()
	to := filepath.Join(t.TempDir(), "back")
	restoreTo(t, v, b, to)
	raw, err := os.ReadFile(filepath.Join(to, "letter"))
	must(t, err)
	if n := bytes.Count(raw, raw[:1]); n != len(raw) && !named {
		t.Errorf("backup %s holds %d bytes of one moment and %d of others, and does not say so", b.ID, n, len(raw)-n)
	}
}

// The clock of file times stands still between two ticks: what changes twice within one has the same time as what changed
// once. A file system in memory that asks for no finer time shows it on every kernel.
func TestAFileThatChangesTwiceInOneTickIsNotTakenForUnchanged(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mount("ramfs", dir, "ramfs", 0, ""); err != nil {
		t.Skipf("no file system with coarse times: %v", err)
	}
	t.Cleanup(func() { must(t, unix.Unmount(dir, unix.MNT_DETACH)) })
	const letters = 40
	content := func(n int) []byte { return version(n)[:260<<10] } // a little more than is read at once
	at := func(n int) string { return filepath.Join(dir, fmt.Sprintf("letter-%02d", n)) }
	v, began, changed := open(t), map[string]bool{}, 0
	for n := range letters {
		must(t, os.WriteFile(at(n), content(0), 0o600))
	}
	b := backUp(t, files.Options{Vault: v, Set: "attachments", Host: "east-1", Path: dir, Workers: 1}.WhenRead(func(path string, _ int64) {
		var n int
		if _, err := fmt.Sscanf(path, "letter-%02d", &n); err != nil {
			t.Error(err)
			return
		}
		if n > 0 && !began[path] { // the beginning of it is read
			must(t, os.WriteFile(at(n), content(2), 0o600))
			changed++
		}
		began[path] = true
		if n++; n < letters && !began[filepath.Base(at(n))] { // right before it is its turn
			must(t, os.WriteFile(at(n), content(1), 0o600))
		}
	}))
	if changed != letters-1 || b.Changed.Count > 0 {
		t.Errorf("%d changed while they were read; named %+v", changed, b.Changed)
	}
	to := filepath.Join(t.TempDir(), "back")
	restoreTo(t, v, b, to)
	for n := range letters {
		raw, err := os.ReadFile(filepath.Join(to, filepath.Base(at(n))))
		must(t, err)
		if same := bytes.Count(raw, raw[:1]); same != len(raw) {
			t.Errorf("%s holds %d bytes of one moment and %d of another", at(n), same, len(raw)-same)
		}
	}
}
