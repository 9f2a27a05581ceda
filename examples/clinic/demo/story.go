package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"holdfast/examples/clinic/client"
	"holdfast/internal/api"
	"holdfast/internal/plan"
)

// What the clinic holds before the story begins.
const (
	practices        = 5
	appointmentsEach = 40
	attachments      = 24
	attachmentBytes  = 256 << 10
)

// demo is one telling.
type demo struct {
	opt    options
	say    *speaker
	place  place
	plan   *plan.Plan
	up     *upProcess  // nil = not started
	agents *api.Client // nil = not started
	load   *client.Client
	meter  *meter

	seeded  []client.Practice
	started time.Duration // from the start of `holdfast up` to the first moment at which all was whole
	title   string        // of the step that runs
	dark    time.Duration // how long the killed host was kept from coming back
	rows    []row
	broken  []string // promises, in words

	background sync.WaitGroup // load and meter
	stop       context.CancelFunc
	loadErr    error // read after background was waited for
}

// step is one thing that happens to the running clinic.
type step struct {
	word  string // for -only
	title string
	run   func(*demo, context.Context) (outcome, error)
}

// outcome is what a step itself knows; the client knows the rest.
type outcome struct {
	began time.Time // the fault
	whole time.Time // zero = nothing was to be regained
}

func story() []step {
	return []step{
		{"instance", "kill -9 an application instance", (*demo).killInstance},
		{"primary", "kill -9 the PostgreSQL primary", (*demo).killPrimary},
		{"host", "kill -9 all of the primary's host", (*demo).killHost},
		{"switchover", "a planned switchover", (*demo).switchover},
		{"backup", "a base backup, proven", (*demo).backup},
		{"disaster", "rows deleted by a person, put back", (*demo).disaster},
	}
}

func words() []string {
	var all []string
	for _, s := range story() {
		all = append(all, s.word)
	}
	return all
}

// tell carries the demo out from nothing to nothing. patience ends when nothing shall be waited for any more.
func tell(ctx, patience context.Context, opt options, say *speaker) error {
	d := &demo{opt: opt, say: say}
	began := time.Now()
	if err := d.prepare(ctx); err != nil {
		return err
	}
	err := d.live(ctx)
	if len(d.rows) > 0 {
		d.summary(ctx, time.Since(began))
	}
	return d.finish(ctx, patience, err)
}

// prepare makes the directories and refuses where something is in the way; nothing runs yet.
func (d *demo) prepare(ctx context.Context) (err error) {
	if d.place, err = newPlace(d.opt); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, d.place.remove())
		}
	}()
	text, err := os.ReadFile(d.place.planFile())
	if err != nil {
		return err
	}
	if d.plan, err = readPlan(d.place.planFile(), text); err != nil {
		return err
	}
	d.plan = d.plan.WithRoot(d.place.root())
	if held := inUse(ctx, d.plan); len(held) > 0 {
		return fmt.Errorf("nothing was started, for these addresses cannot be had:\n%s\nAnother demo, or a holdfast up of this plan? End what uses them (ss -ltnp shows it), or choose others: -network 127.47.0",
			firstLines("  "+strings.Join(held, "\n  "), quoted))
	}
	return nil
}

// live starts everything and tells the story. It returns when the story is over, with everything still running.
func (d *demo) live(ctx context.Context) error {
	running, stop := context.WithCancel(context.WithoutCancel(ctx))
	d.stop = stop
	d.meter = &meter{work: d.place.work}
	d.background.Go(func() { d.meter.run(running) })

	if err := d.begin(ctx); err != nil {
		return fmt.Errorf("start the clinic: %w", err)
	}
	d.background.Go(func() { d.loadErr = d.load.Run(running) })
	if err := d.recovered(ctx); err != nil {
		return fmt.Errorf("start the client: %w", err)
	}
	for i, s := range story() {
		if len(d.opt.only) > 0 && !slices.Contains(d.opt.only, s.word) {
			continue
		}
		if err := d.step(ctx, i+1, s); err != nil {
			return fmt.Errorf("step %d, %s: %w", i+1, s.title, err)
		}
	}
	return nil
}

