package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os/signal"
	"syscall"
	"time"

	"holdfast/internal/agent"
	"holdfast/internal/api"
	"holdfast/internal/problem"
)

// lastWordMax is how long a command that gives up asks once more how its request stands.
const lastWordMax = 10 * time.Second

// awaitChange returns when a change of primary that was asked for is settled. When ctx ends before, or Ctrl-C is pressed,
// it cancels the request: nobody shall carry it out later, when who asked has turned to something else.
func awaitChange(ctx context.Context, client *api.Client, q agent.Asked) (agent.Settled, error) {
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGINT)
	defer stop()
	done, err := client.Wait(ctx, q.ID, nil)
	if err == nil {
		return done, nil
	}
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), lastWordMax)
	defer cancel()
	why := "was interrupted"
	if errors.Is(err, context.DeadlineExceeded) {
		why = "was not carried out in time"
	}
	_, late := client.Cancel(last, q.ID)
	if late == nil {
		return done, gaveUp(q, fmt.Sprintf("the %s %s, and is cancelled (request %s)", q.Kind, why, q.ID), "Nothing of it is carried out any more.")
	}
	if p := (*problem.Problem)(nil); errors.As(late, &p) && p.Code == "api.not-cancelled" { // under way, or settled meanwhile
		if done, err := client.Wait(last, q.ID, nil); err == nil {
			return done, nil
		}
	}
	return done, gaveUp(q, fmt.Sprintf("the %s %s, and could not be cancelled (request %s): %v", q.Kind, why, q.ID, late),
		"It may still be carried out. A switchover that nobody takes up is refused five minutes after it was asked for, a forced failover after ten at most.")
}

// gaveUp is a change of primary whose end nobody waits for any more.
func gaveUp(q agent.Asked, title, meaning string) error {
	return &problem.Problem{
		Code: "database.not-awaited", Subject: q.Subject, Severity: problem.Note, Title: title, Meaning: meaning,
		Remedy: "see who is the primary: holdfast status; what still waits: holdfast database requests; how it ended: holdfast history; to end it: holdfast database cancel " +
			cmp.Or(q.ID, "ID"),
	}
}
