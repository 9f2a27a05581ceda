package files

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"holdfast/internal/vault"
)

func dressing(t *testing.T) (r *restoring, dir *os.File) {
	t.Helper()
	dir, err := os.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = dir.Close() }) // opened for reading alone
	return &restoring{root: dir, o: RestoreOptions{Onto: OntoDelta}}, dir
}

func TestAFileRunsWithItsOwnersRightsOnlyWhenItIsTheOwners(t *testing.T) {
	me, group := uint32(os.Geteuid()), uint32(os.Getegid())
	for name, c := range map[string]struct {
		uid, gid, want uint32
		lacks          int
	}{
		"the owner's and the group's": {me, group, 0o6755, 0},
		"another owner's":             {me + 1, group, 0o755, 1},
		"another group's":             {me, group + 1, 0o755, 1},
	} {
		t.Run(name, func(t *testing.T) {
			r, dir := dressing(t) // nothing is given away
			f, err := os.Create(filepath.Join(dir.Name(), "tool"))
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = f.Close() }() // nothing was written
			r.dressFile(f, vault.Node{Path: "tool", Kind: vault.KindFile, Mode: 0o6755, UID: c.uid, GID: c.gid})
			st, err := statOf(f)
			if err != nil || st.Mode&0o7777 != c.want || r.out.Lacks.Count != c.lacks {
				t.Errorf("mode %o, want %o; lacks %v, %v", st.Mode&0o7777, c.want, r.out.Lacks, err)
			}
		})
	}
}

func TestAFileThatRunsWithItsOwnersRightsIsKeptOnlyWhenItIsTheOwners(t *testing.T) {
	r, dir := dressing(t)
	p := filepath.Join(dir.Name(), "tool")
	if err := os.WriteFile(p, []byte("hello"), 0o600); err != nil {
		t.Fatal(err)
	}
	st, err := lstatAt(dir, "tool")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		mode, uid uint32
		want      bool
	}{{0o755, st.Uid, true}, {0o755, st.Uid + 1, true}, {0o4755, st.Uid, true}, {0o4755, st.Uid + 1, false}} {
		f := r.right(dir, "tool", vault.Node{Kind: vault.KindFile, Mode: c.mode, UID: c.uid, GID: st.Gid, Size: 5, ModNs: unix.TimespecToNsec(st.Mtim)})
		if (f != nil) != c.want {
			t.Errorf("mode %o of user %d: kept %v", c.mode, c.uid, f != nil)
		}
		if f != nil {
			_ = f.Close() // opened for reading alone
		}
	}
}

// Whoever may write to the directory puts a link in the place of what was just made or looked at.
func TestNoLinkIsFollowedToAnothersFile(t *testing.T) {
	for name, swap := range map[string]func(victim, name string) error{"symbolic": os.Symlink, "hard": os.Link} {
		t.Run(name, func(t *testing.T) {
			r, dir := dressing(t)
			victim := filepath.Join(t.TempDir(), "victim")
			if err := unix.Mkfifo(victim, 0o600); err != nil {
				t.Fatal(err)
			}
			if err := swap(victim, filepath.Join(dir.Name(), "pipe")); err != nil {
				t.Fatal(err)
			}
			r.dressAt(dir, "pipe", vault.Node{Path: "pipe", Kind: vault.KindPipe, Mode: 0o666, ModNs: 1})
			fi, err := os.Lstat(victim)
			if err != nil || fi.Mode().Perm() != 0o600 || fi.ModTime().UnixNano() == 1 || r.out.Lacks.Count != 1 {
				t.Errorf("%v, lacks %v, %v", fi.Mode(), r.out.Lacks, err)
			}
		})
	}
	_, dir := dressing(t)
	victim := t.TempDir()
	if err := os.Chmod(victim, 0o500); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(victim, filepath.Join(dir.Name(), "sub")); err != nil {
		t.Fatal(err)
	}
	err := enter(dir, "sub")
	if fi, statErr := os.Stat(victim); err == nil || statErr != nil || fi.Mode().Perm() != 0o500 {
		t.Errorf("a directory behind a link: %v, %v", err, statErr)
	}
}
