package files

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"sync"
	"time"

	"holdfast/internal/durable"
	"holdfast/internal/vault"
)

// Still brings a file set and a database to stand still while a backup is taken. Whatever happens, After runs; a note on
// the disk says so to whoever comes after a crash.
type Still struct {
	Note     string                                         // file that stands while they do
	Held     string                                         // file; while it is there somebody else makes them stand still; "" = nobody could
	Before   []string                                       // command
	After    []string                                       // likewise
	Env      []string                                       // what both are told, beside the agent's own environment
	Run      func(ctx context.Context, c Command) error     // runs one of them
	Mark     func(ctx context.Context) (vault.Point, error) // notes the database's position
	Freeze   time.Duration                                  // at most so long from Before to After
	Snapshot time.Duration                                  // at most so long for Mark and the files
	// Stuck is told when After did not succeed: the note stays, and [Thaw] is to be called until it does.
	Stuck func(err error)
}

// Command is a command of a moment, run in a process group of its own.
type Command struct {
	Argv []string
	Env  []string // beside the agent's own
	// Began is told the process before it does anything; nil = nobody asks. After an error it does nothing at all, and
	// when the agent dies before Began has ended, neither.
	Began func(pid int) error
}

// thawMax bounds one run of After, and the end of a Before that an agent which died has left.
const thawMax = time.Minute

// note is what the file holds.
type note struct {
	After  []string  `json:"after"`
	Env    []string  `json:"env,omitempty"`
	Since  time.Time `json:"since"`
	Before *Process  `json:"before,omitempty"` // leads the group of Before; nil = it has not begun
}

func (n note) write(path string) error {
	raw, err := json.Marshal(n)
	if err == nil {
		err = durable.WriteFile(path, raw, 0o600)
	}
	if err != nil {
		return fmt.Errorf("note that files and database stand still: %w", err)
	}
	return nil
}

// still takes the backup, with everything standing still where that is asked for.
func (c *capture) still(ctx context.Context) (err error) {
	s := c.o.Still
	if s == nil {
		return c.take(ctx)
	}
	if len(s.Before) == 0 || len(s.After) == 0 {
		return errors.New("make files and database stand still: there is no command for it, or none that lets them go on")
	}
	began := c.o.Clock.Now()
	if err := s.claim(); err != nil {
		return err
	}
	n := note{After: s.After, Env: s.Env, Since: began.UTC()}
	if err := n.write(s.Note); err != nil {
		return err
	}
	var takes sync.WaitGroup
	var frozenFor time.Duration
	stuck := ""
	defer func() {
		takes.Wait()
		if c.b.Point != nil {
			c.b.Point.Frozen, c.b.Point.Stuck = frozenFor, stuck
		}
	}()
	defer func() {
		if thawed := s.thaw(ctx, Command{Argv: s.After, Env: s.Env}); thawed != nil {
			s.Stuck(thawed)
			stuck = thawed.Error()
			c.o.Log.ErrorContext(ctx, "files and database were not let go on", "files", c.o.Set, "err", thawed)
		}
		frozenFor = c.o.Clock.Now().Sub(began)
	}()
	frozen, done := context.WithTimeout(ctx, s.Freeze)
	defer done()
	before := Command{Argv: s.Before, Env: s.Env, Began: func(pid int) error {
		p, err := ProcessOf(pid)
		if err != nil {
			return err
		}
		n.Before = &p
		return n.write(s.Note)
	}}
	if err := s.Run(frozen, before); err != nil {
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

// ErrHeld says that files and database are another's to make stand still, and to let go on.
var ErrHeld = errors.New("a restore in place has brought files and database to stand still, and was not ended yet")

// claim leaves a note that nothing stands still, and then looks whether another holds both: who holds them looks for the note
// behind that, so that one of the two sees the other. A crash in between lets nothing go on.
func (s *Still) claim() error {
	if s.Held == "" {
		return nil
	}
	if err := (note{Since: time.Now().UTC()}).write(s.Note); err != nil {
		return err
	}
	_, err := os.Stat(s.Held)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		err = ErrHeld
	}
	return errors.Join(err, os.Remove(s.Note))
}

// overdue says in words that a limit was reached.
func overdue(ctx context.Context, limit time.Duration, err error) error {
	if err != nil && errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return fmt.Errorf("it took longer than %s, and was given up: %w", limit, err)
	}
	return err
}

// thaw lets files and database go on, also when whoever asked is gone, and takes the note away once one of the
// commands has succeeded. They are tried in turn.
func (s *Still) thaw(ctx context.Context, after ...Command) error {
	var failed error
	for _, c := range after {
		err := s.run(ctx, c)
		if err == nil {
			failed = nil
			break
		}
		failed = errors.Join(failed, err)
	}
	if failed == nil {
		failed = os.Remove(s.Note)
	}
	if failed != nil {
		return fmt.Errorf("let files and database go on: %w", failed)
	}
	return nil
}

func (s *Still) run(ctx context.Context, c Command) error {
	ctx, done := context.WithTimeout(context.WithoutCancel(ctx), thawMax)
	defer done()
	return overdue(ctx, thawMax, s.Run(ctx, c))
}

// Thaw lets go on what a backup before has left standing still: its agent died, or the command did not succeed. A
// command that was to make it stand still, and has outlived its agent, is ended first. Then the command that was noted
// runs, for it belongs to the one that ran before; when it does not succeed, the one that the plan has now. It gives
// since when that is so; zero = nothing stands still.
func Thaw(ctx context.Context, path string, run func(ctx context.Context, c Command) error, now Command) (time.Time, error) {
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
	if n.Before != nil {
		limited, done := context.WithTimeout(ctx, thawMax)
		err := n.Before.End(limited)
		done()
		if err != nil {
			return n.Since, fmt.Errorf("end the command that makes files and database stand still: %w", err)
		}
	}
	var after []Command // none = the note is of nothing that ever stood still
	if len(n.After) > 0 {
		after = append(after, Command{Argv: n.After, Env: n.Env})
		if len(now.Argv) > 0 && !slices.Equal(now.Argv, n.After) {
			after = append(after, now)
		}
	}
	s := &Still{Note: path, Run: run}
	return n.Since, s.thaw(ctx, after...)
}
