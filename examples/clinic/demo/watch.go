package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"holdfast/internal/api"
	"holdfast/internal/plan"
	"holdfast/internal/problem"
)

const (
	// lookPace is how often the state is looked at while something is waited for, so figures of redundancy are
	// this exact.
	lookPace = 100 * time.Millisecond
	// looks is how many looks in a row must agree that all is whole: one may still tell of the moment before.
	looks = 3
	// wholeMax is how long anything may take to be whole again.
	wholeMax = 2 * time.Minute
)

// lacking says what is missing to full redundancy, in words; nothing when every promise of the plan holds with
// all its margin.
func lacking(p *plan.Plan, st api.Status) []string {
	var out []string
	say := func(format string, args ...any) { out = append(out, fmt.Sprintf(format, args...)) }
	heard := map[string]bool{}
	for _, h := range st.Hosts {
		heard[h.Name] = h.Heard
	}
	for _, h := range p.AllHosts() {
		if !heard[h.Name] {
			say("host %s is silent", h.Name)
		}
	}
	databases := map[string]api.DatabaseStatus{}
	for _, d := range st.Databases {
		databases[d.Name] = d
	}
	for _, d := range p.Databases {
		now := databases[d.Name]
		if !now.Open {
			say("%s is not open", d.Name)
		}
		primaries, standbys := 0, 0
		for _, s := range now.Servers {
			switch {
			case s.Role == "primary" && s.Host == now.Primary:
				primaries++
			case s.Role == "standby" && s.State == "streams" && s.Counts:
				standbys++
			}
		}
		if primaries != 1 {
			say("%s has %d primaries", d.Name, primaries)
		}
		if standbys != d.Standbys {
			say("%s: %d of %d standbys stream and count", d.Name, standbys, d.Standbys)
		}
		if _, wanted := p.BackupOf(d.Name); wanted && (now.Archive == nil || now.Archive.Trouble != "") {
			say("the log of %s does not reach the vault", d.Name)
		}
	}
	services := map[string]api.ServiceStatus{}
	for _, s := range st.Services {
		services[s.Name] = s
	}
	for _, s := range p.Services {
		if now := services[s.Name]; now.Ready != s.Instances {
			say("%s: %d of %d instances ready", s.Name, now.Ready, s.Instances)
		}
	}
	for _, x := range st.IfDied {
		if !x.Safe {
			say("the death of %s would not be survived in full", x.Host)
		}
	}
	for _, x := range st.Problems {
		if x.Severity != problem.Note && x.Code != "vault.key-unproven" { // nobody has a place away from this machine to put a key to
			say("%s %s", x.Code, x.Subject)
		}
	}
	return out
}

// whole waits until nothing is lacking, every door opens, and changed (nil = nothing to ask) agrees, a few
// looks in a row. It returns when the first of them began.
func (d *demo) whole(ctx context.Context, changed func(api.Status) (bool, error)) (time.Time, error) {
	ctx, cancel := context.WithTimeout(ctx, wholeMax)
	defer cancel()
	var first time.Time
	var missing []string
	for agreed := 0; ; {
		at := time.Now()
		if now := d.missing(ctx, changed); ctx.Err() == nil {
			missing = now // what was cut short says nothing
		}
		switch {
		case len(missing) > 0:
			agreed = 0
		case agreed == 0:
			first, agreed = at, 1
		default:
			agreed++
		}
		if agreed == looks {
			return first, nil
		}
		select {
		case <-ctx.Done():
			return first, fmt.Errorf("wait until all is whole: %w; lacking: %s", context.Cause(ctx), strings.Join(missing, "; "))
		case <-d.up.ended:
			return first, fmt.Errorf("wait until all is whole: %w", d.upGone())
		case <-time.After(lookPace):
		}
	}
}

func (d *demo) missing(ctx context.Context, changed func(api.Status) (bool, error)) []string {
	st, err := d.status(ctx)
	if err != nil {
		return []string{"no agent answers"}
	}
	if out := lacking(d.plan, st); len(out) > 0 {
		return out
	}
	if changed != nil {
		if yes, err := changed(st); err != nil {
			return []string{err.Error()}
		} else if !yes {
			return []string{"the change itself is not seen yet"}
		}
	}
	return closed(ctx, doors(d.plan))
}

// closed lists the doors that do not open.
func closed(ctx context.Context, all []door) []string {
	var out []string
	for _, one := range all {
		try, cancel := context.WithTimeout(ctx, time.Second)
		conn, err := (&net.Dialer{}).DialContext(try, "tcp", one.address)
		cancel()
		if err != nil {
			out = append(out, "the "+one.what+" does not accept")
			continue
		}
		_ = conn.Close() // nothing was said
	}
	return out
}

// status asks the agents; a silent one costs no more than a second.
func (d *demo) status(ctx context.Context) (api.Status, error) {
	if d.agents == nil {
		return api.Status{}, errors.New("nothing was started")
	}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	return d.agents.Status(ctx)
}

// until looks again and again until done says true, and returns the error that comes with it. Errors before that
// are told when the time is up.
func until(ctx context.Context, limit time.Duration, what string, done func() (bool, error)) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	var last error
	for {
		yes, err := done()
		if yes {
			return err
		}
		if err != nil {
			last = err
		}
		select {
		case <-ctx.Done():
			return errors.Join(fmt.Errorf("wait until %s: %w", what, context.Cause(ctx)), last)
		case <-time.After(lookPace):
		}
	}
}
