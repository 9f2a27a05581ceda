package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"holdfast/internal/api"
	"holdfast/internal/local"
)

// self is this process, which is never among those that are killed.
func self() int { return os.Getpid() }

// killInstance ends one instance of the service behind the edge.
func (d *demo) killInstance(ctx context.Context) (outcome, error) {
	const service = "web"
	st, err := d.status(ctx)
	if err != nil {
		return outcome{}, err
	}
	var host string
	for _, s := range st.Services {
		if s.Name == service && len(s.Instances) > 0 {
			host = s.Instances[0].Host
		}
	}
	all, err := processes()
	if err != nil {
		return outcome{}, err
	}
	victims := running(all, d.place, host, "clinic", service, self())
	if len(victims) != 1 {
		return outcome{}, fmt.Errorf("find the instance of %s on %q: %d processes look like it", service, host, len(victims))
	}
	victim := victims[0]
	d.say.tell("kill -9 %d, the instance of %s on %s. The edge must not show it to anybody.", victim.pid, service, host)
	began := d.fault()
	if err := kill(victims); err != nil {
		return outcome{}, err
	}
	whole, err := d.whole(ctx, func(api.Status) (bool, error) {
		all, err := processes()
		if err != nil {
			return false, err
		}
		n := 0
		for _, h := range d.plan.AllHosts() {
			for _, p := range running(all, d.place, h.Name, "clinic", service, self()) {
				if p.pid == victim.pid {
					return false, nil
				}
				n++
			}
		}
		s, _ := d.plan.ServiceNamed(service)
		return n == s.Instances, nil
	})
	return outcome{began: began, whole: whole}, err
}

// primary is the host that the database's primary is on.
func (d *demo) primary(ctx context.Context) (string, error) {
	st, err := d.status(ctx)
	if err != nil {
		return "", err
	}
	for _, db := range st.Databases {
		if db.Name == d.plan.Databases[0].Name && db.Open {
			return db.Primary, nil
		}
	}
	return "", errors.New("no primary is open")
}

// replaced asks whether the PostgreSQL server of a host is another process than the old one.
func (d *demo) replaced(host string, old process) func(api.Status) (bool, error) {
	return func(api.Status) (bool, error) {
		now, err := d.place.postmaster(host, d.plan.Databases[0].Name)
		if errors.Is(err, errNoPostmaster) {
			return false, nil
		}
		return now.pid != old.pid || now.start != old.start, err
	}
}

// killPrimary ends the primary's first process, as a crash does: no checkpoint, nothing flushed.
func (d *demo) killPrimary(ctx context.Context) (outcome, error) {
	host, err := d.primary(ctx)
	if err != nil {
		return outcome{}, err
	}
	server, err := d.place.postmaster(host, d.plan.Databases[0].Name)
	if err != nil {
		return outcome{}, err
	}
	d.say.tell("kill -9 %d, the PostgreSQL primary on %s. A standby that has every acknowledged row must take over.", server.pid, host)
	began := d.fault()
	if err := kill([]process{server}); err != nil {
		return outcome{}, err
	}
	if err := d.recovered(ctx); err != nil {
		return outcome{}, err
	}
	now, err := d.primary(ctx)
	if err != nil {
		return outcome{}, err
	}
	whole, err := d.whole(ctx, d.replaced(host, server))
	if err == nil {
		d.say.tell("The primary is now on %s, and %s is a standby again.", now, host)
	}
	return outcome{began: began, whole: whole}, err
}

// awayAtLeast is how long the killed host stays dark: longer than the silence after which its work is given to
// others (6 s), so that it is not its own return that heals.
const awayAtLeast = 10 * time.Second

