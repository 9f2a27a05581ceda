// Package edge judges which backend gets a request, when one is set aside, and when a request may be tried
// again. It is pure: ages, counts and dice come in as arguments, and equal arguments give equal answers.
// The driver that owns sockets and clocks is edge/proxy.
//
// Start at [Choose]. check.go turns active checks into a [State], outlier.go sets aside a backend that
// fails real requests although its checks pass, retry.go says what may be repeated and pays for it.
package edge

import "time"

// State is what active checks say of a backend.
type State string

// States. No answer is not a bad answer: a backend whose checks time out is Silent, one that refuses or
// answers wrongly is Down.
const (
	Starting State = "starting" // no check has passed yet
	Up       State = "up"
	Silent   State = "silent" // was up; Fall checks in a row failed, the last without any answer
	Down     State = "down"   // was up; Fall checks in a row failed, the last refused or wrong
)

// Policy is how one route is balanced. Start from [Defaults].
type Policy struct {
	Fall int // failed checks in a row until a backend that was up is not
	Rise int // passed checks in a row until one that was up before is up again; the very first time one is enough

	EjectAfter int           // failed requests in a row until a backend is set aside
	EjectFor   time.Duration // the first time; each further time in a row adds as much
	EjectMax   time.Duration // bound of that growth
	EjectShare float64       // largest share of backends set aside at once; one is always possible, and one always stays

	Panic     float64       // below this share of usable backends, verdicts that may come from overload are ignored
	SlowStart time.Duration // a backend that came back gets its full share only after this long

	RetryShare   float64 // tries beyond the first, as a share of requests
	RetryReserve float64 // such tries that are paid for without any traffic; refilled within ReserveFill
	RetryBurst   float64 // most that can be saved up
	ReserveFill  time.Duration
}

// Defaults is the policy of a route that says nothing else.
func Defaults() Policy {
	return Policy{
		Fall: 3, Rise: 2,
		EjectAfter: 5, EjectFor: 10 * time.Second, EjectMax: time.Minute, EjectShare: 1.0 / 3,
		Panic: 0.5, SlowStart: 10 * time.Second,
		RetryShare: 0.2, RetryReserve: 100, RetryBurst: 1000, ReserveFill: 10 * time.Second,
	}
}

// Member is one backend as the driver sees it at the moment of a choice.
type Member struct {
	ID       string
	State    State
	StateAge time.Duration // since State was entered
	Returned bool          // was not up at some time after it first was: slow start applies
	Ejected  bool          // set aside by Eject, and its time is not over
	Draining bool          // gets nothing new
	InFlight int           // requests or connections it has now
	Tried    bool          // had this request already
}
