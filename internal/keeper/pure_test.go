package keeper

import (
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func TestCgroup2Mount(t *testing.T) {
	for name, tc := range map[string]struct {
		mountinfo, own string
		want           []string
	}{
		"a hybrid host has it at unified": {
			"31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n32 31 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n41 31 0:38 / /sys/fs/cgroup/unified rw,relatime shared:9 - cgroup2 cgroup2 rw\n",
			"4:memory:/x\n0::/a/b\n", []string{"/sys/fs/cgroup/unified/a/b", "/sys/fs/cgroup/unified"},
		},
		"at the root the mount itself is the parent": {"41 31 0:38 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n", "0::/\n", []string{"/sys/fs/cgroup"}},
		"a container that sees a part of it":         {"41 31 0:38 /lxc/a /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n", "0::/lxc/a/svc\n", []string{"/sys/fs/cgroup/svc", "/sys/fs/cgroup"}},
		"an own group outside the mounted part":      {"41 31 0:38 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n", "0::/../other\n", []string{"/sys/fs/cgroup"}},
		"a mount point with a blank":                 {"41 31 0:38 / /mnt/my\\040groups rw - cgroup2 cgroup2 rw\n", "0::/\n", []string{"/mnt/my groups"}},
		"no cgroup2":                                 {"31 23 0:28 / / rw - ext4 /dev/sda rw\n", "", nil},
	} {
		t.Run(name, func(t *testing.T) {
			var got []string
			if mount, root, ok := cgroup2Mount([]byte(tc.mountinfo)); ok {
				got = cgroupParents(mount, root, ownCgroup([]byte(tc.own)))
			}
			if d := cmp.Diff(tc.want, got); d != "" {
				t.Error(d)
			}
		})
	}
}

func TestDescendants(t *testing.T) {
	p := func(pid, parent int, state byte) procStat {
		return procStat{process: process{PID: pid, Start: 1}, parent: parent, state: state}
	}
	all := []procStat{p(1, 0, 'S'), p(10, 1, 'S'), p(11, 10, 'S'), p(12, 11, 'Z'), p(13, 12, 'S'), p(20, 1, 'S'), p(10, 13, 'S')}
	var got []int
	for _, d := range descendants(all, 10) {
		got = append(got, d.PID)
	}
	if d := cmp.Diff([]int{11, 13}, got); d != "" {
		t.Error(d)
	}
}

// However it is extended: the deadline never moves back, the epoch neither, and once passed it is over.
func TestDeadlineNeverShortens(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d := deadline{allowed: true}
		now := time.Duration(0)
		for range rapid.IntRange(1, 30).Draw(t, "steps") {
			now += time.Duration(rapid.IntRange(0, 5).Draw(t, "pass"))
			was := d
			epoch := int64(rapid.IntRange(0, 3).Draw(t, "epoch"))
			until := now + time.Duration(rapid.IntRange(-5, 10).Draw(t, "until"))
			err := d.extend(now, epoch, until)
			switch {
			case d.armed && d.until < was.until, d.epoch < was.epoch:
				t.Fatalf("went back from %+v to %+v", was, d)
			case was.expired(now) && (!errors.Is(err, ErrFenced) || d != was):
				t.Fatalf("revived %+v at %d: %v", was, now, err)
			case !was.expired(now) && epoch < was.epoch && (!errors.Is(err, ErrEpoch) || d != was):
				t.Fatalf("epoch %d extended %+v: %v", epoch, was, err)
			case err == nil && d.until < until:
				t.Fatalf("extended to %v only, asked %v", d.until, until)
			}
		}
	})
}
