package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"
)

// finish ends the client, then all the rest unless it shall stay, and says whether every promise held. cause is
// what ended the story early; nil = nothing did.
func (d *demo) finish(ctx, patience context.Context, cause error) error {
	d.stop()
	d.background.Wait()
	interrupted := errors.Is(context.Cause(ctx), errInterrupted)
	switch {
	case interrupted:
		d.say.line("\nInterrupted: everything is being ended in good order (once more: at once).")
	case cause != nil:
		d.broken = append(d.broken, cause.Error())
	}
	if d.loadErr != nil {
		d.broken = append(d.broken, d.loadErr.Error())
	}
	if d.opt.keep && !interrupted && d.up != nil && d.agents != nil {
		return errors.Join(d.verdict(), d.stays())
	}
	began := time.Now()
	if err := d.endUp(patience); err != nil {
		d.broken = append(d.broken, "end in good order and leave nothing behind: "+err.Error())
	}
	switch {
	case interrupted:
		if err := d.place.remove(); err != nil {
			return errors.Join(errInterrupted, fmt.Errorf("remove %s: %w", d.place.work, err))
		}
		d.say.line("Ended in %s. Nothing is left but the log: %s", seconds(time.Since(began)), d.place.log())
		return errInterrupted
	case len(d.broken) == 0:
		if err := d.place.remove(); err != nil {
			return fmt.Errorf("remove %s: %w", d.place.work, err)
		}
		d.say.line("Ended in good order in %s: no process and no file is left but the log.", seconds(time.Since(began)))
		d.say.line("The log, with every decision and its reasons: %s", d.place.log())
		d.say.line("Next:  make demo KEEP=1                                  leaves it running, to be broken by you")
		d.say.line("       bin/holdfast plan check %s   says what a plan survives", shorter(d.opt.plan))
	default:
		d.say.line("Everything was ended. The data stay in %s, the log in %s.", d.place.work, d.place.log())
		d.say.line("Next:  less %s", d.place.log())
		d.say.line("       %s up --root %s %s   starts it again", shorter(d.opt.holdfast), d.place.root(), d.place.planFile())
	}
	return d.verdict()
}

// verdict says whether every promise held; the error is the demo's failure.
func (d *demo) verdict() error {
	if len(d.broken) == 0 {
		if len(d.opt.only) > 0 {
			d.say.line("\nEvery promise held, in the steps that were told: %s.", strings.Join(d.opt.only, ", "))
			return nil
		}
		d.say.line("\nEvery promise held: no acknowledged row was lost, every attachment is whole, redundancy came back after each\nfault, the base backup is proven, and the deleted rows are back exactly as they were.")
		return nil
	}
	return fmt.Errorf("%d promises broke:\n  %s", len(d.broken), strings.Join(d.broken, "\n  "))
}

// stays says how to use what was left running, and how to end it.
func (d *demo) stays() error {
	edgeURL, edges, err := d.edge()
	if err != nil {
		return err
	}
	db := d.plan.Databases[0]
	role, hosts := db.Roles[0], d.plan.AllHosts()
	holdfast, root := shorter(d.opt.holdfast), d.place.root()
	d.say.line("\nIt goes on running. The application, through the edge of any host (%s):", strings.Join(edges, ", "))
	d.say.line("  curl --cacert %s \\\n    --resolve %s:%s %s/api/practices", d.place.authority(), edgeURL.Host, hosts[0].Address, edgeURL)
	d.say.line("The database, through the listener of any host:")
	d.say.line("  PGPASSWORD=$(cat %s) psql \"host=%s port=%d user=%s dbname=%s sslmode=verify-ca sslrootcert=%s\"",
		role.Password.Target(), hosts[0].Address, db.WritePort, role.Name, role.Owns[0], d.place.authority())
	d.say.line("Next:  %s status --root %s --watch", holdfast, root)
	d.say.line("       %s database switchover %s --root %s", holdfast, db.Name, root)
	d.say.line("       %s down --root %s && rm -r %s   ends it in good order and removes its files", holdfast, root, d.place.work)
	d.say.line("The log: %s", d.place.log())
	return nil
}

// shorter names a file from the working directory where that is shorter.
func shorter(file string) string {
	here, err := filepath.Abs(".")
	if err != nil {
		return file
	}
	if rel, err := filepath.Rel(here, file); err == nil && len(rel) < len(file) {
		return rel
	}
	return file
}
