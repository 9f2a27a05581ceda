package restore

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// What a killed restore has left goes with the next one, whatever it was for; what lives, what was kept and what is
// somebody's own stays.
func TestTrialsOfTheDeadAreRemoved(t *testing.T) {
	parent := t.TempDir()
	var dead, stay []string
	for _, why := range []Purpose{ForValidation, ForRecords, ForDiff, ForInto} {
		for _, end := range []string{"killed", "living", "kept"} {
			x, err := NewTrial(parent, why, "b")
			if err != nil {
				t.Fatal(err)
			}
			if err := os.Mkdir(x.Data(), 0o700); err != nil {
				t.Fatal(err)
			}
			switch end {
			case "killed":
				dead, err = append(dead, x.Dir), x.lock.Close() // as the end of a process does
			case "kept":
				stay, err = append(stay, x.Dir), x.Keep()
			default:
				stay = append(stay, x.Dir)
				defer func() {
					if err := x.Remove(t.Context()); err != nil {
						t.Error(err)
					}
				}()
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		own := filepath.Join(parent, string(why)+"own")
		if err := os.Mkdir(own, 0o700); err != nil {
			t.Fatal(err)
		}
		stay = append(stay, own)
	}
	next, err := openTrial(t.Context(), parent, ForRecords, "b")
	if err != nil {
		t.Fatal(err)
	}
	if err := next.Remove(t.Context()); err != nil {
		t.Error(err)
	}
	left, err := filepath.Glob(filepath.Join(parent, "*"))
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(stay)
	if !slices.Equal(left, stay) {
		t.Errorf("left are %v, want %v; the dead were %v", left, stay, dead)
	}
}
