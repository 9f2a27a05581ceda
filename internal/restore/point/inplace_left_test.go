package point

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"

	"holdfast/internal/problem"
)

// cutOffBefore is an application whose restore in place was cut off before anything was exchanged: a live directory, one
// beside it, and the journal.
func cutOffBefore(t *testing.T) (Stage, Journal) {
	t.Helper()
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	st := Stage{Set: "attachments", Database: "records", Base: filepath.Join(dir, "in-place"), Path: filepath.Join(dir, "set"), Held: filepath.Join(dir, "held"), Note: filepath.Join(dir, "note")}
	j := Journal{Format: journalFormat, Run: "20260101000000", Set: st.Set, Path: st.Path, Beside: st.Path + ".holdfast-20260101000000", To: Came, Began: time.Now(), SQL: Was}
	if err := errors.Join(os.Mkdir(st.Base, 0o755), os.Mkdir(j.Path, 0o700), os.Mkdir(j.Beside, 0o700), j.write(st.Base)); err != nil {
		t.Fatal(err)
	}
	return st, j
}

func codeOf(err error) string {
	if p, ok := errors.AsType[*problem.Problem](err); ok {
		return p.Code
	}
	return ""
}

// One that was killed while it waited for the agent, before it noted that it keeps it out, does not keep it out for ever.
func TestTheAgentIsNotKeptOutByARestoreInPlaceThatWasLetGoOf(t *testing.T) {
	st, _ := cutOffBefore(t)
	if err := os.WriteFile(st.Held, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	j, err := st.Undo(t.Context())
	if err != nil || j.Ended.IsZero() {
		t.Fatalf("%+v, %v", j, err)
	}
	if _, err := os.Stat(st.Held); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the agent is kept out still: %v", err)
	}
}

// What somebody has put in the place of what was set aside does not become live.
func TestADirectoryThatIsNotOursIsNotExchanged(t *testing.T) {
	st, j := cutOffBefore(t)
	was, err := inodeOf(j.Path)
	came, err2 := inodeOf(j.Beside)
	if err := errors.Join(err, err2); err != nil {
		t.Fatal(err)
	}
	j.WasInode, j.CameInode = was, came
	if err := errors.Join(os.Rename(j.Beside, j.Beside+"-away"), os.Mkdir(j.Beside, 0o700)); err != nil {
		t.Fatal(err)
	}
	if err := st.hands(&j, Options{}, nil).swapFiles(); codeOf(err) != "restore.undo-unclear" {
		t.Errorf("it says %v", err)
	}
	if now, err := inodeOf(j.Path); err != nil || now != was {
		t.Errorf("another directory is live: %d, %v", now, err)
	}
}

// A set that holds the place where Holdfast works would take it away with what is set aside.
func TestASetThatHoldsWhereHoldfastWorksIsRefused(t *testing.T) {
	st, j := cutOffBefore(t)
	for name, base := range map[string]string{
		"in it, and not there yet":     filepath.Join(j.Path, "root", "in-place"),
		"in it, by a symbolic link":    filepath.Join(filepath.Dir(j.Path), "link", "in-place"),
		"the set lies in its own room": filepath.Dir(j.Path),
	} {
		_ = os.Symlink(j.Path, filepath.Join(filepath.Dir(j.Path), "link")) // there from the second on
		st.Base = base
		if _, err := st.livesAt(); codeOf(err) != "restore.not-exchangeable" {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// blind loses sight of the live server once SQL names were exchanged.
type blind struct{ now Seen }

func (b *blind) seen(context.Context) (Seen, error) {
	if b.now.SQL == Came {
		return Seen{}, errors.New("the live server does not answer")
	}
	return b.now, nil
}

func (b *blind) do(_ context.Context, step Step) error {
	b.now = b.now.after(step)
	return nil
}

// Whoever does not know any more how it stands does not say that everything is as it was.
func TestAnExchangeThatIsLostSightOfIsToldAsHalf(t *testing.T) {
	if err := carry(t.Context(), Came, &blind{now: Seen{Restored: true, Loaded: true, SQL: Was, Files: Was}}); codeOf(err) != "restore.half-exchanged" {
		t.Errorf("it says %v", err)
	}
	if err := carry(t.Context(), Came, &blind{now: Seen{SQL: Came, Files: Was}}); codeOf(err) != "" {
		t.Errorf("before anything was begun it says %v", err)
	}
}
