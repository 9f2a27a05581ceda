package lab

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"holdfast/internal/api"
)

// Scenario is one fault with what must be true of it. Its number is the one in the project's list of faults that a
// database must live through; several may share a number.
type Scenario struct {
	Number int
	Name   string // as in `make lab SCENARIO=name`
	Claim  string // what is asserted besides rule Z, a sentence without its full stop
	InCI   bool   // part of `make test`; `make lab` runs all
	Shape  Shape  // of the world it runs in; scenarios of one shape share a world
	Kind   string // name of the shape: "" = three hosts, two standbys, one of which must hold a commit
	Run    func(*Round)

	// Points are moments at which the fault is tried, one round each, handed over as Round.Point; nil = one round.
	Points func(all bool) []time.Duration
}

// All reports whether everything shall run, as `make lab` asks for.
func All() bool { return os.Getenv("HOLDFAST_LAB") == "all" }

// Long leaves a test to `make lab`, unless that runs it. lab/README.md lists such tests.
func Long(t testing.TB) {
	t.Helper()
	if !All() {
		t.Skip("takes long: make lab runs it (HOLDFAST_LAB=all)")
	}
}

// Round is one run of a scenario: a world that was well before, clients that write, and what became of them.
type Round struct {
	testing.TB
	W   *World
	Was api.DatabaseStatus // before the fault

	Point time.Duration // of Scenario.Points

	Clients []*Writer // on none of the hosts, one for each listener, 100 rows a second together
	Beside  []*Writer // on each host, through its own listener
	faultAt time.Time
	until   time.Time // the end of what the fault is blamed for; zero = the end of the round
}

// Outcome is what one round showed.
type Outcome struct {
	Gap          time.Duration // longest time in which no client was acknowledged, from the fault on
	Lost         int
	Acknowledged int
	Moves        int64         // epochs begun
	Whole        time.Duration // from the fault, or its end, until everything was well again
}

// wellMax is how long a world may take to be whole again on a busy machine.
const wellMax = 3 * time.Minute

// clientsRate is the sum of the clients' rows a second; besideRate that of each one beside a server.
const (
	clientsRate = 100
	besideRate  = 20
)

// Play runs a scenario once and judges it by rule Z.
func (w *World) Play(t testing.TB, s Scenario, number int, point time.Duration) Outcome {
	t.Helper()
	was := w.t
	w.t, w.Net.t = t, t // so that what goes wrong belongs to this round
	defer func() { w.t, w.Net.t = was, was }()
	r := &Round{TB: t, W: w, Point: point}
	r.Was = w.Await("well before", wellMax, Well).Databases[0]
	w.makeTable()
	for _, h := range w.Hosts {
		name := fmt.Sprintf("%s-%d-%s", s.Name, number, h)
		r.Clients = append(r.Clients, w.Writer(name, outside, h, float64(clientsRate)/float64(len(w.Hosts))))
		r.Beside = append(r.Beside, w.Writer(name+"-beside", h, h, besideRate))
	}
	r.Flows("before the fault")
	s.Run(r)
	if r.faultAt.IsZero() {
		t.Fatal("the scenario never marked its fault")
	}
	r.Flows("after the fault")
	st := w.Await("well after", wellMax, Well).Databases[0]
	end, whole := r.until, r.Since()
	if end.IsZero() {
		end = time.Now()
	} else {
		whole = time.Since(end)
	}
	for _, wr := range r.writers() {
		wr.End()
	}
	z := w.CheckZ(st.Primary, r.writers())
	for _, wrong := range z.Wrong {
		t.Errorf("rule Z: %s", wrong)
	}
	return Outcome{Gap: longestGap(r.Clients, r.faultAt, end), Lost: z.Lost, Acknowledged: z.Acknowledged, Moves: st.Epoch - r.Was.Epoch, Whole: whole}
}

func (r *Round) writers() []*Writer { return slices.Concat(r.Clients, r.Beside) }

// makeTable makes the table that rows go to.
func (w *World) makeTable() {
	w.t.Helper()
	for deadline := time.Now().Add(servedMax); ; time.Sleep(100 * time.Millisecond) {
		conn, err := w.Connect(w.t.Context(), w.Hosts[0])
		if err == nil {
			_, err = conn.Exec(w.t.Context(), ackTable)
			hangUp(conn)
		}
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			w.t.Fatalf("make the table: %v", err)
		}
	}
}

// Fault marks the moment from which the gap counts: call it right before the fault.
func (r *Round) Fault() { r.faultAt = time.Now() }

// Since is how long ago the fault began.
func (r *Round) Since() time.Duration { return time.Since(r.faultAt) }

// Over ends what the fault is blamed for: gaps that begin later do not count.
func (r *Round) Over() { r.until = time.Now() }

// flowing is how many rows must be acknowledged, none later than flowGap after the one before, for writes to flow.
const (
	flowing = 20
	flowGap = 500 * time.Millisecond
)

