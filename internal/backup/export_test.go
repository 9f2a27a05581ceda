package backup

import "time"

// LeaveAlways makes it leave every server whenever it may, for so long.
func (r *Receiver) LeaveAlways(away time.Duration) { r.visits = visits{away: away} }
