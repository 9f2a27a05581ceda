package edge

import "time"

// Record is how a backend did with real requests. The zero value is a clean one.
type Record struct {
	Fails    int // failed requests in a row
	Ejected  bool
	Times    int // ejections without a success after the return in between
	Returned bool
}

// Succeeded is the record after a request that went well.
func (r Record) Succeeded() Record {
	r.Fails = 0
	if r.Returned && !r.Ejected {
		r.Times, r.Returned = 0, false
	}
	return r
}

// Failed is the record after a request that failed by the backend's fault. mayEject is what MayEject said.
func (r Record) Failed(p Policy, mayEject bool) Record {
	r.Fails++
	if !r.Ejected && r.Fails >= p.EjectAfter && mayEject {
		r.Ejected, r.Returned = true, false
		r.Times++
	}
	return r
}

// Span is how long the present ejection lasts.
func (r Record) Span(p Policy) time.Duration {
	return min(p.EjectMax, time.Duration(r.Times)*p.EjectFor)
}

// Back is the record once the ejection is over: one more run of failures ejects again, for longer.
func (r Record) Back() Record {
	r.Ejected, r.Fails, r.Returned = false, 0, true
	return r
}

// MayEject reports whether one more of members may be set aside: at most the share of the policy, though one
// is always possible, and never the last that is well.
func MayEject(p Policy, members []Member) bool {
	all, ejected, well := 0, 0, 0
	for _, m := range members {
		if m.Draining {
			continue
		}
		all++
		if m.Ejected {
			ejected++
		} else if m.State == Up {
			well++
		}
	}
	most := max(1, int(p.EjectShare*float64(all)))
	return ejected < most && well > 1
}
