package files

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"
	"time"

	"holdfast/internal/durable"
	"holdfast/internal/vault"
)

// Still brings a file set and a database to stand still while a backup is taken. Whatever happens, After runs; a note on
// the disk says so to whoever comes after a crash.
type Still struct {
	Note     string                                         // file that stands while they do
	Before   []string                                       // commands
	After    []string                                       // likewise
	Run      func(ctx context.Context, argv []string) error // runs one of them
	Mark     func(ctx context.Context) (vault.Point, error) // notes the database's position
	Freeze   time.Duration                                  // at most so long from Before to After
	Snapshot time.Duration                                  // at most so long for Mark and the files
	// Stuck is told when After did not succeed: the note stays, and [Thaw] is to be called until it does.
	Stuck func(err error)
}

// thawMax bounds one run of After.
const thawMax = time.Minute

// note is what the file holds.
type note struct {
	After []string  `json:"after"`
	Since time.Time `json:"since"`
}

// still takes the backup, with everything standing still where that is asked for.
func (c *capture) still(ctx context.Context) (err error) {
	s := c.o.Still
	if s == nil {
		return c.take(ctx)
	}
	began := c.o.Clock.Now()
	raw, err := json.Marshal(note{s.After, began.UTC()})
	if err == nil {
		err = durable.WriteFile(s.Note, raw, 0o600)
	}
	if err != nil {
		return fmt.Errorf("note that files and database stand still: %w", err)
	}
	var takes sync.WaitGroup
	var frozenFor time.Duration
	defer func() {
		takes.Wait()
		if c.b.Point != nil {
			c.b.Point.Frozen = frozenFor
		}
	}()
	defer func() {
		if thawed := s.thaw(ctx, s.After); thawed != nil {
			s.Stuck(thawed)
			c.o.Log.ErrorContext(ctx, "files and database were not let go on", "files", c.o.Set, "err", thawed)
		}
		frozenFor = c.o.Clock.Now().Sub(began)
	}()
	frozen, done := context.WithTimeout(ctx, s.Freeze)
	defer done()
	if err := s.Run(frozen, s.Before); err != nil {
		return fmt.Errorf("make files and database stand still: %w", overdue(frozen, s.Freeze, err))
	}
	taking, end := context.WithTimeout(frozen, s.Snapshot)
	defer end()
	point, err := s.Mark(taking)
	if err == nil {
		c.b.Point = &point
		took := make(chan error, 1)
		takes.Go(func() { took <- c.take(taking) })
		select {
		case err = <-took:
		case <-taking.Done(): // a vault that hangs keeps nobody standing still: they are let go on before it is waited for
			err = taking.Err()
		}
	}
	if err != nil {
		return fmt.Errorf("take files and database as they stand still: %w", overdue(taking, s.Snapshot, err))
	}
	return nil
}

// overdue says in words that a limit was reached.
func overdue(ctx context.Context, limit time.Duration, err error) error {
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return fmt.Errorf("it took longer than %s, and was given up: %w", limit, err)
	}
	return err
}

// thaw lets files and database go on, also when whoever asked is gone, and takes the note away once that has succeeded.
func (s *Still) thaw(ctx context.Context, after []string) error {
	ctx, done := context.WithTimeout(context.WithoutCancel(ctx), thawMax)
	defer done()
	if err := s.Run(ctx, after); err != nil {
		return fmt.Errorf("let files and database go on: %w", overdue(ctx, thawMax, err))
	}
	if err := os.Remove(s.Note); err != nil {
		return fmt.Errorf("let files and database go on: %w", err)
	}
	return nil
}

// Thaw lets go on what a backup before has left standing still: its agent died, or the command did not succeed. It
// gives since when that is so; zero = nothing stands still.
func Thaw(ctx context.Context, path string, run func(ctx context.Context, argv []string) error) (time.Time, error) {
	raw, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return time.Time{}, nil
	}
	var n note
	if err == nil {
		err = json.Unmarshal(raw, &n)
	}
	if err != nil {
		return time.Time{}, fmt.Errorf("read %s: %w", path, err)
	}
	s := &Still{Note: path, Run: run}
	return n.Since, s.thaw(ctx, n.After)
}
