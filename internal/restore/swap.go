package restore

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
)

// Swap is an exchange of names of SQL databases as it is written down before it is done: whoever comes after a crash finds
// out with [Swapped] whether it was. It is one transaction.
type Swap struct {
	Run   string     `json:"run"` // when it was planned, in UTC; what is set aside carries it
	At    string     `json:"at"`  // what is set aside says that this was restored instead
	Names []SwapName `json:"names"`
}

// SwapName is one name that gets another content.
type SwapName struct {
	Name string `json:"name"`
	In   string `json:"in,omitempty"`  // what gets the name is called so until then; "" = nobody has the name afterwards
	Out  string `json:"out,omitempty"` // what has the name now is kept as this; "" = nothing has it
}

// NewRun is a name for a restore in place that begins now.
func NewRun(now time.Time) string { return now.UTC().Format(runTime) }

// Planned is the exchange that [InPlace.Exchange] will do, once everything is loaded.
func (p *InPlace) Planned() Swap {
	s := Swap{Run: p.run, At: p.into.o.At.String()}
	for _, x := range p.Databases {
		s.Names = append(s.Names, SwapName{Name: x.Name, In: x.interim, Out: x.Kept})
	}
	return s
}

// Release lets others restore in place again, once the exchange is known to be done: what was loaded is live.
func (p *InPlace) Release(ctx context.Context) {
	for i := range p.Databases {
		p.Databases[i].interim = ""
	}
	if p.live != nil {
		_ = p.live.Close(ctx) // gives the lock back
		p.live = nil
	}
}

// Back is the exchange that takes this one back, in a run of its own, later than this. Pure.
func (s Swap) Back(now time.Time, at string) Swap {
	run := NewRun(now)
	if was, err := time.Parse(runTime, s.Run); err == nil && run <= s.Run { // within a second, or by a clock that was set back
		run = NewRun(was.Add(time.Second))
	}
	back := Swap{Run: run, At: at}
	for _, x := range s.Names {
		y := SwapName{Name: x.Name, In: x.Out}
		if x.In != "" {
			y.Out = keptName(x.Name, run)
		}
		back.Names = append(back.Names, y)
	}
	return back
}

// did reports whether it was done, from the names that there are: all of it is one transaction, so one name tells. Pure.
func (s Swap) did(there []string) bool {
	for _, x := range s.Names {
		switch {
		case x.Out != "":
			return slices.Contains(there, x.Out)
		case x.In != "":
			return slices.Contains(there, x.Name) && !slices.Contains(there, x.In)
		}
	}
	return true // there was nothing to do
}

// Swapped finds out whether an exchange was done. A server that is a standby by now is not asked: it may not have heard of it.
func Swapped(ctx context.Context, live func(string) string, s Swap) (bool, error) {
	conn, err := pgx.Connect(ctx, live("postgres"))
	if err != nil {
		return false, fmt.Errorf("reach the live database: %w", err)
	}
	defer func() { _ = conn.Close(ctx) }() // only asked
	var standby bool
	if err := conn.QueryRow(ctx, "select pg_is_in_recovery()").Scan(&standby); err != nil {
		return false, fmt.Errorf("ask whether the server is the primary: %w", err)
	}
	if standby {
		return false, errors.New("the server here is not the primary any more")
	}
	rows, err := conn.Query(ctx, "select datname::text from pg_database")
	if err != nil {
		return false, fmt.Errorf("list SQL databases: %w", err)
	}
	there, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return false, fmt.Errorf("list SQL databases: %w", err)
	}
	return s.did(there), nil
}

// CanSwap refuses an exchange with what was set aside before when that is not there any more or cannot be believed, and one
// of a database to which something is tied.
func CanSwap(ctx context.Context, live func(string) string, subject string, s Swap) error {
	conn, err := pgx.Connect(ctx, live("postgres"))
	if err != nil {
		return fmt.Errorf("reach the live database: %w", err)
	}
	defer func() { _ = conn.Close(ctx) }() // only asked
	return s.can(ctx, conn, subject)
}

func (s Swap) can(ctx context.Context, conn *pgx.Conn, subject string) error {
	all, err := setAside(ctx, conn)
	if err != nil {
		return fmt.Errorf("look for kept databases: %w", err)
	}
	for _, x := range s.Names {
		i := slices.IndexFunc(all, func(a aside) bool { return a.name == x.In && a.kept.Name == x.Name })
		if x.In != "" && i < 0 {
			return unclear(subject, x.In+" is not there any more, or does not say that it was set aside")
		}
		if x.In != "" {
			if why := all[i].doubt(time.Now()); why != "" {
				return unclear(subject, x.In+" cannot be believed: "+why)
			}
		}
		size, err := sizeOf(ctx, conn, x.Name)
		if err != nil {
			return err
		}
		if (size > 0) != (x.Out != "") {
			return unclear(subject, "somebody has made, renamed or dropped "+x.Name+" since")
		}
		if x.Out != "" {
			if err := exchangeable(ctx, conn, x.Name); err != nil {
				return err
			}
		}
	}
	return nil
}

// Do exchanges names with what was set aside before. Whether it was done although it failed, [Swapped] tells.
func (s Swap) Do(ctx context.Context, live func(string) string, subject string) error {
	conn, err := lockLive(ctx, live, subject)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }() // gives the lock back
	if err := s.can(ctx, conn, subject); err != nil {
		return err
	}
	var moves []move
	for _, x := range s.Names {
		if x.Out != "" {
			moves = append(moves, move{from: x.Name, to: x.Out, keep: &kept{Kept: s.Run, Name: x.Name, At: s.At}})
		}
		if x.In != "" {
			moves = append(moves, move{from: x.In, to: x.Name, back: true})
		}
	}
	if len(moves) == 0 {
		return nil
	}
	return exchange(ctx, conn, live, moves)
}
