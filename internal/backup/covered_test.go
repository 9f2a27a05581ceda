package backup

import (
	"testing"
	"time"

	"pgregory.net/rapid"

	"holdfast/internal/clock"
	"holdfast/internal/vault/wal"
)

// line is a server that sends its log as PostgreSQL's walsender does, and the line to us, on which anything may lie for as long as
// it likes.
type line struct {
	now     time.Duration // since the beginning
	skew    time.Duration // of the server's clock against ours
	flushed []flush       // oldest first
	sent    wal.LSN
	asked   bool // a question has come to the server
	told    bool // it was answered, and nothing more was looked for since
	on      []message
	came    wal.LSN
}

type flush struct {
	at  time.Duration
	end wal.LSN
}

var lineBegan = time.Date(2026, 11, 21, 14, 0, 0, 0, time.UTC)

func (l *line) ours() time.Time   { return lineBegan.Add(l.now) }
func (l *line) theirs() time.Time { return lineBegan.Add(l.now + l.skew) }
func (l *line) end() wal.LSN      { return l.flushed[len(l.flushed)-1].end }

// turn is one round of the walsender. between is what happens within it once it has looked how far the log is.
func (l *line) turn(between func()) {
	if l.asked && !l.told {
		l.asked, l.told = false, true
		l.on = append(l.on, message{serverEnd: l.sent, sent: l.theirs()})
		return
	}
	l.told = false
	if end := l.end(); end > l.sent {
		m := message{at: l.sent, serverEnd: end, data: make([]byte, min(end-l.sent, 100))}
		between()
		m.sent = l.theirs()
		l.sent += wal.LSN(len(m.data))
		l.on = append(l.on, m)
	}
}

// hear takes what lies on the line longest.
func (l *line) hear(c *covering) {
	if len(l.on) == 0 {
		return
	}
	m := l.on[0]
	l.on = l.on[1:]
	l.came += wal.LSN(len(m.data))
	c.hear(m, l.came)
}

// wrong says which of the log that was flushed before a moment lies behind a position.
func (l *line) wrong(m mark) string {
	for _, f := range l.flushed {
		switch at := lineBegan.Add(f.at); {
		case f.end <= m.end:
		case at.Before(m.by):
			return "by our clock"
		case at.Add(l.skew).Before(m.at):
			return "by the server's clock"
		}
	}
	return ""
}

// However late the server, the line and this process are, no mark says more than is true.
func TestNoMarkSaysMoreThanIsTrue(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		l := &line{skew: time.Duration(rapid.Int64Range(-1e13, 1e13).Draw(t, "skew")), flushed: []flush{{0, 10}}, sent: 10, came: 10}
		var c covering
		c.begin(1, 10, l.ours())
		pass := func() { l.now += time.Duration(rapid.Int64Range(1, 3e9).Draw(t, "pass")) }
		write := func() {
			l.flushed = append(l.flushed, flush{l.now, l.end() + wal.LSN(rapid.IntRange(1, 300).Draw(t, "write"))})
		}
		for range rapid.IntRange(1, 200).Draw(t, "steps") {
			switch rapid.IntRange(0, 6).Draw(t, "step") {
			case 0:
				pass()
			case 1:
				pass()
				write()
			case 2, 3:
				l.turn(func() { pass(); write(); pass() })
			case 4, 5:
				l.hear(&c)
			case 6:
				if c.ask(l.ours()) {
					l.asked = true
				}
			}
			for _, m := range append(c.waiting, c.reached) {
				if why := l.wrong(m); why != "" {
					t.Fatalf("%+v leaves out, %s, some of %+v", m, why, l.flushed)
				}
			}
			if rapid.IntRange(0, 9).Draw(t, "reach") == 0 {
				c.reach(l.came)
			}
		}
	})
}

// settle lets the server and the line have all the time they want, with a question every second, and the vault take everything.
func (l *line) settle(c *covering, pause time.Duration) {
	if c.ask(l.ours()) {
		l.asked = true
	}
	for range 100 {
		l.turn(func() {})
	}
	for len(l.on) > 0 {
		l.hear(c)
	}
	c.reach(l.came)
	l.now += pause
}

func TestHowFarBehindTheVaultIsKnown(t *testing.T) {
	for name, c := range map[string]struct {
		say  func(l *line, c *covering)
		most time.Duration // how long ago the newest moment is that is known, by our clock
		at   bool          // it is known by the server's as well
	}{
		"a connection that has just begun": {func(*line, *covering) {}, 0, false},
		"an idle server": {func(l *line, c *covering) {
			for range 100 {
				l.settle(c, replyEvery)
			}
		}, 2 * replyEvery, true},
		"a server that is written all the time": {func(l *line, c *covering) {
			for range 1000 {
				l.flushed = append(l.flushed, flush{l.now, l.end() + 200})
				l.settle(c, replyEvery/10)
			}
		}, replyEvery + replyEvery/10, true},
		"a server that does not answer": {func(l *line, c *covering) {
			l.settle(c, replyEvery)
			c.ask(l.ours())
			l.now += time.Hour
		}, time.Hour + replyEvery, false},
		"one that only asks": {func(l *line, c *covering) {
			for range 10 {
				c.ask(l.ours())
				l.now += replyEvery
				c.hear(message{serverEnd: l.came, sent: l.theirs(), wantReply: true}, l.came)
			}
			c.reach(l.came)
		}, 10 * replyEvery, false},
		"a vault that is away for a day, and comes back": {func(l *line, c *covering) {
			for range 24 * 60 {
				l.flushed = append(l.flushed, flush{l.now, l.end() + 200})
				if c.ask(l.ours()) {
					l.asked = true
				}
				l.turn(func() {})
				l.turn(func() {})
				l.turn(func() {})
				for len(l.on) > 0 {
					l.hear(c)
				}
				l.now += time.Minute
			}
			l.settle(c, 0)
		}, 2 * time.Minute, true},
	} {
		t.Run(name, func(t *testing.T) {
			l := &line{flushed: []flush{{0, 10}}, sent: 10, came: 10}
			var k covering
			k.begin(1, 10, l.ours())
			k.reach(10)
			c.say(l, &k)
			if age := l.ours().Sub(k.reached.by); age > c.most {
				t.Errorf("everything of %s ago is known to be there, want %s: %+v", age, c.most, k.reached)
			}
			if k.reached.at.IsZero() == c.at {
				t.Errorf("by the server's clock: %s", k.reached.at)
			}
			if n := len(k.waiting); n > marksMax {
				t.Errorf("%d marks wait", n)
			}
		})
	}
}

