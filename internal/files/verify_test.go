package files_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"holdfast/internal/files"
	"holdfast/internal/vault"
)

// What was restored is what the backup lists, and whatever is done to it afterwards is found by name.
func TestWhatIsNotAsItWasStoredIsNamed(t *testing.T) {
	v, dir := open(t), filepath.Join(t.TempDir(), "set")
	nasty(t, dir)
	b := backUp(t, files.Options{Vault: v, Path: dir})
	to := filepath.Join(t.TempDir(), "back")
	restoreTo(t, v, b, to)
	verify := func() files.Verified {
		t.Helper()
		got, err := files.Verify(t.Context(), files.VerifyOptions{Tree: v.OpenTree(b), Dir: to})
		must(t, err)
		return got
	}
	if got := verify(); got.Wrong.Count > 0 || got.Names != b.Entries-1 || got.Files != b.Files || got.Bytes < b.Bytes {
		t.Fatalf("just restored: %+v of %+v", got, b)
	}
	at := func(name string) string { return filepath.Join(to, name) }
	st, err := os.Stat(at("letters/big.bin"))
	must(t, err)
	f, err := os.OpenFile(at("letters/big.bin"), os.O_WRONLY, 0)
	must(t, err)
	_, err = f.WriteAt([]byte{0xff}, 3<<20+1) // where it has another byte
	must(t, err)
	must(t, f.Close())
	must(t, os.Chtimes(at("letters/big.bin"), st.ModTime(), st.ModTime())) // size and time tell nothing
	must(t, os.Remove(at("odd\xff\xfe")))
	must(t, os.Remove(at("leads nowhere")))
	must(t, os.Symlink("elsewhere", at("leads nowhere")))
	must(t, os.Truncate(at("sparse"), 23<<20))
	must(t, os.Remove(at("pipe")))
	must(t, os.WriteFile(at("pipe"), nil, 0o600))
	must(t, os.Rename(at("dir\xe9"), at("elsewhere")))
	must(t, os.Symlink(at("elsewhere"), at("dir\xe9"))) // nothing is looked for through a link
	got := verify().Wrong
	want := []string{"big.bin: its content is another from byte 3145729 on", "it is not there", "leads nowhere: it leads elsewhere", "sparse: it has 24117248 bytes, 25165824 were stored",
		"pipe: it is of another kind", "dir%E9: it is of another kind", "dir%E9/inside: its directory cannot be entered"}
	for _, w := range want {
		if !slices.ContainsFunc(got.First, func(s string) bool { return strings.Contains(s, w) }) {
			t.Errorf("%q is not said: %q", w, got.First)
		}
	}
	if got.Count != len(want) {
		t.Errorf("%d are wrong, not %d: %q", got.Count, len(want), got.First)
	}
}

// A vault that cannot be read is no verdict on the files.
func TestWhatTheVaultCannotGiveIsNoVerdictOnTheFiles(t *testing.T) {
	v, dir := open(t), filepath.Join(t.TempDir(), "set")
	must(t, os.MkdirAll(dir, 0o755))
	must(t, os.WriteFile(filepath.Join(dir, "a"), []byte("hello"), 0o600))
	b := backUp(t, files.Options{Vault: v, Path: dir})
	tree := v.OpenTree(b)
	tree.Backup.Entries++ // the list ends early
	if got, err := files.Verify(t.Context(), files.VerifyOptions{Tree: tree, Dir: dir}); err == nil || got.Wrong.Count > 0 {
		t.Errorf("%+v, %v", got, err)
	}
	if _, err := files.Verify(t.Context(), files.VerifyOptions{Tree: v.OpenTree(vault.FileBackup{ID: "x"}), Dir: dir}); err == nil {
		t.Error("a backup that is none was compared")
	}
}
