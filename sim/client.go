package sim

import (
	"slices"
	"time"

	"holdfast/internal/database"
	"holdfast/internal/database/databasetest"
)

// clientPatience is how long a client waits for the answer to a commit.
const clientPatience = 3 * time.Second

// session is a connection through a host's gate to a server.
type session struct {
	gate   *host
	number int // of the gate's sessions when it was made
	target *host
}

// open makes a session if the gate leads somewhere that answers.
func (w *World) connect(at *host) (session, bool) {
	o := at.gate.order
	if !at.up || at.frozen || at.gate.down || o.State != database.GateOpen {
		return session{}, false
	}
	target := w.host(o.Target.Host)
	if !w.open(at, target) || !target.srv.Serves() {
		return session{}, false
	}
	return session{gate: at, number: at.gate.number, target: target}, true
}

// alive reports whether the session still carries anything.
func (s session) alive(w *World) bool {
	return s.gate.up && !s.gate.frozen && s.gate.gate.number == s.number && w.open(s.gate, s.target)
}

// writer commits numbered rows, one after another, through the gate of some host.
type writer struct {
	w  *World
	at *host
}

func (w *World) startWriter(i int) {
	c := &writer{w: w, at: w.hosts[i%len(w.hosts)]}
	w.clients = append(w.clients, c)
	c.next()
}

func (c *writer) next() {
	c.w.at(c.w.between(20*time.Millisecond, 300*time.Millisecond), c.write)
}

func (c *writer) write() {
	w := c.w
	if w.chance(40) {
		c.at = w.hosts[w.rng.IntN(len(w.hosts))]
	}
	s, ok := w.connect(c.at)
	if !ok {
		if w.chance(10) { // it knows of the other listeners, and its own may be of a host that nobody leads any more
			c.at = w.hosts[w.rng.IntN(len(w.hosts))]
		}
		c.next()
		return
	}
	w.nextID++
	id, answered := w.nextID, false
	d, _ := w.link(s.gate, s.target)
	w.push(d, s.target, func() {
		if s.alive(w) {
			s.target.srv.Submit(id, func(bool) { answered = true })
		}
	})
	c.await(s, id, &answered, w.now+clientPatience)
}

// await looks for the answer until patience ends; then the client cancels, or just goes.
func (c *writer) await(s session, id int, answered *bool, until time.Duration) {
	w := c.w
	w.at(20*time.Millisecond, func() {
		switch {
		case *answered:
			c.next()
		case !s.alive(w):
			c.next()
		case w.now >= until:
			if w.chance(2) {
				w.check.cancelled[id] = true
				s.target.srv.Cancel(id)
			}
			c.next()
		default:
			c.await(s, id, answered, until)
		}
	})
}

// startReader reads the newest row through some gate, again and again.
func (w *World) startReader() {
	w.at(w.between(100*time.Millisecond, 500*time.Millisecond), func() {
		if s, ok := w.connect(w.hosts[w.rng.IntN(len(w.hosts))]); ok {
			if id, epoch, ok := s.target.srv.Visible(); ok {
				w.check.read(s.target, epoch, id)
			}
		}
		w.startReader()
	})
}

// openRequests are what operators asked for in one agreed state and nobody has settled, oldest first.
func (w *World) openRequests(in *site) []*request {
	return slices.DeleteFunc(slices.Clone(w.requests), func(q *request) bool { return q.settled || q.in != in })
}

func (w *World) settle(h *host, x database.Answer) {
	for _, q := range w.requests {
		if q.ID == x.ID && q.in == h.site && !q.settled {
			q.settled = true
			w.restarted(h, q, x)
			w.note(h.name, "answers request %s: %t, %s", x.ID, x.OK, x.Text)
		}
	}
}

// copies is how many servers hold a record, for the words of a failure.
func (w *World) copies(id int) []string {
	var out []string
	for _, h := range w.hosts {
		if slices.ContainsFunc(h.srv.Log(), func(e databasetest.Entry) bool { return e.Kind == databasetest.Commit && e.ID == id }) {
			out = append(out, h.name)
		}
	}
	return out
}
