package restore

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"holdfast/internal/problem"
)

func TestWhatComesIntoTheLiveClusterFitsOnEachServer(t *testing.T) {
	const gb = 1 << 30
	type disk struct {
		free   int64
		number uint64
	}
	for name, c := range map[string]struct {
		here    map[string]disk // directories of this machine
		members []Member
		says    string // in the refusal; "" = it fits
		unknown []string
	}{
		"a primary alone has room":                            {map[string]disk{"data": {12 * gb, 1}}, nil, "", nil},
		"a primary alone has none":                            {map[string]disk{"data": {9 * gb, 1}}, nil, "the disk of the primary has 9216 MB free, 10240 MB are needed", nil},
		"a standby elsewhere has too little":                  {map[string]disk{"data": {12 * gb, 1}}, []Member{{Host: "b2", Known: true, Free: 50 * gb}, {Host: "b3", Known: true, Free: gb}}, "the disk of standby b3 has 1024 MB free, 10240 MB are needed", nil},
		"a standby elsewhere is full":                         {map[string]disk{"data": {12 * gb, 1}}, []Member{{Host: "b3", Known: true}}, "the disk of standby b3 has 0 MB free", nil},
		"standbys elsewhere have disks of their own":          {map[string]disk{"data": {12 * gb, 1}}, []Member{{Host: "b2", Known: true, Free: 11 * gb}, {Host: "b3", Known: true, Free: 11 * gb}}, "", nil},
		"servers of this machine share a disk":                {map[string]disk{"data": {25 * gb, 1}, "b2": {25 * gb, 1}, "b3": {25 * gb, 1}}, []Member{{Host: "b2", Dir: "b2"}, {Host: "b3", Dir: "b3"}}, "the disk of the primary and standby b2 and standby b3 has 25600 MB free, 30720 MB are needed", nil},
		"servers of this machine have disks of their own":     {map[string]disk{"data": {11 * gb, 1}, "b2": {11 * gb, 2}}, []Member{{Host: "b2", Dir: "b2"}}, "", nil},
		"what was looked at here counts before what was told": {map[string]disk{"data": {12 * gb, 1}, "b2": {gb, 2}}, []Member{{Host: "b2", Dir: "b2", Known: true, Free: 99 * gb}}, "the disk of standby b2 has 1024 MB free", nil},
		"one that does not answer is named":                   {map[string]disk{"data": {12 * gb, 1}}, []Member{{Host: "b2"}, {Host: "b3", Known: true, Free: 11 * gb}}, "", []string{"b2"}},
	} {
		all, unknown, err := liveNeeds("data", c.members, 10*gb, func(dir string) (int64, uint64, error) {
			d, ok := c.here[dir]
			if !ok {
				return 0, 0, errors.New("nothing is there")
			}
			return d.free, d.number, nil
		})
		if err != nil || !slices.Equal(unknown, c.unknown) {
			t.Errorf("%s: not known are %v, %v", name, unknown, err)
		}
		err = cramped("orders", all)
		p, refused := errors.AsType[*problem.Problem](err)
		if refused != (c.says != "") || refused && (p.Code != "restore.no-space" || !strings.Contains(p.Title, c.says)) {
			t.Errorf("%s: %v, want %q", name, err, c.says)
		}
	}
	if _, _, err := liveNeeds("data", nil, 1, func(string) (int64, uint64, error) { return 0, 0, errors.New("nothing is there") }); err == nil {
		t.Error("a disk that cannot be looked at has room")
	}
}
