package upkeep

import (
	"context"
	"time"

	"holdfast/internal/vault/repo"
)

// GetSchedule reads the schedule.
func GetSchedule(ctx context.Context, r *repo.Repository) (*Schedule, error) {
	return readSchedule(ctx, r)
}

// Last is when a task last ended well.
func (s *Schedule) Last(t Task) time.Time { return s.last(t) }
