package point

import (
	"context"
	"errors"
	"fmt"

	"holdfast/internal/problem"
)

// hands do the steps of a restore in place. Every step may be done again when it was cut off.
type hands interface {
	// seen says how it stands, from what there is and not from what was meant.
	seen(ctx context.Context) (Seen, error)
	do(ctx context.Context, step Step) error
}

// carry brings a side to be live. When a step of the exchange fails it takes back what was exchanged, so that afterwards one
// side has all live names and the application goes on; where that cannot be reached either, or it is not known any more how it
// stands, restore.half-exchanged says so.
func carry(ctx context.Context, to Side, h hands) error {
	short := false // this process has begun the short part, and may have exchanged something
	for {
		s, err := h.seen(ctx)
		if err != nil && short {
			return half(err, nil)
		}
		if err != nil {
			return err
		}
		step := Next(to, s)
		if step == StepFreeze { // the short part is not left half-way for an interrupt
			if err := ctx.Err(); err != nil {
				return context.Cause(ctx)
			}
			ctx, short = context.WithoutCancel(ctx), true
		}
		failed := h.do(ctx, step)
		switch {
		case failed == nil && step == StepDone:
			return nil
		case failed == nil:
			short = short && step != StepThaw
			continue
		case step == StepRestore || step == StepLoad || step == StepThaw || step == StepDone:
			return failed
		case step == StepFreeze && s.Halves():
			return half(failed, nil)
		}
		done, err := retreat(ctx, to, h, failed)
		if err != nil {
			return err
		}
		if !done {
			return failed
		}
	}
}

// retreat takes back what was exchanged and lets the application go on, after a step failed. done = all was exchanged after
// all, and nothing was taken back. An error says what it comes to beside the failure.
func retreat(ctx context.Context, to Side, h hands, failed error) (done bool, err error) {
	for {
		s, err := h.seen(ctx)
		if err != nil {
			return false, half(failed, err)
		}
		if s.SQL == to && s.Files == to {
			return true, nil
		}
		step := Next(to.other(), s)
		if step == StepDone {
			return false, nil
		}
		err = h.do(ctx, step)
		switch {
		case err != nil && s.Halves():
			return false, half(failed, fmt.Errorf("take back what was exchanged: %w", err))
		case err != nil:
			return false, errors.Join(failed, err)
		}
	}
}

// half is the problem of a restore in place that could be neither finished nor taken back.
func half(failed, back error) error {
	return &problem.Problem{Code: "restore.half-exchanged", Subject: "recovery point", Severity: problem.Critical,
		Title:   "it is neither finished nor taken back: " + errors.Join(failed, back).Error(),
		Meaning: "Database and files may be of different moments, and the application may still be frozen. Nothing is lost: both contents are there.",
		Remedy:  "mend what is said, then the same command again, which finishes it; or take it back: holdfast recovery-point undo FILES"}
}
