package host

import (
	"context"
	"crypto/rand"
	"errors"
	"net"
	"net/url"
	"sync"
	"time"

	"holdfast/internal/agent"
	"holdfast/internal/clock"
	"holdfast/internal/cluster"
	"holdfast/internal/problem"
)

const (
	twinPace = 500 * time.Millisecond
	// twinDial bounds the question whether any member can be reached, before this host runs.
	twinDial = time.Second
	// twinReads is how often a state that can be reached but not read is read before this host begins without it: twice
	// for the time that a store takes.
	twinReads = 2
)

// errYields ends a life whose name another has.
var errYields = errors.New("another agent runs as this host")

// errNameUnclear is the answer to everything that would be agreed before the name is known to be ours.
var errNameUnclear = errors.New("whether another agent runs as this host is not known yet")

// twins looks whether another agent runs as this host, and answers one that asks.
type twins struct {
	host  string
	store cluster.Store // of its own: the host's is shut while the name is not ours
	clock clock.Clock
	admit func()                  // opens the host's store
	yield func(p problem.Problem) // ends the life
	runs  bool                    // the host runs

	mu       sync.Mutex // guards what follows
	own      mark
	settled  bool            // our mark stood there once in this life
	askedAt  time.Time       // when a question was put last
	askedFor string          // the life that is asked
	since    time.Time       // when it was asked first
	at       int64           // the revision of its mark then
	told     problem.Problem // why the name is not ours; the zero problem = it is
	other    mark            // who asks for ours
	otherAt  time.Time       // and when it did last
}

func newTwins(host string, own mark, store cluster.Store, c clock.Clock) *twins {
	return &twins{host: host, own: own, store: store, clock: c, admit: func() {}, yield: func(problem.Problem) {}}
}

func (t *twins) marks() cluster.Key[mark] { return marksOf(t.host) }

func marksOf(host string) cluster.Key[mark] { return cluster.Key[mark](agent.KeyLives + host) }

func (t *twins) questions() cluster.Key[question] { return questionsTo(t.host) }

func questionsTo(host string) cluster.Key[question] {
	return cluster.Key[question](agent.KeyLives + host + "/asked")
}

// look reads whose the name is, and does what follows: puts our mark there, asks, answers.
func (t *twins) look(ctx context.Context) (verdict, error) {
	now, revision, err := t.marks().Load(ctx, t.store)
	if err != nil {
		return nameUnclear, err
	}
	v := t.judge(now, revision)
	switch v {
	case nameOurs:
		err = t.answer(ctx, revision)
	case nameFree, nameSilent:
		v, err = t.take(ctx, v, now, revision)
	default:
		err = t.ask(ctx, now, revision)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case err != nil:
	case v == nameOurs:
		t.settled, t.told = true, problem.Problem{}
	case v >= nameOrphaned:
		t.told = t.own.refusal(t.host, v, now)
	}
	return v, err
}

func (t *twins) judge(now mark, revision int64) verdict {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := sight{now: now, runs: t.runs || t.settled}
	s.here, s.lives = t.own.look(now)
	if s.asked = t.askedFor != "" && t.askedFor == now.Life; s.asked {
		s.answered, s.quiet = revision != t.at, t.clock.Now().Sub(t.since)
	}
	return t.own.judge(s)
}

// take puts our mark there. A question that stands is as good as answered: it was put to another.
func (t *twins) take(ctx context.Context, v verdict, was mark, revision int64) (verdict, error) {
	q, _, err := t.questions().Load(ctx, t.store)
	if err != nil {
		return nameUnclear, err
	}
	t.mu.Lock()
	t.own.Answers, t.own.After = q.Number, ""
	if v == nameSilent {
		t.own.After = was.Life
	}
	own := t.own
	t.mu.Unlock()
	if _, err := t.marks().Swap(ctx, t.store, revision, own); err != nil {
		return nameUnclear, err
	}
	return nameOurs, nil
}