// The end of an older timeline says nothing of what the server writes on its own, and what was known stays known.
func TestAnOlderTimelineSaysNothing(t *testing.T) {
	l := &line{flushed: []flush{{0, 10}}, sent: 10, came: 10}
	var c covering
	c.begin(1, 10, l.ours())
	c.reach(10)
	was := c.reached.by
	l.now = time.Minute
	c.begin(0, 500, l.ours())
	c.hear(message{at: 10, serverEnd: 20, data: make([]byte, 10), sent: l.theirs()}, 20)
	c.reach(1000)
	if len(c.waiting) > 0 || !c.reached.by.Equal(was) || !c.at(1, 1000).IsZero() || !c.at(0, 1000).IsZero() {
		t.Errorf("%+v", c)
	}
	c.begin(2, 500, l.ours())
	c.reach(499)
	if !c.reached.by.Equal(was) {
		t.Errorf("what the vault lacks counts: %+v", c.reached)
	}
	c.reach(500)
	if !c.reached.by.Equal(l.ours()) {
		t.Errorf("what the vault has does not count: %+v", c.reached)
	}
}

// A line that is dead without a word ends the stream; a full queue is not read from, so that silence says nothing of the line.
func TestADeadLineIsNotWaitedForAllDay(t *testing.T) {
	now := time.Now()
	for name, c := range map[string]struct {
		asked, heard time.Duration // ago; 0 = nothing was asked
		full, dead   bool
	}{
		"nothing is asked":          {heard: time.Hour},
		"it was asked a moment ago": {asked: time.Second, heard: time.Hour},
		"it sends log all the time": {asked: time.Hour, heard: time.Second},
		"it says nothing":           {asked: time.Hour, heard: time.Hour, dead: true},
		"nothing of it is read":     {asked: time.Hour, heard: time.Hour, full: true},
	} {
		r := &Receiver{o: ReceiverOptions{Clock: clock.Real()}}
		r.status.heard = now.Add(-c.heard)
		if c.asked > 0 {
			r.covers.asked = now.Add(-c.asked)
		}
		ask, err := r.ask(c.full)
		if (err != nil) != c.dead || ask != (c.asked == 0) {
			t.Errorf("%s: it is asked: %v, %v", name, ask, err)
		}
	}
}

// A server whose clock was 400 days ahead says nothing of those days when that is mended, nor is the vault left to believe it.
func TestAClockThatIsSetBackBeginsAnew(t *testing.T) {
	l := &line{flushed: []flush{{0, 10}}, sent: 10, came: 10, skew: 400 * 24 * time.Hour}
	var c covering
	c.begin(1, 10, l.ours())
	c.reach(10)
	write := func(n int) {
		for range n {
			l.flushed = append(l.flushed, flush{l.now, l.end() + 200})
			l.settle(&c, replyEvery)
		}
	}
	write(10)
	c.told = c.reached.at
	if !c.told.After(l.ours().Add(399 * 24 * time.Hour)) {
		t.Fatalf("ahead of time it says %s", c.told)
	}
	l.skew = 0
	write(10)
	if c.reached.at.After(l.ours()) || c.reached.at.Before(l.ours().Add(-5*time.Second)) || c.reached.at.Before(c.told) {
		t.Errorf("at %s everything until %s is there, and the vault was told %s", l.ours(), c.reached.at, c.told)
	}
	if at := c.at(1, l.came); at.After(l.ours()) {
		t.Errorf("a piece that is stored now would say %s", at)
	}
}

// A vault that is away for an hour and takes it all again, bit by bit: at each step what is known is not much older than what it has.
func TestWhatWaitsForLongIsKnownEvenly(t *testing.T) {
	l := &line{flushed: []flush{{0, 10}}, sent: 10, came: 10}
	var c covering
	c.begin(1, 10, l.ours())
	var ends []wal.LSN
	for range 3600 {
		l.flushed = append(l.flushed, flush{l.now, l.end() + 90})
		if c.ask(l.ours()) {
			l.asked = true
		}
		l.turn(func() {})
		l.turn(func() {})
		for len(l.on) > 0 {
			l.hear(&c)
		}
		ends = append(ends, l.came)
		l.now += time.Second
	}
	for s := 600; s < 3600; s += 100 {
		c.reach(ends[s])
		if age := lineBegan.Add(time.Duration(s) * time.Second).Sub(c.reached.by); age < 0 || age > 4*time.Minute {
			t.Errorf("with the log of the first %d s everything is known to be there that is older than %s", s, age)
		}
	}
}
