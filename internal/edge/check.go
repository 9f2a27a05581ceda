package edge

// Result is the outcome of one active check.
type Result string

// Results.
const (
	Passed   Result = "passed"
	Refused  Result = "refused"   // nobody listens
	Wrong    Result = "wrong"     // an answer, but not a good one
	NoAnswer Result = "no answer" // within the check's timeout
)

// Health is what checks have made of a backend. The zero value is one that was never checked.
type Health struct {
	State  State // "" counts as Starting
	WasUp  bool  // has been up at some time
	Passes int   // in a row
	Fails  int   // in a row
}

// After is the health after one more check.
func (h Health) After(p Policy, r Result) Health {
	if h.State == "" {
		h.State = Starting
	}
	if r == Passed {
		h.Passes++
		h.Fails = 0
		if h.State == Starting || (h.State != Up && h.Passes >= p.Rise) {
			h.State, h.WasUp = Up, true
		}
		return h
	}
	h.Fails++
	h.Passes = 0
	if h.State == Starting || (h.State == Up && h.Fails < p.Fall) {
		return h
	}
	h.State = Down
	if r == NoAnswer {
		h.State = Silent
	}
	return h
}
