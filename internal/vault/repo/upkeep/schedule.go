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
	runsKept   = 50             // of each task
	runsRecent = 5              // that are kept whatever lies between them
	runsApart  = 12 * time.Hour // between older ones
)

// Report adds a run, and forgets what is too old to matter. Of older runs a few a day are kept, so that frequent runs never push
// out the one of days ago that the second look at what was marked is measured from.
func (s *Schedule) Report(t Task, i RunInfo) {
	if s.Runs == nil {
		s.Runs = map[Task][]RunInfo{}
	}
	all := append([]RunInfo{i}, s.Runs[t]...)
	var kept []RunInfo
	for n, run := range all {
		last := len(kept) - 1
		switch {
		case len(kept) == runsKept:
		case n < runsRecent || n == len(all)-1, run.Success && kept[last].Start.Sub(run.Start) >= runsApart:
			kept = append(kept, run)
		}
	}
	s.Runs[t] = kept
}

// Last is when a task last ended well; zero = never, as far as is kept.
func (s *Schedule) Last(t Task) time.Time {
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

// GetSchedule reads the schedule; an empty one where none was written yet. One that cannot be read is an error.
func GetSchedule(ctx context.Context, r *repo.Repository) (*Schedule, error) {
	raw, err := r.ReadBlob(ctx, scheduleBlob)
	if errors.Is(err, store.ErrNotFound) && !errors.Is(err, store.ErrUnseen) {
		return &Schedule{}, nil
	}
	s := &Schedule{}
	if err == nil {
		err = openSchedule(r, raw, s)
	}
	if err != nil {
		return nil, fmt.Errorf("read the schedule of upkeep: %w", err)
	}
	return s, nil
}

// SetSchedule writes the schedule.
func SetSchedule(ctx context.Context, r *repo.Repository, s *Schedule) error {
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
		return fmt.Errorf("%d bytes are none", len(raw))
	}
	plain, err := aead.Open(nil, raw[:aead.NonceSize()], raw[aead.NonceSize():], []byte(scheduleData))
	if err != nil {
		return err
	}
	return json.Unmarshal(plain, into)
}
