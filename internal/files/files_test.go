package files_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"holdfast/internal/durable"
	"holdfast/internal/files"
	"holdfast/internal/problem"
	"holdfast/internal/redact"
	"holdfast/internal/vault"
)

func open(t *testing.T) *vault.Vault { return openIn(t, filepath.Join(t.TempDir(), "vault")) }

func openIn(t *testing.T, dir string) *vault.Vault {
	t.Helper()
	v, err := vault.Create(t.Context(), vault.Config{Name: "main", URL: "file://" + dir, Key: redact.Secret("a key of some length"), Keys: &vault.Keyring{}, Application: "clinic"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := v.Close(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
	})
	return v
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// acl is a POSIX ACL as the kernel keeps it: user::rw-, user:4242:r--, group::r--, mask::r--, other::---.
var acl = []byte("\x02\x00\x00\x00" +
	"\x01\x00\x06\x00\xff\xff\xff\xff" + "\x02\x00\x04\x00\x92\x10\x00\x00" + "\x04\x00\x04\x00\xff\xff\xff\xff" +
	"\x10\x00\x04\x00\xff\xff\xff\xff" + "\x20\x00\x00\x00\xff\xff\xff\xff")

// longAgo is older than what a backup distrusts for being fresh only by its modification time.
var longAgo = time.Date(2019, 3, 4, 5, 6, 7, 123456789, time.UTC)

// nasty makes a tree with one of everything.
func nasty(t *testing.T, dir string) {
	t.Helper()
	at := func(name string) string { return filepath.Join(dir, name) }
	must(t, os.MkdirAll(at("letters/2026/empty"), 0o755))
	must(t, os.WriteFile(at("letters/2026/a.txt"), []byte("hello"), 0o640))
	must(t, os.WriteFile(at("letters/2026/none"), nil, 0o600))
	must(t, os.WriteFile(at("letters.old"), []byte("sorts between a directory and its children"), 0o644))
	big := make([]byte, 5<<20)
	for i := range big {
		big[i] = byte(i * i >> 7)
	}
	must(t, os.WriteFile(at("letters/big.bin"), big, 0o600))
	must(t, os.WriteFile(at("name\nwith newline"), []byte("1"), 0o600))
	must(t, os.WriteFile(at("odd\xff\xfe"), []byte("2"), 0o600))
	must(t, os.WriteFile(at("odd%FF%FE"), []byte("what the odd name is spelled like"), 0o600))
	must(t, os.Mkdir(at("dir\xe9"), 0o750))
	must(t, os.WriteFile(at("dir\xe9/inside"), []byte("3"), 0o600))
	must(t, os.Symlink("/etc/shadow", at("leads out")))
	must(t, os.Symlink("to\xff", at("leads nowhere")))
	must(t, os.Link(at("letters/2026/a.txt"), at("zz-same-as-a")))
	must(t, os.Link(at("letters/2026/a.txt"), at("letters/b-same-as-a")))
	must(t, unix.Mkfifo(at("pipe"), 0o622))
	must(t, os.Chmod(at("letters/2026"), 0o2770|fs.ModeSetgid))
	must(t, os.Chmod(at("letters"), 0o777|fs.ModeSticky))
	must(t, os.Chmod(at("letters/2026/none"), 0o400))
	sparse, err := os.Create(at("sparse"))
	must(t, err)
	_, err = sparse.WriteAt([]byte("in the middle"), 8<<20)
	must(t, err)
	must(t, sparse.Truncate(24<<20))
	must(t, sparse.Close())
	if os.Geteuid() == 0 {
		must(t, unix.Mknod(at("null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))))
		must(t, os.Lchown(at("letters/2026/a.txt"), 1234, 4321))
		must(t, os.Lchown(at("leads out"), 99, 98))
		must(t, os.Chmod(at("letters.old"), 0o755|fs.ModeSetuid))
	}
	for path, attrs := range map[string]map[string][]byte{
		"letters/2026/none": {"user.comment": []byte("with\x00zero")},
		"letters/2026":      {"user.tag": []byte("x"), "system.posix_acl_default": acl},
		"letters.old":       {"system.posix_acl_access": acl},
	} {
		for name, value := range attrs {
			if err := unix.Setxattr(at(path), name, value, 0); err != nil && err != unix.ENOTSUP {
				t.Fatalf("%s of %s: %v", name, path, err)
			}
		}
	}
	future := time.Now().Add(1000 * time.Hour)
	must(t, os.Chtimes(at("letters/2026/a.txt"), longAgo, longAgo))
	must(t, os.Chtimes(at("name\nwith newline"), future, future))
	for _, d := range []string{"letters/2026/empty", "letters/2026", "letters", "dir\xe9", "."} {
		must(t, os.Chtimes(at(d), longAgo, longAgo))
	}
}

// look describes all that is kept of a tree, a line for each name.
func look(t *testing.T, dir string) map[string]string {
	t.Helper()
	out := map[string]string{}
	groups := map[uint64]string{}
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(dir, p)
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(p, &st); err != nil {
			return err
		}
		text := fmt.Sprintf("%v uid %d gid %d mtime %d", d.Type(), st.Uid, st.Gid, unix.TimespecToNsec(st.Mtim))
		text += fmt.Sprintf(" mode %o rdev %d", st.Mode, st.Rdev)
		if !d.IsDir() {
			first, ok := groups[st.Ino]
			if !ok {
				groups[st.Ino], first = rel, rel
			}
			text += fmt.Sprintf(" size %d links %d with %q", st.Size, st.Nlink, first)
		}
		switch {
		case d.Type().IsRegular():
			raw, err := os.ReadFile(p)
			if err != nil {
				return err
			}
			sum := sha256.Sum256(raw)
			text += " " + hex.EncodeToString(sum[:8]) + fmt.Sprintf(" holes %v", st.Blocks*512 < st.Size)
		case d.Type()&fs.ModeSymlink != 0:
			target, err := os.Readlink(p)
			if err != nil {
				return err
			}
			text += " to " + target
		}
		buf := make([]byte, 4096)
		n, err := unix.Llistxattr(p, buf)
		if err != nil && err != unix.ENOTSUP {
			return err
		}
		names := strings.Split(strings.TrimSuffix(string(buf[:max(n, 0)]), "\x00"), "\x00")
		slices.Sort(names)
		for _, name := range names {
			if name == "" {
				continue
			}
			value := make([]byte, 4096)
			n, err := unix.Lgetxattr(p, name, value)
			if err != nil {
				return err
			}
			text += fmt.Sprintf(" %s=%x", name, value[:n])
		}
		out[rel] = text
		return nil
	})
	must(t, err)
	return out
}

func backUp(t *testing.T, o files.Options) vault.FileBackup {
	t.Helper()
	if o.Set == "" {
		o.Set, o.Host = "attachments", "east-1"
	}
	b, err := files.Backup(t.Context(), o)
	must(t, err)
	return b
}

func restoreTo(t *testing.T, v *vault.Vault, b vault.FileBackup, dir string, paths ...string) files.Restored {
	t.Helper()
	r, err := files.Restore(t.Context(), files.RestoreOptions{Tree: v.OpenTree(b), To: dir, Paths: files.ParseSelection(paths)})
	must(t, err)
	if r.Lacks.Count > 0 {
		t.Errorf("not faithful: %v", r.Lacks)
	}
	return r
}

func TestEverythingComesBackAsItWas(t *testing.T) {
	v, dir := open(t), filepath.Join(t.TempDir(), "set")
	nasty(t, dir)
	want := look(t, dir)
	b := backUp(t, files.Options{Vault: v, Path: dir})
	if !b.Complete() || b.Changed.Count > 0 || b.Vanished > 0 {
		t.Errorf("incomplete: %+v", b)
	}
	to := filepath.Join(t.TempDir(), "back")
	r := restoreTo(t, v, b, to)
	if d := cmp.Diff(want, look(t, to)); d != "" {
		t.Error(d)
	}
	if r.Files != b.Files || r.Dirs != b.Dirs || r.Others != b.Others {
		t.Errorf("restored %+v of %+v", r, b)
	}
	if d := cmp.Diff(want, look(t, dir)); d != "" {
		t.Error("the backup changed what it read: " + d)
	}
	all, err := v.FileBackups(t.Context(), "attachments")
	must(t, err)
	if d := cmp.Diff([]vault.FileBackup{b}, all); d != "" {
		t.Error(d)
	}
	if bases, err := v.Backups(t.Context(), ""); err != nil || len(bases) > 0 {
		t.Errorf("it is listed as a base backup too: %v, %v", bases, err)
	}
}

// settle makes files old enough that the next backup trusts their times.
func settle(t *testing.T, o files.Options) vault.FileBackup {
	t.Helper()
	for end := time.Now().Add(5 * time.Minute); ; {
		b := backUp(t, o)
		if c := backUp(t, files.Options{Vault: o.Vault, Path: o.Path, Earlier: &b}); c.Read == 0 {
			return c
		}
		if time.Now().After(end) {
			t.Fatal("files stay fresh for minutes")
		}
		time.Sleep(200 * time.Millisecond)
	}
}

func TestOnlyWhatChangedIsRead(t *testing.T) {
	v, dir := open(t), filepath.Join(t.TempDir(), "set")
	nasty(t, dir)
	first := settle(t, files.Options{Vault: v, Path: dir})
	if first.Reused == 0 || first.Stored > 40<<10 {
		t.Errorf("nothing changed, and %d files were taken over and %d bytes stored", first.Reused, first.Stored)
	}
	at := filepath.Join(dir, "letters/2026/a.txt")
	was, err := os.Stat(at)
	must(t, err)
	must(t, os.WriteFile(at, []byte("HELLO"), 0o640)) // as long, and with the same time
	must(t, os.Chtimes(at, was.ModTime(), was.ModTime()))
	must(t, os.Remove(filepath.Join(dir, "letters.old")))
	must(t, os.WriteFile(filepath.Join(dir, "new"), []byte("new"), 0o600))
	second := backUp(t, files.Options{Vault: v, Path: dir, Earlier: &first})
	if second.Read != int64(len("HELLO")+len("new")) {
		t.Errorf("%d bytes were read", second.Read)
	}
	to := filepath.Join(t.TempDir(), "back")
	restoreTo(t, v, second, to)
	if d := cmp.Diff(look(t, dir), look(t, to)); d != "" {
		t.Error(d)
	}
	if full := backUp(t, files.Options{Vault: v, Path: dir}); full.Read < 5<<20 || full.Stored > 100<<10 {
		t.Errorf("a full one read %d bytes and stored %d", full.Read, full.Stored)
	}
}

func TestAPartIsRestored(t *testing.T) {
	v, dir := open(t), filepath.Join(t.TempDir(), "set")
	nasty(t, dir)
	b := backUp(t, files.Options{Vault: v, Path: dir})
	want := map[string]string{}
	for p, text := range look(t, dir) {
		if strings.HasPrefix(p, "letters/2026") || p == "zz-same-as-a" || p == "letters" {
			want[p] = strings.ReplaceAll(text, "links 3", "links 2")
		}
	}
	to := t.TempDir()
	restoreTo(t, v, b, to, "./letters/2026/", "zz-same-as-a")
	got := look(t, to)
	delete(got, ".")
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	// A further name alone brings the content, without the first one.
	alone := t.TempDir()
	restoreTo(t, v, b, alone, "zz-same-as-a")
	if raw, err := os.ReadFile(filepath.Join(alone, "zz-same-as-a")); string(raw) != "hello" {
		t.Errorf("%q, %v", raw, err)
	}
	_, err := files.Restore(t.Context(), files.RestoreOptions{Tree: v.OpenTree(b), To: t.TempDir(), Paths: files.Selection{"letters/2027"}})
	wantProblem(t, err, "restore.no-such-path")
}

func wantProblem(t *testing.T, err error, code string) {
	t.Helper()
	p, ok := err.(*problem.Problem)
	if !ok || p.Code != code {
		t.Errorf("got %v, want problem %s", err, code)
	}
}

func TestADirectoryWithFilesIsRefusedUnlessSaid(t *testing.T) {
	v, dir := open(t), filepath.Join(t.TempDir(), "set")
	nasty(t, dir)
	b := backUp(t, files.Options{Vault: v, Path: dir})
	to := t.TempDir()
	must(t, os.WriteFile(filepath.Join(to, "mine"), []byte("mine"), 0o600))
	_, err := files.Restore(t.Context(), files.RestoreOptions{Tree: v.OpenTree(b), To: to})
	wantProblem(t, err, "restore.files-occupied")
	if got := look(t, to); len(got) != 2 {
		t.Errorf("something was written: %v", got)
	}
	// What differs is replaced: another content, a link in place of a directory, a directory in place of a file.
	outside := t.TempDir()
	must(t, os.Symlink(outside, filepath.Join(to, "letters")))
	must(t, os.Mkdir(filepath.Join(to, "sparse"), 0o700))
	must(t, os.WriteFile(filepath.Join(to, "letters.old"), []byte("other"), 0o600))
	r, err := files.Restore(t.Context(), files.RestoreOptions{Tree: v.OpenTree(b), To: to, Onto: files.OntoDelta})
	must(t, err)
	if r.Lacks.Count > 0 {
		t.Error(r.Lacks)
	}
	got, want := look(t, to), look(t, dir)
	delete(got, "mine")
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	if left, err := os.ReadDir(outside); err != nil || len(left) > 0 {
		t.Errorf("the restore wrote through a link to outside: %v, %v", left, err)
	}
	// A second time nothing is read; with overwrite everything is.
	again, err := files.Restore(t.Context(), files.RestoreOptions{Tree: v.OpenTree(b), To: to, Onto: files.OntoDelta})
	must(t, err)
	if again.Bytes > 100 { // names that share an inode are written anew
		t.Errorf("%d bytes were written again", again.Bytes)
	}
	must(t, os.WriteFile(filepath.Join(to, "letters/big.bin"), bytes.Repeat([]byte("x"), 5<<20), 0o600))
	st, err := os.Stat(filepath.Join(dir, "letters/big.bin"))
	must(t, err)
	must(t, os.Chtimes(filepath.Join(to, "letters/big.bin"), st.ModTime(), st.ModTime()))
	_, err = files.Restore(t.Context(), files.RestoreOptions{Tree: v.OpenTree(b), To: to, Onto: files.OntoAll})
	must(t, err)
	got = look(t, to)
	delete(got, "mine")
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

func TestAnInterruptedRestoreGoesOn(t *testing.T) {
	v, dir := open(t), filepath.Join(t.TempDir(), "set")
	nasty(t, dir)
	b := backUp(t, files.Options{Vault: v, Path: dir})
	to := filepath.Join(t.TempDir(), "back")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := files.Restore(ctx, files.RestoreOptions{Tree: v.OpenTree(b), To: to}); err == nil {
		t.Fatal("a cancelled restore says nothing")
	}
	// Cut off after some names: the mark is there, and a torn file under a temporary name.
	must(t, os.MkdirAll(to, 0o700))
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	must(t, err)
	mark := ".holdfast-restoring-" + b.ID
	must(t, os.WriteFile(filepath.Join(to, mark), bytes.TrimSpace(boot), 0o600))
	must(t, os.MkdirAll(filepath.Join(to, "letters"), 0o700))
	must(t, os.WriteFile(filepath.Join(to, "letters.old"), []byte("torn"), 0o600))
	restoreTo(t, v, b, to)
	if d := cmp.Diff(look(t, dir), look(t, to)); d != "" {
		t.Error(d)
	}
}

func TestWhatCannotBeReadIsNamed(t *testing.T) {
	if os.Geteuid() == 0 {
		asNobody(t)
		return
	}
	v, dir := open(t), filepath.Join(t.TempDir(), "set")
	must(t, os.MkdirAll(filepath.Join(dir, "closed"), 0o700))
	must(t, os.WriteFile(filepath.Join(dir, "closed/x"), []byte("x"), 0o600))
	must(t, os.WriteFile(filepath.Join(dir, "secret"), []byte("x"), 0o600))
	must(t, os.Chmod(filepath.Join(dir, "secret"), 0))
	must(t, os.Chmod(filepath.Join(dir, "closed"), 0))
	defer func() { must(t, os.Chmod(filepath.Join(dir, "closed"), 0o700)) }()
	b := backUp(t, files.Options{Vault: v, Path: dir})
	if b.Complete() || b.Unreadable.Count != 2 || !strings.HasPrefix(b.Unreadable.First[0], "closed: ") {
		t.Errorf("%+v", b.Unreadable)
	}
}

// asNobody runs the test again as a user who may not read everything.
func asNobody(t *testing.T) {
	t.Helper()
	dir, err := os.MkdirTemp("", "holdfast-files-*")
	must(t, err)
	defer func() { must(t, os.RemoveAll(dir)) }()
	must(t, os.Chmod(dir, 0o777|fs.ModeSticky))
	self, err := os.Open("/proc/self/exe")
	must(t, err)
	must(t, durable.WriteProgram(filepath.Join(dir, "test"), self))
	must(t, self.Close())
	cmd := exec.CommandContext(t.Context(), filepath.Join(dir, "test"), "-test.run", "^"+t.Name()+"$", "-test.v")
	cmd.Dir, cmd.Env = dir, []string{"TMPDIR=" + dir, "HOME=" + dir}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	out, err := cmd.CombinedOutput()
	if err != nil || !bytes.Contains(out, []byte("--- PASS: "+t.Name())) {
		t.Errorf("as nobody: %v\n%s", err, out)
	}
}

func TestAMissingOrEmptiedDirectoryIsRefused(t *testing.T) {
	v, dir := open(t), filepath.Join(t.TempDir(), "set")
	nasty(t, dir)
	b := backUp(t, files.Options{Vault: v, Path: dir})
	_, err := files.Backup(t.Context(), files.Options{Vault: v, Set: "attachments", Path: dir + "x"})
	wantProblem(t, err, "files.absent")
	empty := t.TempDir()
	_, err = files.Backup(t.Context(), files.Options{Vault: v, Set: "attachments", Path: empty, Earlier: &b})
	if err == nil || !strings.Contains(err.Error(), "holds no file") {
		t.Errorf("an emptied directory: %v", err)
	}
	all, err := v.FileBackups(t.Context(), "attachments")
	must(t, err)
	if len(all) != 1 {
		t.Errorf("%d backups are listed", len(all))
	}
	if got := backUp(t, files.Options{Vault: v, Path: empty, Earlier: &b, AllowEmpty: true}); got.Files != 0 {
		t.Error(got)
	}
}

func TestWhatIsLeftOutIsLeftOut(t *testing.T) {
	for _, c := range []struct {
		pattern, path string
		dir, want     bool
	}{
		{"*.tmp", "a/b/c.tmp", false, true},
		{"*.tmp", "a/b/c.txt", false, false},
		{"cache/", "a/cache", true, true},
		{"cache/", "a/cache", false, false},
		{"a/*.txt", "a/x.txt", false, true},
		{"a/*.txt", "b/a/x.txt", false, false},
		{"/a", "a", true, true},
		{"/a", "b/a", true, false},
	} {
		if got := files.Excluded([]string{c.pattern}, c.path, c.dir); got != c.want {
			t.Errorf("%q leaves out %q: %v", c.pattern, c.path, got)
		}
	}
	v, dir := open(t), filepath.Join(t.TempDir(), "set")
	nasty(t, dir)
	b := backUp(t, files.Options{Vault: v, Path: dir, Exclude: []string{"2026/", "*.bin"}})
	must(t, v.OpenTree(b).Each(t.Context(), func(n vault.Node) error {
		if strings.Contains(n.Path, "2026") || strings.HasSuffix(n.Path, ".bin") {
			t.Errorf("%s is in it", n.Path)
		}
		return nil
	}))
}

// What a sparse file takes on its disk is what it needs, onto other files too.
func TestAHoleNeedsNoRoom(t *testing.T) {
	v, dir := open(t), filepath.Join(t.TempDir(), "set")
	must(t, os.Mkdir(dir, 0o755))
	must(t, os.WriteFile(filepath.Join(dir, "image"), []byte("begin"), 0o600))
	const size = 64 << 20
	must(t, os.Truncate(filepath.Join(dir, "image"), size))
	b := backUp(t, files.Options{Vault: v, Path: dir})
	o := files.RestoreOptions{Tree: v.OpenTree(b), To: filepath.Join(t.TempDir(), "to")}
	is, err := files.Measure(t.Context(), o.Tree, nil)
	must(t, err)
	if is.Bytes != size || is.Room <= 0 || is.Room > 1<<20 {
		t.Errorf("%d bytes take %d", is.Bytes, is.Room)
	}
	must(t, os.Mkdir(o.To, 0o755))
	for _, onto := range []string{files.OntoNothing, files.OntoDelta, files.OntoAll} {
		o.Onto = onto
		p, err := files.Survey(t.Context(), o, is)
		must(t, err)
		if p.Need <= 0 || p.Need > 1<<20 {
			t.Errorf("onto %q %d bytes are needed", onto, p.Need)
		}
		must(t, os.WriteFile(filepath.Join(o.To, "other"), nil, 0o600)) // for those that follow
	}
}

// Room is looked at onto other files too: by what is written more than what it replaces.
func TestADeltaThatDoesNotFitIsRefused(t *testing.T) {
	v, dir := open(t), filepath.Join(t.TempDir(), "set")
	must(t, os.Mkdir(dir, 0o755))
	must(t, os.WriteFile(filepath.Join(dir, "a"), bytes.Repeat([]byte("a"), 1<<20), 0o600))
	must(t, os.WriteFile(filepath.Join(dir, "b"), bytes.Repeat([]byte("b"), 2<<20), 0o600))
	b := backUp(t, files.Options{Vault: v, Path: dir})
	o := files.RestoreOptions{Tree: v.OpenTree(b), To: t.TempDir(), Onto: files.OntoDelta}
	must(t, os.WriteFile(filepath.Join(o.To, "b"), []byte("old"), 0o600))
	is, err := files.Measure(t.Context(), o.Tree, nil)
	must(t, err)
	p, err := files.Survey(t.Context(), o, is)
	must(t, err)
	if p.Need < 2<<20 || p.Need > 3<<20 || p.NeedIDs != 1 {
		t.Errorf("%d bytes and %d names are needed for one of 1 MiB and one of 2 MiB over another", p.Need, p.NeedIDs)
	}
	_, err = files.Restore(t.Context(), o)
	must(t, err)
	if p, err = files.Survey(t.Context(), o, is); err != nil || p.Need != 0 || p.NeedIDs != 0 {
		t.Errorf("when all of it is there: %d bytes, %d names, %v", p.Need, p.NeedIDs, err)
	}
}

// A directory with something in it is in the way of a file: that is told before anything is written.
func TestWhatIsInTheWayIsToldBefore(t *testing.T) {
	v, dir := open(t), filepath.Join(t.TempDir(), "set")
	must(t, os.MkdirAll(filepath.Join(dir, "sub"), 0o755))
	must(t, os.WriteFile(filepath.Join(dir, "a"), []byte("a"), 0o600))
	must(t, os.WriteFile(filepath.Join(dir, "sub", "name"), []byte("x"), 0o600))
	b := backUp(t, files.Options{Vault: v, Path: dir})
	for _, onto := range []string{files.OntoDelta, files.OntoAll} {
		o := files.RestoreOptions{Tree: v.OpenTree(b), To: t.TempDir(), Onto: onto}
		must(t, os.MkdirAll(filepath.Join(o.To, "sub", "name"), 0o755))
		must(t, os.WriteFile(filepath.Join(o.To, "sub", "name", "mine"), nil, 0o600))
		before := look(t, o.To)
		_, err := files.Restore(t.Context(), o)
		wantProblem(t, err, "restore.files-in-the-way")
		if d := cmp.Diff(before, look(t, o.To)); d != "" {
			t.Errorf("onto %s something was written: %s", onto, d)
		}
		must(t, os.Remove(filepath.Join(o.To, "sub", "name", "mine"))) // an empty one goes
		_, err = files.Restore(t.Context(), o)
		must(t, err)
	}
}