// ask puts a question to whoever has the name, again and again while that one has it.
func (t *twins) ask(ctx context.Context, now mark, revision int64) error {
	t.mu.Lock()
	at := t.clock.Now()
	if t.askedFor == now.Life && at.Sub(t.askedAt) < twinAsks {
		t.mu.Unlock()
		return nil
	}
	q, first := question{rand.Text(), t.own}, t.askedFor != now.Life
	t.mu.Unlock()
	if _, err := t.questions().Set(ctx, t.store, q); err != nil {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.askedAt = t.clock.Now(); first || revision != t.at { // it answered the last one: does it answer this one, too?
		t.askedFor, t.since, t.at = now.Life, t.askedAt, revision
	}
	return nil
}

// answer says that we live to whoever asks for our name.
func (t *twins) answer(ctx context.Context, revision int64) error {
	q, _, err := t.questions().Load(ctx, t.store)
	if err != nil {
		return err
	}
	t.mu.Lock()
	if q.Number == "" || q.Number == t.own.Answers {
		t.mu.Unlock()
		return nil
	}
	own := t.own
	own.Answers = q.Number
	t.mu.Unlock()
	if _, err := t.marks().Swap(ctx, t.store, revision, own); err != nil {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.own = own
	if q.By.Life != "" {
		t.other, t.otherAt = q.By, t.clock.Now()
	}
	return nil
}

// nothingNew reports whether what a round has read of the agreed state says that the name is ours and nobody asks for it.
func (t *twins) nothingNew(agreed map[string]cluster.Entry) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.settled {
		return false
	}
	e, ok := agreed[string(t.marks())]
	m, err := cluster.Decode[mark](e)
	if !ok || err != nil || m.Life != t.own.Life {
		return false
	}
	e, ok = agreed[string(t.questions())]
	if !ok {
		return true
	}
	q, err := cluster.Decode[question](e)
	return err == nil && q.Number == t.own.Answers
}

// run looks until ctx ends. Without the agreed state nobody can tell, and nobody agrees on anything either.
func (t *twins) run(ctx context.Context, sleep func(context.Context, time.Duration) bool, agreed func() map[string]cluster.Entry, failed func(error)) error {
	for first := true; first || sleep(ctx, twinPace); first = false {
		if t.nothingNew(agreed()) {
			continue
		}
		v, err := t.look(ctx)
		switch {
		case err != nil && ctx.Err() == nil:
			failed(err)
		case err == nil && v == nameOurs:
			t.admit()
		case err == nil && v == nameTaken:
			t.mu.Lock()
			told := t.told
			t.mu.Unlock()
			t.yield(told)
			return nil
		}
	}
	return nil
}

// problems says that the name is another's, or that another asks for it.
func (t *twins) problems() []problem.Problem {
	t.mu.Lock()
	defer t.mu.Unlock()
	var out []problem.Problem
	if t.told.Code != "" {
		out = append(out, t.told)
	}
	if !t.otherAt.IsZero() && t.clock.Now().Sub(t.otherAt) <= twinForgets {
		out = append(out, t.own.asker(t.host, t.other))
	}
	return out
}

// waitForName returns when this host may begin: the name is ours, or nobody can be asked. It must then be asked for again
// before anything is agreed. Where the last life in this directory had the name and ran on this very machine since its boot,
// nobody is asked: a restart of an agent waits for nothing.
func (t *twins) waitForName(ctx context.Context, cfg Config, endpoints []string, sleep func(context.Context, time.Duration) bool) error {
	if keptPlace(cfg.Dir) == t.place() || !anyAnswers(ctx, endpoints) {
		return ctx.Err()
	}
	said := ""
	for unread := 0; ; {
		v, err := t.look(ctx)
		switch {
		case err == nil && v == nameOurs:
			return nil
		case err != nil && !errors.Is(err, cluster.ErrConflict):
			if unread++; unread >= twinReads && said == "" { // who was refused once stays so without the agreed state, too
				cfg.Log.Info("beginning without the agreed state: who runs as this host is not known", "err", err)
				return nil
			}
		case v >= nameOrphaned && said != t.refused().Title:
			p := t.refused()
			said = p.Title
			cfg.Log.Error(p.Text())
		}
		if !sleep(ctx, twinPace) {
			return ctx.Err()
		}
	}
}

func (t *twins) refused() problem.Problem {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.told
}

// anyAnswers reports whether a member takes connections. Where none does, there is nothing to wait for.
func anyAnswers(ctx context.Context, endpoints []string) bool {
	ctx, cancel := context.WithTimeout(ctx, twinDial)
	defer cancel()
	found := make(chan bool, len(endpoints))
	for _, e := range endpoints {
		go func() { // ends with ctx
			u, err := url.Parse(e)
			if err != nil {
				found <- false
				return
			}
			c, err := (&net.Dialer{}).DialContext(ctx, "tcp", u.Host)
			if err == nil {
				_ = c.Close() // only whether it opens was asked
			}
			found <- err == nil
		}()
	}
	for range endpoints {
		if <-found {
			return true
		}
	}
	return false
}

// release removes our mark: whoever comes next has not to ask.
func (t *twins) release(ctx context.Context) error {
	t.mu.Lock()
	life := t.own.Life
	t.mu.Unlock()
	now, revision, err := t.marks().Load(ctx, t.store)
	if err != nil || now.Life != life {
		return err
	}
	return t.store.Delete(ctx, string(t.marks()), revision)
}
