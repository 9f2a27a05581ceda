package edge

import "time"

// Request is what matters of a request for trying it again.
type Request struct {
	Method     string
	Key        bool // carries an Idempotency-Key: its author says that repeating is safe
	Replayable bool // has no body, or one that is kept whole
	Upgrade    bool // asks for another protocol (WebSocket)
}

// Failure is how a try ended.
type Failure string

// Failures.
const (
	NeverSent Failure = "never sent" // no connection came about: the backend knows nothing of the request
	Broken    Failure = "broken"     // the connection ended before an answer began
	Hanging   Failure = "hanging"    // no answer has begun for a while; it may still come
)

// Repeatable reports whether doing the request twice is the same as once (RFC 9110, 9.2.2) and it can be
// sent again at all. An upgrade begins a conversation and is not repeated.
func (r Request) Repeatable() bool {
	if !r.Replayable || r.Upgrade {
		return false
	}
	switch r.Method {
	case "GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE":
		return true
	}
	return r.Key
}

// Verdict says whether another backend may get the request, and whether the budget pays for it.
type Verdict struct {
	Again bool
	Paid  bool // takes one from the budget
}

// Retry judges a failed or hanging try. A request that was never sent goes on at once whatever it is, and
// free of charge, for no backend had work with it; the number of backends bounds it. Anything else is
// repeated only when repeating is harmless.
func Retry(r Request, f Failure) Verdict {
	if f == NeverSent {
		return Verdict{Again: true}
	}
	return Verdict{Again: r.Repeatable(), Paid: true}
}

// Budget bounds further tries, so that they cannot double the load of a system that is failing under it.
// It is a purse: each request pays in a share, each further try takes one out, and time refills a reserve
// for a system with little traffic. The zero value is empty; start with [NewBudget].
type Budget struct{ Tokens float64 }

// NewBudget is a full reserve.
func NewBudget(p Policy) Budget { return Budget{Tokens: p.RetryReserve} }

// Earn is the budget after one request.
func (b Budget) Earn(p Policy) Budget {
	b.Tokens = min(p.RetryBurst, b.Tokens+p.RetryShare)
	return b
}

// Refill is the budget after time has passed.
func (b Budget) Refill(p Policy, passed time.Duration) Budget {
	if passed <= 0 || b.Tokens >= p.RetryReserve {
		return b
	}
	b.Tokens = min(p.RetryReserve, b.Tokens+p.RetryReserve*float64(passed)/float64(max(p.ReserveFill, 1)))
	return b
}

// Spend takes one try out, if there is one.
func (b Budget) Spend() (Budget, bool) {
	if b.Tokens < 1 {
		return b, false
	}
	b.Tokens--
	return b, true
}
