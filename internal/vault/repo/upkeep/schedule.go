package upkeep

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"holdfast/internal/vault/repo"
	"holdfast/internal/vault/store"
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
	Start   time.Time       `json:"start"`
	End     time.Time       `json:"end"`
	Success bool            `json:"success,omitempty"`
	Error   string          `json:"error,omitempty"`
	Extra   json.RawMessage `json:"extra,omitempty"` // what a stock kopia program said beside it
}

// Schedule is what is kept of the runs of upkeep in the blob kopia.maintenance.
type Schedule struct {
	NextFull  time.Time `json:"nextFullMaintenance"`
	NextQuick time.Time `json:"nextQuickMaintenance"`

	Runs map[Task][]RunInfo `json:"runs"` // the newest first
}

const (
	runsRecent = 5              // of each task, whatever lies between them
	looksKept  = 50             // of TaskCollect
	looksApart = 12 * time.Hour // in which one of the older ones is kept
)

// report adds a run, and forgets what is too old to matter. Of older looks for what is unused that ended well the last one of each
// half day is kept, so that frequent runs never push out the one of days ago that the second look at what was marked is measured
// from. It is the half day by the calendar: by the time between one that is kept and the next, runs less than that apart would all
// go as they grow old.
func (s *Schedule) report(t Task, i RunInfo) {
	if s.Runs == nil {
		s.Runs = map[Task][]RunInfo{}
	}
	all := append([]RunInfo{i}, s.Runs[t]...)
	var kept []RunInfo
	half := time.Time{} // of the last good one that was gone by
	for n, run := range all {
		first := run.Success && !run.Start.Truncate(looksApart).Equal(half)
		older := t == TaskCollect && len(kept) < looksKept && (first || n == len(all)-1)
		if n < runsRecent || older {
			kept = append(kept, run)
		}
		if first {
			half = run.Start.Truncate(looksApart)
		}
	}
	s.Runs[t] = kept
}

// last is when a task last ended well; zero = never, as far as is kept.
func (s *Schedule) last(t Task) time.Time {
	var last time.Time
	for _, i := range s.Runs[t] {
		if i.Success && i.End.After(last) {
			last = i.End
		}
	}
	return last
}

// The blob is a random nonce and JSON behind it under AES-256-GCM, with a key and additional data of its own (kopia,
// repo/maintenance/maintenance_schedule.go).
const (
	scheduleBlob    = "kopia.maintenance"
	schedulePurpose = "maintenance schedule"
	scheduleData    = "maintenance"
	scheduleKey     = 32 // bytes
)

// errScheduleDamaged is why a blob is no schedule of this repository, or not whole.
var errScheduleDamaged = errors.New("it is damaged")

// readSchedule reads the schedule; an empty one where none was written yet. One that the place does not give is an error. One that is
// damaged is as good as lost, or nothing would ever be freed again: without any look nothing that is marked goes, and as packs
// may just have been joined, they stay for as long as after a joining.
func readSchedule(ctx context.Context, r *repo.Repository) (*Schedule, error) {
	raw, err := r.ReadBlob(ctx, scheduleBlob)
	if errors.Is(err, store.ErrNotFound) && !errors.Is(err, store.ErrUnseen) {
		return &Schedule{}, nil
	}
	s := &Schedule{}
	if err == nil {
		err = openSchedule(r, raw, s)
	}
	if errors.Is(err, errScheduleDamaged) {
		r.Log().WarnContext(ctx, "the schedule of upkeep begins anew", "err", err)
		s, err = &Schedule{}, nil
		s.attempted(r.Now())
	}
	if err != nil {
		return nil, fmt.Errorf("read the schedule of upkeep: %w", err)
	}
	return s, nil
}

// attempted says that packs are about to be joined, or may have been: when that breaks off, some of it may have taken effect.
func (s *Schedule) attempted(now time.Time) {
	s.report(TaskRewrite, RunInfo{Start: now, End: now, Error: "broken off"})
}

func writeSchedule(ctx context.Context, r *repo.Repository, s *Schedule) error {
	raw, err := sealSchedule(r, s)
	if err == nil {
		err = r.ReplaceBlob(ctx, scheduleBlob, raw)
	}
	if err != nil {
		return fmt.Errorf("write the schedule of upkeep: %w", err)
	}
	return nil
}

// deriver is what of a repository the schedule is sealed with.
type deriver interface {
	DeriveKey(purpose string, n int) ([]byte, error)
}

func scheduleCipher(r deriver) (cipher.AEAD, error) {
	key, err := r.DeriveKey(schedulePurpose, scheduleKey)
	if err != nil {
		return nil, err
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(block)
}

func sealSchedule(r deriver, s *Schedule) ([]byte, error) {
	aead, err := scheduleCipher(r)
	if err != nil {
		return nil, err
	}
	plain, err := json.Marshal(s)
	if err != nil {
		return nil, err
	}
	nonce := make([]byte, aead.NonceSize())
	if _, err := rand.Read(nonce); err != nil {
		return nil, err
	}
	return aead.Seal(nonce, nonce, plain, []byte(scheduleData)), nil
}

func openSchedule(r deriver, raw []byte, into *Schedule) error {
	aead, err := scheduleCipher(r)
	if err != nil {
		return err
	}
	if len(raw) < aead.NonceSize() {
		return fmt.Errorf("%w: %d bytes are none", errScheduleDamaged, len(raw))
	}
	plain, err := aead.Open(nil, raw[:aead.NonceSize()], raw[aead.NonceSize():], []byte(scheduleData))
	if err != nil {
		return fmt.Errorf("%w: %w", errScheduleDamaged, err)
	}
	return json.Unmarshal(plain, into)
}
