package files_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"holdfast/internal/files"
)

// torn leaves a file as a power loss may: size and time are right, and the content never came to the disk.
func torn(t *testing.T, from, to string) {
	t.Helper()
	st, err := os.Stat(from)
	must(t, err)
	must(t, os.MkdirAll(filepath.Dir(to), 0o700))
	must(t, os.WriteFile(to, make([]byte, st.Size()), 0o600))
	must(t, os.Chtimes(to, st.ModTime(), st.ModTime()))
}

func TestWhatAPowerLossLeftIsWrittenAnewHoweverOftenTheRestoreIsCutOff(t *testing.T) {
	v, dir := open(t), filepath.Join(t.TempDir(), "set")
	nasty(t, dir)
	b, other := backUp(t, files.Options{Vault: v, Path: dir}), backUp(t, files.Options{Vault: v, Path: dir})
	for name, c := range map[string]struct{ mark, onto string }{
		"the same command": {b.ID, files.OntoNothing},
		"with --delta":     {b.ID, files.OntoDelta},
		"with --delta after a restore of another backup":     {other.ID, files.OntoDelta},
		"with --overwrite, which reads everything all along": {b.ID, files.OntoAll},
	} {
		t.Run(name, func(t *testing.T) {
			to := filepath.Join(t.TempDir(), "back")
			mark := filepath.Join(to, ".holdfast-restoring-"+c.mark)
			torn(t, filepath.Join(dir, "letters/big.bin"), filepath.Join(to, "letters/big.bin"))
			must(t, os.WriteFile(mark, []byte("another start of the machine"), 0o600))
			o := files.RestoreOptions{Tree: v.OpenTree(b), To: to, Onto: c.onto}
			// The first run fails, as one that is cut off: a directory with something in it stands where a file belongs.
			must(t, os.MkdirAll(filepath.Join(to, "letters.old/full"), 0o700))
			if _, err := files.Restore(t.Context(), o); err == nil {
				t.Fatal("a directory with something in it was replaced")
			}
			must(t, os.RemoveAll(filepath.Join(to, "letters.old")))
			torn(t, filepath.Join(dir, "letters/big.bin"), filepath.Join(to, "letters/big.bin")) // it had not come to this one
			r, err := files.Restore(t.Context(), o)
			must(t, err)
			if c.mark == b.ID {
				if _, err := os.Stat(mark); err == nil {
					t.Error("the mark stayed")
				}
			} else {
				must(t, os.Remove(mark))
			}
			if d := cmp.Diff(look(t, dir)["letters/big.bin"], look(t, to)["letters/big.bin"]); d != "" || r.Kept > 0 {
				t.Errorf("%d bytes were kept: %s", r.Kept, d)
			}
			torn(t, filepath.Join(dir, "letters/big.bin"), filepath.Join(to, "letters/big.bin"))
			if r, err := files.Restore(t.Context(), files.RestoreOptions{Tree: v.OpenTree(b), To: to, Onto: files.OntoDelta}); err != nil || r.Kept == 0 {
				t.Errorf("after a good end size and time count again: %d bytes were kept, %v", r.Kept, err)
			}
		})
	}
}
