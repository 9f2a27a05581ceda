package upkeep

import (
	"context"
	"errors"
	"time"

	"holdfast/internal/vault/repo"
)

// Task is one part of upkeep, by the name that kopia has for it.
type Task string

// The tasks, in the order in which they are done.
const (
	TaskCollect    Task = "snapshot-gc"
	TaskRewrite    Task = "full-rewrite-contents"
	TaskDrop       Task = "full-drop-deleted-content"
	TaskDelete     Task = "full-delete-blobs"
	TaskCompact    Task = "compact-single-epoch"
	TaskAdvance    Task = "advance-epoch"
	TaskCheckpoint Task = "generate-epoch-range-index"
	TaskMarkers    Task = "cleanup-epoch-markers"
	TaskSuperseded Task = "delete-superseded-epoch-indexes"
	TaskLogs       Task = "cleanup-logs"
)

// RunInfo is how one task once went.
type RunInfo struct {
	Start   time.Time `json:"start"`
	End     time.Time `json:"end"`
	Success bool      `json:"success,omitempty"`
	Error   string    `json:"error,omitempty"`
}

// Schedule is what is kept of the runs of upkeep in the blob kopia.maintenance.
type Schedule struct {
	NextFull  time.Time `json:"nextFullMaintenance"`
	NextQuick time.Time `json:"nextQuickMaintenance"`

	Runs map[Task][]RunInfo `json:"runs"` // the newest first
}

// Report adds a run, and forgets what is too old to matter.
func (s *Schedule) Report(t Task, i RunInfo) {}

// Last is when a task last ended well; zero = never, as far as is kept.
func (s *Schedule) Last(t Task) time.Time { return time.Time{} }

// GetSchedule reads the schedule; an empty one where none was written yet. One that cannot be read is an error.
func GetSchedule(ctx context.Context, r *repo.Repository) (*Schedule, error) {
	return nil, errors.New("not yet")
}

// SetSchedule writes the schedule.
func SetSchedule(ctx context.Context, r *repo.Repository, s *Schedule) error {
	return errors.New("not yet")
}