// begin brings the clinic up and fills it.
func (d *demo) begin(ctx context.Context) error {
	d.say.line("Holdfast runs %s on %d hosts of this machine, and a client keeps writing while they are broken.", d.plan.Application, len(d.plan.AllHosts()))
	d.say.line("Everything lies in %s; the log is %s.", d.place.work, d.place.log())
	d.say.head("0  start from nothing")
	d.say.command("holdfast up --root " + d.place.root() + " " + d.place.planFile())
	began := time.Now()
	if err := d.startUp(); err != nil {
		return err
	}
	if err := d.connect(ctx); err != nil {
		return err
	}
	d.say.tell("%6s  authority, certificates and secrets are made; etcd and PostgreSQL are coming", seconds(time.Since(began)))
	looking, stop := context.WithCancel(ctx)
	var progress sync.WaitGroup
	progress.Go(func() { d.progress(looking, began) })
	whole, err := d.whole(ctx, nil)
	stop()
	progress.Wait()
	if err != nil {
		return err
	}
	d.started = whole.Sub(began)
	d.say.tell("%6s  whole: %s", seconds(d.started), d.inWords(ctx))
	if d.load, err = d.client(); err != nil {
		return err
	}
	if d.seeded, err = d.load.Seed(ctx, practices, appointmentsEach); err != nil {
		return err
	}
	if err := d.load.UploadAttachments(ctx, d.seeded[0].ID, attachments, attachmentBytes); err != nil {
		return err
	}
	d.say.tell("%6s  %d practices with %d appointments and %d attachments of %s are stored through the edge",
		seconds(time.Since(began)), practices, practices*appointmentsEach, attachments, size(attachmentBytes))
	return nil
}