// Flows waits until clients that are on none of the hosts are served steadily, for rows sent from now on.
func (r *Round) Flows(when string) {
	r.Helper()
	from := time.Now()
	for deadline := from.Add(servedMax); ; time.Sleep(20 * time.Millisecond) {
		if flows(r.Clients, from, time.Now()) {
			return
		}
		if time.Now().After(deadline) {
			var words []string
			for _, wr := range r.Clients {
				words = append(words, wr.Name+": "+strings.Join(wr.Errors(), "; "))
			}
			r.Fatalf("writes do not flow %s\n%s\n%s", when, strings.Join(words, "\n"), r.W.tail())
		}
	}
}

// flows reports whether the newest acknowledgements of rows sent after from came steadily up to now.
func flows(writers []*Writer, from, now time.Time) bool {
	acks := merged(writers)
	if len(acks) < flowing || acks[len(acks)-flowing].Began.Before(from) {
		return false
	}
	last := now
	for i := len(acks) - 1; i >= len(acks)-flowing; i-- {
		if last.Sub(acks[i].Ended) > flowGap {
			return false
		}
		last = acks[i].Ended
	}
	return true
}

// merged are all acknowledgements in the order of the answers.
func merged(writers []*Writer) []Ack {
	var all []Ack
	for _, wr := range writers {
		all = append(all, wr.Acks()...)
	}
	slices.SortFunc(all, func(a, b Ack) int { return a.Ended.Compare(b.Ended) })
	return all
}

// longestGap is the longest time without any acknowledgement that ends after from and begins before until.
func longestGap(writers []*Writer, from, until time.Time) time.Duration {
	var longest time.Duration
	var last time.Time
	for _, a := range merged(writers) {
		if !last.IsZero() && a.Ended.After(from) && last.Before(until) {
			longest = max(longest, a.Ended.Sub(last))
		}
		last = a.Ended
	}
	return max(longest, until.Sub(last))
}

// Moved waits until another host is the open primary, and tells who.
func (r *Round) Moved() api.DatabaseStatus {
	r.Helper()
	return r.W.Await("another primary", wellMax, func(st api.Status) bool {
		d := st.Databases[0]
		return d.Open && d.Primary != r.Was.Primary && d.Epoch > r.Was.Epoch
	}).Databases[0]
}

// Unmoved asserts that the primary is the one of before the fault, in the same epoch.
func (r *Round) Unmoved() {
	r.Helper()
	now := r.W.Await("well", wellMax, Well).Databases[0]
	if now.Epoch != r.Was.Epoch || now.Primary != r.Was.Primary {
		r.Errorf("the primary moved from %s (epoch %d) to %s (epoch %d): %v", r.Was.Primary, r.Was.Epoch, now.Primary, now.Epoch, now.Because)
	}
}

// Standbys are the hosts of the standbys before the fault.
func (r *Round) Standbys() (hosts []string) {
	for _, s := range r.Was.Servers {
		if s.Role == "standby" {
			hosts = append(hosts, s.Host)
		}
	}
	return hosts
}

// Others are all hosts but one.
func (w *World) Others(host string) []string {
	return slices.DeleteFunc(slices.Clone(w.Hosts), func(h string) bool { return h == host })
}

// Hold keeps the fault as it is until so much time has passed since it began. It is part of the fault and waits for
// nothing.
func (r *Round) Hold(since time.Duration) {
	if wait := since - r.Since(); wait > 0 {
		time.Sleep(wait)
	}
}

// Served asserts that no client was refused or kept waiting for long: neither those outside nor those beside servers.
func (r *Round) Served() {
	r.Helper()
	for _, wr := range r.writers() {
		if errs := wr.Errors(); len(errs) > 0 {
			r.Errorf("%s was not served all the time: %v", wr.Name, errs)
		}
	}
}

// Answer asks one question through a host's listener and scans the answer.
func (r *Round) Answer(host, question string, into any) error {
	r.Helper()
	conn, err := r.W.Connect(r.Context(), host)
	if err != nil {
		return err
	}
	defer hangUp(conn)
	ctx, cancel := context.WithTimeout(r.Context(), patience)
	defer cancel()
	return conn.QueryRow(ctx, question).Scan(into)
}

// FaultAt is the moment of the fault.
func (r *Round) FaultAt() time.Time { return r.faultAt }

// FirstOn is when the first acknowledgement of a timeline was there, for whomever.
func (r *Round) FirstOn(timeline uint32) time.Time {
	r.Helper()
	for _, a := range merged(r.writers()) {
		if a.Timeline == timeline {
			return a.Ended
		}
	}
	r.Fatalf("timeline %d acknowledged nothing", timeline)
	return time.Time{}
}

// AcknowledgedSince counts the rows, of whichever client, that were sent after a moment and acknowledged.
func (r *Round) AcknowledgedSince(moment time.Time) (n int) {
	for _, a := range merged(r.writers()) {
		if a.Began.After(moment) {
			n++
		}
	}
	return n
}