// killHost ends everything of the primary's host at once, and lets the host come back only when the others have
// taken over.
func (d *demo) killHost(ctx context.Context) (o outcome, err error) {
	host, err := d.primary(ctx)
	if err != nil {
		return outcome{}, err
	}
	server, err := d.place.postmaster(host, d.plan.Databases[0].Name)
	if err != nil {
		return outcome{}, err
	}
	all, err := processes()
	if err != nil {
		return outcome{}, err
	}
	n := len(ofHost(all, d.place, host, self()))
	d.say.tell("kill -9 all %d processes of %s at once: agent, keepers, etcd, PostgreSQL, listener, edge, application.", n, host)
	hold := local.HoldFile(d.place.root(), host)
	if err := os.WriteFile(hold, nil, 0o644); err != nil {
		return outcome{}, fmt.Errorf("keep %s dark: %w", host, err)
	}
	held := true
	release := func() error {
		if !held {
			return nil
		}
		held = false
		return os.Remove(hold)
	}
	defer func() { err = errors.Join(err, release()) }()

	o.began = d.fault()
	limit, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	if _, err := killAll(limit, func(all []process) []process { return ofHost(all, d.place, host, self()) }); err != nil {
		return o, err
	}
	if err := d.recovered(ctx); err != nil {
		return o, err
	}
	now, err := d.primary(ctx)
	if err != nil {
		return o, err
	}
	d.say.tell("Clients are served again, the primary is now on %s. Every attachment is read back while %s is dark.", now, host)
	whole, err := d.load.ReadAttachments(ctx)
	if err != nil && ctx.Err() != nil {
		return o, err
	}
	if err != nil || whole != attachments {
		d.broke("%d of %d attachments are whole: %v", whole, attachments, err)
	} else {
		d.say.tell("%d of %d attachments are whole, byte by byte.", whole, attachments)
	}
	select {
	case <-ctx.Done():
		return o, context.Cause(ctx)
	case <-time.After(time.Until(o.began.Add(awayAtLeast))):
	}
	back, err := processes()
	if err != nil {
		return o, err
	}
	if left := ofHost(back, d.place, host, self()); len(left) > 0 {
		return o, fmt.Errorf("keep %s dark: it is not: %s", host, names(left))
	}
	d.dark = time.Since(o.began)
	if err := release(); err != nil {
		return o, fmt.Errorf("let %s come back: %w", host, err)
	}
	d.say.tell("After %s the host comes back with the data that it had.", seconds(d.dark))
	o.whole, err = d.whole(ctx, d.replaced(host, server))
	if err == nil {
		d.say.tell("It is whole %s after its return (the table counts from the kill).", seconds(o.whole.Sub(o.began.Add(d.dark))))
	}
	return o, err
}

// switchover moves the primary as an operator does before maintenance.
func (d *demo) switchover(ctx context.Context) (outcome, error) {
	db := d.plan.Databases[0].Name
	host, err := d.primary(ctx)
	if err != nil {
		return outcome{}, err
	}
	d.say.tell("The primary leaves %s in good order. Nothing may be lost, and clients wait for a moment only.", host)
	began := d.fault()
	text, err := d.command(ctx, "database", "switchover", db, "--yes")
	if err != nil {
		return outcome{}, err
	}
	d.say.quote(text)
	whole, err := d.whole(ctx, func(st api.Status) (bool, error) {
		for _, one := range st.Databases {
			if one.Name == db {
				return one.Primary != host, nil
			}
		}
		return false, nil
	})
	return outcome{began: began, whole: whole}, err
}

// backup makes a base backup under load; it counts only when a server was restored from it.
func (d *demo) backup(ctx context.Context) (outcome, error) {
	db := d.plan.Databases[0].Name
	d.say.tell("Read beside the running server, encrypted into the vault, restored to a scratch server and checked there.")
	began := d.fault()
	text, err := d.command(ctx, "backup", "run", db)
	if err != nil {
		return outcome{}, err
	}
	d.say.quote(text)
	if !saysProven(text) {
		d.broke("the base backup is not proven: %s", strings.TrimSpace(text))
	}
	if _, err := os.Stat(filepath.Join(d.place.root(), "vault")); err != nil {
		d.broke("the vault is where the plan says: %v", err)
	}
	return outcome{began: began}, nil
}

// saysProven reads from what `holdfast backup run` prints whether the backup was restored on trial and found good.
func saysProven(text string) bool {
	for line := range strings.Lines(text) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == "proven" {
			return strings.TrimRight(f[1], ",") == "yes"
		}
	}
	return false
}
