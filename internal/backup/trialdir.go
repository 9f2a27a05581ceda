package backup

import (
	"context"
	"fmt"

	"golang.org/x/sys/unix"

	"holdfast/internal/problem"
	"holdfast/internal/restore"
	"holdfast/internal/vault"
)

// SweepTrials removes what validations and restores that were killed have left below parent; see [restore.SweepTrials].
func SweepTrials(ctx context.Context, parent string) (removed []string, err error) {
	return restore.SweepTrials(ctx, parent)
}

// checkRoom refuses a validation that would leave too little room for others.
func checkRoom(dir string, b vault.Backup, log int64) error {
	free, need, err := roomOn(dir, b, log)
	if err != nil {
		return err
	}
	if free < need {
		return &problem.Problem{Code: "backup.no-room-to-prove", Subject: b.Database, Severity: problem.Degraded,
			Title:   fmt.Sprintf("%s has %d MB free; restoring %s on trial needs %d MB with what must stay free", dir, free>>20, b.ID, need>>20),
			Meaning: "The backup is whole in the vault, and is not proven. Nothing was written.",
			Remedy:  "make room on that disk, or prove it on another machine: holdfast backup validate --vault URL --key FILE --dir DIR " + b.Database}
	}
	return nil
}

// checkDrillRoom refuses a drill in the same case.
func checkDrillRoom(dir string, b vault.Backup, log int64) error {
	free, need, err := roomOn(dir, b, log)
	if err != nil || free >= need {
		return err
	}
	return &problem.Problem{Code: "restore.no-space", Subject: b.Database, Severity: problem.Critical,
		Title:   fmt.Sprintf("the disk of %s has %d MB free; a drill needs %d MB with what must stay free", dir, free>>20, need>>20),
		Meaning: "Nothing was written, and nothing was found out.", Remedy: "name a directory on a larger disk with --scratch"}
}

// roomOn is how much is free on the disk of a directory, and how much must be.
func roomOn(dir string, b vault.Backup, log int64) (free, need int64, err error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return 0, 0, fmt.Errorf("ask for free space on %s: %w", dir, err)
	}
	return int64(st.Bavail) * st.Bsize, roomFor(b.Bytes, log, int64(st.Blocks)*st.Bsize), nil
}

// roomFor is how much must be free before a validation: the data, its log twice over (replay writes too), and the spare.
func roomFor(data, log, disk int64) int64 {
	return data + 2*log + restore.Spare(disk)
}
