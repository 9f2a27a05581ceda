package host

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"holdfast/internal/clock"
	"holdfast/internal/problem"
	"holdfast/internal/vault"
)

// keyWatch says which vaults have no copy of their key away from the hosts that was shown to open them lately. Whoever holds a
// vault open for its duty asks it for that.
type keyWatch struct {
	clock clock.Clock

	mu     sync.Mutex           // guards what follows
	looked map[string]keyLooked // by duty
}

// keyLooked is what a duty's last look came to.
type keyLooked struct {
	at    time.Time
	wrong *problem.Problem // nil = the key is proven
}

const (
	// keyPace is how often a vault whose key is proven is asked, and keySoon while it is not: whoever has proven it wants to see that.
	keyPace = 10 * time.Minute
	keySoon = 30 * time.Second
)

// keyed is a vault, as far as its keys go.
type keyed interface {
	Name() string
	Keys(ctx context.Context) (vault.Keys, error)
}

func newKeyWatch(c clock.Clock) *keyWatch {
	return &keyWatch{clock: c, looked: map[string]keyLooked{}}
}

// due reports whether a duty should ask its vault again.
func (w *keyWatch) due(who string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	last, known := w.looked[who]
	pace := keyPace
	if last.wrong != nil {
		pace = keySoon
	}
	return !known || w.clock.Now().Sub(last.at) >= pace
}

// unproven reports whether a duty's vault said last that its key is not proven.
func (w *keyWatch) unproven(who string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.looked[who].wrong != nil
}

// look asks a vault that a duty has open, when that is due. What a vault that does not answer said before stands.
func (w *keyWatch) look(ctx context.Context, who string, v keyed) error {
	if !w.due(who) {
		return nil
	}
	keys, err := v.Keys(ctx)
	if err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.looked[who] = keyLooked{at: w.clock.Now(), wrong: keys.Trouble(v.Name(), time.Now())}
	return nil
}

// leave forgets what a duty saw that is not this host's any more.
func (w *keyWatch) leave(who string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.looked, who)
}

// problems are those of all vaults, each once.
func (w *keyWatch) problems() []problem.Problem {
	w.mu.Lock()
	defer w.mu.Unlock()
	var out []problem.Problem
	for _, who := range slices.Sorted(maps.Keys(w.looked)) {
		if p := w.looked[who].wrong; p != nil && !slices.Contains(out, *p) {
			out = append(out, *p)
		}
	}
	return out
}
