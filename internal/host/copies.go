package host

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"holdfast/internal/problem"
	"holdfast/internal/vault"
)

// copyWatch carries to each copy of the vaults that this host writes what the others have, and says which copies are
// away or behind.
type copyWatch struct {
	host *Host

	mu    sync.Mutex // guards what follows
	wrong map[string][]problem.Problem
}

const (
	// copyPace is how often the copies' standing is looked at.
	copyPace = time.Second
	// copyBehindMax is how long a copy may lack something before it is said.
	copyBehindMax = 2 * time.Minute
)

func newCopyWatch(h *Host) *copyWatch {
	return &copyWatch{host: h, wrong: map[string][]problem.Problem{}}
}

// follow keeps the copies of one open vault equal until ctx ends. who tells this duty from another of the same vault.
func (w *copyWatch) follow(ctx context.Context, who string, v *vault.Vault) {
	if v.Copies() == nil {
		<-ctx.Done()
		return
	}
	defer w.tell(who, nil)
	var following sync.WaitGroup
	following.Go(func() { v.Follow(ctx) })
	known := map[string]bool{}
	for w.host.sleep(ctx, copyPace) {
		w.tell(who, copyProblems(v, w.host.clock.Now()))
		for _, c := range v.Copies() {
			if c.Compared.IsZero() || c.Away != nil || known[c.Name] {
				continue
			}
			if err := w.remember(ctx, v, c.Name); err != nil {
				w.host.cfg.Log.Debug("full copy not noted", "vault", v.Name(), "copy", c.Name, "err", err)
				continue
			}
			known[c.Name] = true
		}
	}
	following.Wait()
}

// remember notes that a copy has held everything.
func (w *copyWatch) remember(ctx context.Context, v *vault.Vault, copied string) error {
	key := copyKey(v.Name(), copied)
	_, revision, err := key.Load(ctx, w.host.store)
	if err == nil && revision == 0 {
		_, err = key.Swap(ctx, w.host.store, 0, v.Identity().ID)
	}
	return err
}

func copyProblems(v *vault.Vault, now time.Time) []problem.Problem {
	var out []problem.Problem
	for _, c := range v.Copies() {
		if n := len(c.Rotten); n > 0 {
			out = append(out, problem.Problem{
				Code: "vault.copy-rotten", Subject: v.Name(), Severity: problem.Degraded,
				Title:   fmt.Sprintf("copy %s holds %d objects that were read and are damaged, %s first", c.Name, n, c.Rotten[0]),
				Meaning: "They were read from another copy instead. Should that be lost, they would be lost.",
				Remedy:  "holdfast vault scrub " + v.Name() + ", then holdfast vault repair " + v.Name() + "; look at that copy's disk",
			})
		}
		behind := time.Duration(0)
		if !c.Since.IsZero() {
			behind = now.Sub(c.Since)
		}
		switch {
		case c.Away != nil:
			out = append(out, problem.Problem{
				Code: "vault.copy-away", Subject: v.Name(), Severity: problem.Degraded,
				Title:   fmt.Sprintf("copy %s is passed over: %s", c.Name, firstLine(c.Away.Error())),
				Meaning: "The other copies take and give everything. What is lost with them meanwhile is not in this one.",
				Remedy:  "bring it back; it is filled by itself. holdfast vault status " + v.Name() + " says what it lacks",
			})
		case behind > copyBehindMax && c.Reserve != nil:
			out = append(out, problem.Problem{
				Code: "vault.copy-behind", Subject: v.Name(), Severity: problem.Degraded,
				Title:   fmt.Sprintf("copy %s lacks %d objects, the oldest for %s: %s", c.Name, c.Waiting, behind.Round(time.Second), firstLine(c.Reserve.Error())),
				Meaning: "It takes the log, and base backups no more. Should the other copy be lost now, the newest ones would be lost.",
				Remedy:  "make room on its disk or make that larger; it is filled by itself",
			})
		case behind > copyBehindMax:
			out = append(out, problem.Problem{
				Code: "vault.copy-behind", Subject: v.Name(), Severity: problem.Degraded,
				Title:   fmt.Sprintf("copy %s lacks %d objects, the oldest for %s", c.Name, c.Waiting, behind.Round(time.Second)),
				Meaning: "They are in another copy. Should that be lost now, they would be lost.",
				Remedy:  "none if it shrinks; else see how fast the way to the copy is, and its log lines",
			})
		}
	}
	return out
}

func (w *copyWatch) tell(who string, wrong []problem.Problem) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(wrong) == 0 {
		delete(w.wrong, who)
		return
	}
	w.wrong[who] = wrong
}

// problems are those of all copies, each once.
func (w *copyWatch) problems() []problem.Problem {
	w.mu.Lock()
	defer w.mu.Unlock()
	var out []problem.Problem
	for _, d := range w.host.cfg.Plan.Backups {
		for _, p := range w.wrong[d.Of] {
			if !slices.ContainsFunc(out, func(o problem.Problem) bool { return o.Code == p.Code && o.Subject == p.Subject && o.Title == p.Title }) {
				out = append(out, p)
			}
		}
	}
	return out
}
