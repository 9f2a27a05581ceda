package host

import (
	"context"
	"fmt"
	"path/filepath"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"holdfast/internal/problem"
)

const (
	// diskStart is the least free space with which a host is started: its servers' first log alone takes a third.
	diskStart = 512 << 20
	// diskLow is the free space below which it is said.
	diskLow = 2 << 30
	// diskEvery is how often a host looks.
	diskEvery = 5 * time.Second
)

// diskFree is what an unprivileged process may still write where path lies, or where its nearest parent does.
func diskFree(path string) (int64, error) {
	for {
		var fs unix.Statfs_t
		err := unix.Statfs(path, &fs)
		if err == nil {
			return int64(fs.Bavail) * fs.Bsize, nil
		}
		parent := filepath.Dir(path)
		if parent == path {
			return 0, fmt.Errorf("ask for the free space of %s: %w", path, err)
		}
		path = parent
	}
}

// diskProblem judges the free space of a host's directory; nil = there is enough.
func diskProblem(host, dir string, least int64) *problem.Problem {
	free, err := diskFree(dir)
	if err != nil || free >= least {
		return nil // where nothing can be learnt, the writes themselves will say
	}
	severity := problem.Degraded
	if free < diskStart {
		severity = problem.Critical
	}
	return &problem.Problem{
		Code: "host.disk-low", Subject: host, Severity: severity,
		Title:   fmt.Sprintf("%d MiB are free for %s", free>>20, dir),
		Meaning: "A full disk stops the database on this host, and with it its part in every failover. Nothing was deleted.",
		Remedy:  "free or add space; Holdfast needs 2 GiB to be at ease, and 512 MiB to start",
	}
}

// CheckSpace refuses a host whose disk is as good as full. It changes nothing.
func CheckSpace(cfg Config) error {
	if p := diskProblem(cfg.Self, cfg.Dir, diskStart); p != nil {
		return p
	}
	return nil
}

// disk watches the free space of a host's directory.
type disk struct {
	host *Host
	now  atomic.Pointer[problem.Problem]
}

func (d *disk) run(ctx context.Context) error {
	for {
		d.now.Store(diskProblem(d.host.cfg.Self, d.host.cfg.Dir, diskLow))
		if !d.host.sleep(ctx, diskEvery) {
			return nil
		}
	}
}

// problems are those of the host itself, for its report.
func (d *disk) problems() []problem.Problem {
	if p := d.now.Load(); p != nil {
		return []problem.Problem{*p}
	}
	return nil
}