// progress tells what there is, each time that it becomes more.
func (d *demo) progress(ctx context.Context, began time.Time) {
	open, ready := false, 0
	for {
		if st, err := d.status(ctx); err == nil && ctx.Err() == nil {
			for _, db := range st.Databases {
				if db.Open && !open {
					open = true
					d.say.tell("%6s  database %s is open, its primary on %s", seconds(time.Since(began)), db.Name, db.Primary)
				}
			}
			n, wanted := 0, 0
			for _, s := range st.Services {
				n, wanted = n+s.Ready, wanted+s.Wanted
			}
			if n > ready {
				ready = n
				d.say.tell("%6s  %d of %d service instances are ready", seconds(time.Since(began)), n, wanted)
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(lookPace):
		}
	}
}

// inWords is the state in half a line.
func (d *demo) inWords(ctx context.Context) string {
	st, err := d.status(ctx)
	if err != nil {
		return err.Error()
	}
	var parts []string
	for _, db := range st.Databases {
		parts = append(parts, fmt.Sprintf("%s on %s with %d standbys", db.Name, db.Primary, len(db.Servers)-1))
	}
	for _, s := range st.Services {
		var on []string
		for _, i := range s.Instances {
			on = append(on, i.Host)
		}
		slices.Sort(on)
		parts = append(parts, s.Name+" on "+strings.Join(on, " and "))
	}
	return strings.Join(parts, ", ")
}

// client is the measuring client, with an edge and a listener on each host to choose from.
func (d *demo) client() (*client.Client, error) {
	pem, err := os.ReadFile(d.place.authority())
	if err != nil {
		return nil, fmt.Errorf("read the application's authority: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("read the application's authority: %s holds no certificate", d.place.authority())
	}
	edgeURL, edges, err := d.edge()
	if err != nil {
		return nil, err
	}
	cfg := client.Config{
		EdgeURL: edgeURL.String(), TLS: &tls.Config{RootCAs: pool}, ResolveTo: edges,
		LogFile: d.place.clientLog(), Log: slog.New(slog.DiscardHandler), // outcomes are counted, and in the log file
	}
	for _, h := range d.plan.AllHosts() {
		dsn, err := d.dsn(h.Address)
		if err != nil {
			return nil, err
		}
		cfg.Listeners = append(cfg.Listeners, dsn)
	}
	return client.New(cfg)
}

// edge is the URL of the plan's first https route, and the addresses that serve it.
func (d *demo) edge() (*url.URL, []string, error) {
	for _, s := range d.plan.Services {
		if s.Route == nil || s.Route.Scheme != "https" {
			continue
		}
		var edges []string
		for _, h := range d.plan.AllHosts() {
			edges = append(edges, net.JoinHostPort(h.Address, strconv.Itoa(s.Route.Port)))
		}
		return &url.URL{Scheme: "https", Host: net.JoinHostPort(s.Route.Host, strconv.Itoa(s.Route.Port))}, edges, nil
	}
	return nil, nil, errors.New("the plan has no https route")
}

// dsn leads to the clinic's database through the listeners at some addresses, tried in turn.
func (d *demo) dsn(addresses ...string) (string, error) {
	db := d.plan.Databases[0]
	role := db.Roles[0]
	password, err := secret(role.Password.Target())
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("host=%s port=%d user=%s password=%s dbname=%s sslmode=verify-ca sslrootcert=%s connect_timeout=3",
		strings.Join(addresses, ","), db.WritePort, role.Name, password, role.Owns[0], d.place.authority()), nil
}

// anyDSN leads to the database through whichever listener answers.
func (d *demo) anyDSN() (string, error) {
	var all []string
	for _, h := range d.plan.AllHosts() {
		all = append(all, h.Address)
	}
	return d.dsn(all...)
}

// recoveredMax is how long clients may be without an answer on one of their paths before the story ends.
const recoveredMax = time.Minute

// recovered waits until each of the client's paths works.
func (d *demo) recovered(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, recoveredMax)
	defer cancel()
	return d.load.Recovered(ctx)
}

// fault marks the moment that the client's figures of a step begin at. Call it right before the fault.
func (d *demo) fault() time.Time {
	d.load.Mark(d.title)
	return time.Now()
}

// broke notes a promise that did not hold.
func (d *demo) broke(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	d.broken = append(d.broken, text)
	d.say.tell("PROMISE BROKEN: %s", text)
}

// step runs one step and measures it.
func (d *demo) step(ctx context.Context, number int, s step) error {
	began, promises := time.Now(), len(d.broken)
	d.title = s.title
	d.say.head("%d  %s", number, s.title)
	out, err := s.run(d, ctx)
	if err != nil {
		return err
	}
	if err := d.recovered(ctx); err != nil {
		return err
	}
	lost, rows, err := d.verify(ctx)
	if err != nil {
		return err
	}
	r := row{title: fmt.Sprintf("%d  %s", number, s.title), lost: lost, took: time.Since(began), broken: len(d.broken) > promises}
	if !out.whole.IsZero() {
		r.whole = out.whole.Sub(out.began)
	}
	r.see(d.load.Phases(), s.title)
	d.rows = append(d.rows, r)
	again := ""
	if r.whole > 0 {
		again = "; whole again after " + seconds(r.whole)
	}
	d.say.tell("=> edge: gap %s, %d failed; listener: gap %s, %d failed; %d of %d rows lost%s",
		seconds(r.edge.LongestGap), r.edge.Failed, seconds(r.listener.LongestGap), r.listener.Failed, lost, rows, again)
	return nil
}

// see fills in what clients saw in the phase of that name.
func (r *row) see(phases []client.Phase, name string) {
	for _, p := range phases {
		if p.Name == name {
			r.edge = onePath(p.Paths[client.EdgeWrite], p.Paths[client.EdgeRead])
			r.listener = p.Paths[client.ListenerWrite]
		}
	}
}

// verify compares every acknowledged row so far with the database.
func (d *demo) verify(ctx context.Context) (lost, acknowledged int, err error) {
	ctx, cancel := context.WithTimeout(ctx, recoveredMax)
	defer cancel()
	dsn, err := d.anyDSN()
	if err != nil {
		return 0, 0, err
	}
	v, err := d.load.Verify(ctx, dsn)
	if err != nil {
		return 0, 0, err
	}
	if err := v.Err(); err != nil {
		d.broke("%v", err)
	}
	return v.Lost(), v.Acknowledged(), nil
}

// summary prints the table and what it cost.
func (d *demo) summary(ctx context.Context, took time.Duration) {
	phases := d.load.Phases()
	titles := map[string]string{}
	for i, s := range story() {
		titles[fmt.Sprintf("%d  %s", i+1, s.title)] = s.title
	}
	for i := range d.rows {
		d.rows[i].see(phases, titles[d.rows[i].title]) // with what ended after the step did
	}
	d.say.line("")
	var b strings.Builder
	if err := writeTable(&b, d.rows); err != nil {
		d.say.line("the table: %v", err)
	}
	d.say.line("%s", strings.TrimRight(b.String(), "\n"))
	dark := ""
	if d.dark > 0 {
		dark = fmt.Sprintf(" Step 3 includes the %s that its host was kept dark.", seconds(d.dark))
	}
	d.say.line("Gap: the longest time without an answer. Whole again: from the fault until hosts, standbys, services and the archive\nare as the plan wants; in step 6 until the rows were back.%s", dark)
	ask, err := d.meter.demand()
	if err != nil {
		d.say.line("what was asked of the machine is not known in full: %v", err)
	}
	d.say.line("\nStarted from nothing in %s; all of it took %s.", seconds(d.started), seconds(took))
	d.say.line("Asked of this machine: %s of memory at most, in %d processes; %s of processor time (%.0f %% of one);\n%s of disk for 3 data directories, the vault and what was restored. The client itself is not counted.",
		size(ask.peakBytes), ask.processes, seconds(ask.processor), 100*ask.processor.Seconds()/took.Seconds(), size(ask.diskBytes))
	if err := d.keepHistory(ctx); err != nil {
		d.say.line("the history was not kept: %v", err)
	}
}

// keepHistory appends what Holdfast did and why to the log, which outlives the demo.
func (d *demo) keepHistory(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	text, err := d.quietly(ctx, "history")
	if err != nil {
		return err
	}
	f, err := os.OpenFile(d.place.log(), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = io.WriteString(f, "\nholdfast history:\n"+text)
	return errors.Join(err, f.Close())
}
