package postgres

import (
	"errors"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"holdfast/internal/problem"
)

func TestDirectoriesOfOneDiskShareItsRoom(t *testing.T) {
	got, err := byDisk(map[string]int64{"/data": 5, "/fast": 7, "/slow": 11}, func(dir string) (uint64, error) {
		return map[string]uint64{"/data": 1, "/fast": 2, "/slow": 1}[dir], nil
	})
	if err != nil {
		t.Fatal(err)
	}
	want := []diskNeed{{[]string{"/data", "/slow"}, 16}, {[]string{"/fast"}, 7}}
	if d := cmp.Diff(want, got, cmp.AllowUnexported(diskNeed{})); d != "" {
		t.Error(d)
	}
	wrong := errors.New("no answer")
	if _, err := byDisk(map[string]int64{"/data": 5}, func(string) (uint64, error) { return 0, wrong }); !errors.Is(err, wrong) {
		t.Errorf("a disk that cannot be asked: %v", err)
	}
}

// Each of them fits alone, and they do not together.
func TestACopyIsRefusedThatItsDiskCannotHoldAsAWhole(t *testing.T) {
	top := t.TempDir()
	dir := filepath.Join(top, "db")
	s := &Server{cfg: Config{Database: "orders", Host: "b1"}, at: layout{dir: dir, data: filepath.Join(dir, "data")}}
	const gb = 1 << 30
	for name, c := range map[string]struct {
		free, data int64
		spaces     map[string]int64
		fits       bool
	}{
		"data alone":                         {10*gb + copyLogRoom + copyMargin, 10 * gb, nil, true},
		"data alone, a byte short":           {10*gb + copyLogRoom + copyMargin - 1, 10 * gb, nil, false},
		"with tablespaces":                   {30*gb + copyLogRoom + copyMargin, 10 * gb, map[string]int64{"fast": 8 * gb, "far/slow": 12 * gb}, true},
		"with tablespaces, a byte short":     {30*gb + copyLogRoom + copyMargin - 1, 10 * gb, map[string]int64{"fast": 8 * gb, "far/slow": 12 * gb}, false},
		"one that shrinks makes no room now": {10*gb + copyLogRoom + copyMargin - 1, 10 * gb, map[string]int64{"fast": -5 * gb}, false},
	} {
		t.Run(name, func(t *testing.T) {
			s.cfg.Free = func(string) (int64, error) { return c.free, nil }
			spaces := map[string]int64{}
			for name, n := range c.spaces { // that none of them is there changes nothing
				spaces[filepath.Join(top, name)] = n
			}
			err := s.hasRoom(c.data, spaces)
			if c.fits {
				if err != nil {
					t.Error(err)
				}
				return
			}
			p, ok := errors.AsType[*problem.Problem](err)
			if !ok || p.Code != "database.no-space-for-copy" {
				t.Fatalf("it says %v", err)
			}
			for at := range spaces {
				if !strings.Contains(p.Remedy, at) {
					t.Errorf("%s is not named: %s", at, p.Remedy)
				}
			}
		})
	}
}
