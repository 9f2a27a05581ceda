package backup

import (
	"math"
	"time"
)

// LeaveAlways makes it leave every server whenever it may, for so long.
func (r *Receiver) LeaveAlways(away time.Duration) { r.visits = visits{away: away} }

// NeverLeave makes it follow every server without a break, however busy that is.
func (r *Receiver) NeverLeave() { r.visits = visits{busyAt: math.Inf(1)} }
