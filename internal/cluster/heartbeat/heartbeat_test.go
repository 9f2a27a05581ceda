package heartbeat_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"holdfast/internal/auth"
	"holdfast/internal/clock"
	"holdfast/internal/cluster/clustertest"
	"holdfast/internal/cluster/heartbeat"
)

const (
	patience = 2 * time.Minute
	quick    = 20 * time.Millisecond // distance of beats in tests
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type world struct {
	authority *auth.Authority
	dir       string
}

func newWorld(t *testing.T) *world {
	t.Helper()
	dir := t.TempDir()
	a, err := auth.CreateAuthority(filepath.Join(dir, "ca"), "clinic")
	if err != nil {
		t.Fatal(err)
	}
	return &world{a, dir}
}

func (w *world) certs(t *testing.T, name string) string {
	t.Helper()
	dir := filepath.Join(w.dir, name)
	if err := w.authority.WriteHost(dir, auth.HostCert{Name: name}); err != nil {
		t.Fatal(err)
	}
	return dir
}

func (w *world) client(t *testing.T, name string) *tls.Config {
	t.Helper()
	c, err := auth.ClientTLS(w.certs(t, name), "")
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// serve runs an HTTPS server as host name at address until end is called (or the test ends).
func (w *world) serve(t *testing.T, name, address string, h http.Handler) (base string, end func()) {
	t.Helper()
	conf, err := auth.ServerTLS(w.certs(t, name))
	if err != nil {
		t.Fatal(err)
	}
	l, err := tls.Listen("tcp", address, conf)
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.Handle("GET "+heartbeat.Path, h)
	srv := &http.Server{Handler: mux, ReadTimeout: 50 * time.Millisecond, WriteTimeout: 50 * time.Millisecond}
	done := make(chan error, 1)
	go func() { done <- srv.Serve(l) }()
	end = sync.OnceFunc(func() {
		_ = srv.Close() // Serve tells
		if err := <-done; !errors.Is(err, http.ErrServerClosed) {
			t.Errorf("serve: %v", err)
		}
	})
	t.Cleanup(end)
	return "https://" + l.Addr().String(), end
}

// listen runs a listener until the test ends.
func listen(t *testing.T, l *heartbeat.Listener) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- l.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("listen: %v", err)
		}
	})
}

func newListener(t *testing.T, w *world, as string, peers map[string]string) *heartbeat.Listener {
	t.Helper()
	return heartbeat.NewListener(peers, w.client(t, as), clock.Real(), quick, slog.New(slog.DiscardHandler))
}

func publish(t *testing.T, p *heartbeat.Publisher, payload string) {
	t.Helper()
	if err := p.Publish([]byte(payload)); err != nil {
		t.Fatal(err)
	}
}

func has(l *heartbeat.Listener, peer, payload string) func() error {
	return func() error {
		if b := l.Latest()[peer]; string(b.Payload) != payload {
			return fmt.Errorf("%s tells %s", peer, b.Payload)
		}
		return nil
	}
}

func TestReportsReachTheListener(t *testing.T) {
	w := newWorld(t)
	p := heartbeat.NewPublisher("b1", clock.Real())
	publish(t, p, `{"epoch":1}`)
	base, _ := w.serve(t, "b1", "127.41.3.1:0", p)
	l := newListener(t, w, "b2", map[string]string{"b1": base})
	listen(t, l)
	clustertest.Eventually(t, has(l, "b1", `{"epoch":1}`))
	first := l.Latest()["b1"]
	clustertest.Eventually(t, func() error {
		if b := l.Latest()["b1"]; b.Seq <= first.Seq+3 || b.Life != first.Life {
			return fmt.Errorf("after beat %d of %s came %d of %s", first.Seq, first.Life, b.Seq, b.Life)
		}
		return nil
	})
	for len(l.Wake()) > 0 {
		<-l.Wake()
	}
	publish(t, p, `{"epoch":2}`)
	select {
	case <-l.Wake():
	case <-time.After(patience):
		t.Fatal("a changed report wakes nobody")
	}
	clustertest.Eventually(t, has(l, "b1", `{"epoch":2}`))
	if c := l.Latest()["b1"].Contact; c >= 0 {
		t.Errorf("contact %v without a pair", c)
	}
}

func TestAChangeIsToldAtOnce(t *testing.T) {
	w := newWorld(t)
	p := heartbeat.NewPublisher("b1", noTimers{clock.Real()}) // whatever comes, no timer sent it
	base, _ := w.serve(t, "b1", "127.41.3.1:0", p)
	l := heartbeat.NewListener(map[string]string{"b1": base}, w.client(t, "b2"), clock.Real(), 2*time.Second, slog.New(slog.DiscardHandler))
	listen(t, l)
	clustertest.Eventually(t, has(l, "b1", "null"))
	first := l.Latest()["b1"].Seq
	for i := range 20 {
		want := fmt.Sprintf(`{"n":%d}`, i)
		publish(t, p, want)
		publish(t, p, want) // no change, no beat
		clustertest.Eventually(t, has(l, "b1", want))
	}
	if sent := l.Latest()["b1"].Seq - first; sent < 20 {
		t.Errorf("%d beats for 20 changes", sent)
	}
}

func TestSilenceAgesAndTheStreamComesBack(t *testing.T) {
	w := newWorld(t)
	p := heartbeat.NewPublisher("b1", clock.Real())
	base, end := w.serve(t, "b1", "127.41.3.1:0", p)
	l := newListener(t, w, "b2", map[string]string{"b1": base, "b3": "https://127.41.3.3:1"})
	listen(t, l)
	clustertest.Eventually(t, has(l, "b1", "null"))
	former := l.Latest()["b1"]
	for len(l.Wake()) > 0 {
		<-l.Wake()
	}
	end()
	select {
	case <-l.Wake():
	case <-time.After(patience):
		t.Fatal("a broken stream wakes nobody")
	}
	clustertest.Eventually(t, func() error {
		all := l.Latest()
		if all["b1"].Age < 500*time.Millisecond || all["b3"].Age < 500*time.Millisecond {
			return fmt.Errorf("ages %v and %v", all["b1"].Age, all["b3"].Age)
		}
		return nil
	})
	if b := l.Latest()["b1"]; string(b.Payload) != "null" || b.Life != former.Life {
		t.Errorf("the last word of a silent peer is gone: %+v", b)
	}
	if b := l.Latest()["b3"]; b.Payload != nil || b.Life != "" || b.Seq != 0 {
		t.Errorf("a peer never heard is known: %+v", b)
	}
	// The same host in a new life, on the same address.
	again := heartbeat.NewPublisher("b1", clock.Real())
	publish(t, again, `"again"`)
	w.serve(t, "b1", strings.TrimPrefix(base, "https://"), again)
	clustertest.Eventually(t, has(l, "b1", `"again"`))
	if l.Latest()["b1"].Life == former.Life {
		t.Error("a new life has the old name")
	}
}

func TestAHalfOpenConnectionIsDialledAnew(t *testing.T) {
	w := newWorld(t)
	p := heartbeat.NewPublisher("b1", clock.Real())
	var mu sync.Mutex
	streams := 0
	stuck := http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		mu.Lock()
		streams++
		first := streams == 1
		mu.Unlock()
		if !first {
			p.ServeHTTP(rw, r)
			return
		}
		rw.WriteHeader(http.StatusOK)
		_ = http.NewResponseController(rw).Flush() // then silence on an open connection
		<-r.Context().Done()
	})
	base, _ := w.serve(t, "b1", "127.41.3.1:0", stuck)
	l := newListener(t, w, "b2", map[string]string{"b1": base})
	listen(t, l)
	clustertest.Eventually(t, has(l, "b1", "null"))
}

func TestContactCountsFromOurOwnSending(t *testing.T) {
	w := newWorld(t)
	type side struct {
		p *heartbeat.Publisher
		l *heartbeat.Listener
	}
	sides := map[string]side{}
	bases, ends := map[string]string{}, map[string]func(){}
	for i, name := range []string{"b1", "b2"} {
		p := heartbeat.NewPublisher(name, clock.Real())
		bases[name], ends[name] = w.serve(t, name, fmt.Sprintf("127.41.3.%d:0", i+1), p)
		sides[name] = side{p: p}
	}
	for name, other := range map[string]string{"b1": "b2", "b2": "b1"} {
		l := newListener(t, w, name, map[string]string{other: bases[other]})
		heartbeat.Pair(sides[name].p, l)
		sides[name] = side{sides[name].p, l}
	}
	for _, s := range sides {
		listen(t, s.l)
	}
	for name, other := range map[string]string{"b1": "b2", "b2": "b1"} {
		clustertest.Eventually(t, func() error {
			if b := sides[name].l.Latest()[other]; b.Contact < 0 {
				return fmt.Errorf("%s has no contact with %s", name, other)
			}
			return nil
		})
	}
	// b1 is no longer heard by b2, but goes on hearing it: one-way loss.
	ends["b1"]()
	clustertest.Eventually(t, func() error {
		b := sides["b1"].l.Latest()["b2"]
		if b.Contact < 500*time.Millisecond || b.Age > b.Contact/2 {
			return fmt.Errorf("age %v, contact %v", b.Age, b.Contact)
		}
		return nil
	})
}

func TestOnlyTheRightHostIsHeard(t *testing.T) {
	w, foreign := newWorld(t), newWorld(t)
	p1, p2 := heartbeat.NewPublisher("b1", clock.Real()), heartbeat.NewPublisher("b2", clock.Real())
	gate := heartbeat.NewPublisher("b1/gate", clock.Real())
	b1, _ := w.serve(t, "b1", "127.41.3.1:0", p1)
	b2, _ := w.serve(t, "b2", "127.41.3.2:0", p2)
	atGate, _ := w.serve(t, "b1", "127.41.3.1:0", gate)
	claims, _ := w.serve(t, "b2", "127.41.3.2:0", heartbeat.NewPublisher("b4", clock.Real()))
	stranger, _ := foreign.serve(t, "b5", "127.41.3.5:0", heartbeat.NewPublisher("b5", clock.Real()))
	l := newListener(t, w, "b9", map[string]string{
		"b1": b1, "b1/gate": atGate,
		"b3": b2,       // another host answers
		"b2": claims,   // the right certificate, but it speaks for somebody else
		"b5": stranger, // another authority
	})
	listen(t, l)
	clustertest.Eventually(t, has(l, "b1", "null"))
	clustertest.Eventually(t, has(l, "b1/gate", "null"))
	clustertest.Eventually(t, func() error {
		if b := l.Latest()["b3"]; b.Age < 500*time.Millisecond {
			return errors.New("the others had no chance yet")
		}
		return nil
	})
	for _, name := range []string{"b2", "b3", "b5"} {
		if b := l.Latest()[name]; b.Life != "" {
			t.Errorf("%s was heard: %+v", name, b)
		}
	}
}

func TestPublisherRefuses(t *testing.T) {
	w := newWorld(t)
	p := heartbeat.NewPublisher("b1", clock.Real())
	base, _ := w.serve(t, "b1", "127.41.3.1:0", p)
	conf := w.client(t, "b2")
	conf.ServerName = "b1"
	tr := &http.Transport{TLSClientConfig: conf}
	defer tr.CloseIdleConnections()
	for query, want := range map[string]int{
		"?from=b3":       http.StatusForbidden,
		"?from=b3/gate":  http.StatusForbidden,
		"?interval=soon": http.StatusBadRequest,
	} {
		res := ask(t, tr, base+heartbeat.Path+query)
		if err := res.Body.Close(); err != nil || res.StatusCode != want {
			t.Errorf("%s gives %s, %v", query, res.Status, err)
		}
	}
	if err := p.Publish([]byte("{")); err == nil {
		t.Error("half a JSON value was published")
	}
	p.Close()
	p.Close() // twice is no harm
	publish(t, p, `"late"`)
	res := ask(t, tr, base+heartbeat.Path)
	defer func() { _ = res.Body.Close() }() // read to its end below
	if n, err := res.Body.Read(make([]byte, 1)); n != 0 || err == nil {
		t.Errorf("a closed publisher sent %d bytes, %v", n, err)
	}
}

// ask repeats a request that had no answer: the server's bounds are shorter than a handshake on a busy machine.
func ask(t *testing.T, tr *http.Transport, url string) (res *http.Response) {
	t.Helper()
	clustertest.Eventually(t, func() (err error) {
		res, err = (&http.Client{Transport: tr}).Get(url)
		return err
	})
	return res
}

func TestPeersComeAndGo(t *testing.T) {
	w := newWorld(t)
	p1, p2 := heartbeat.NewPublisher("b1", clock.Real()), heartbeat.NewPublisher("b2", clock.Real())
	b1, _ := w.serve(t, "b1", "127.41.3.1:0", p1)
	b2, _ := w.serve(t, "b2", "127.41.3.2:0", p2)
	l := newListener(t, w, "b3", map[string]string{"b1": b1})
	listen(t, l)
	clustertest.Eventually(t, has(l, "b1", "null"))
	life := l.Latest()["b1"].Life
	l.SetPeers(map[string]string{"b1": b1, "b2": b2})
	clustertest.Eventually(t, has(l, "b2", "null"))
	if l.Latest()["b1"].Life != life {
		t.Error("a peer that stayed was forgotten")
	}
	l.SetPeers(map[string]string{"b2": b2})
	if _, there := l.Latest()["b1"]; there {
		t.Error("a peer that left is still known")
	}
	publish(t, p2, "7")
	clustertest.Eventually(t, has(l, "b2", "7"))
}

// noTimers is a clock whose timers never fire.
type noTimers struct{ clock.Clock }

func (noTimers) NewTimer(time.Duration) clock.Timer { return never{} }

type never struct{}

func (never) C() <-chan time.Time      { return nil }
func (never) Stop() bool               { return true }
func (never) Reset(time.Duration) bool { return true }

// manual is a clock that stands until it is moved.
type manual struct {
	clock.Clock
	now time.Time
}

func (m *manual) Now() time.Time { return m.now }

func TestLateness(t *testing.T) {
	const tick = 50 * time.Millisecond
	c := &manual{now: time.Unix(0, 0)}
	l := heartbeat.NewLateness(c)
	on := func(d time.Duration) { c.now = c.now.Add(d) }
	check := func(when string, want time.Duration) {
		t.Helper()
		if got := l.Worst(); got != want {
			t.Errorf("%s: %v, want %v", when, got, want)
		}
	}
	for range 10 {
		on(tick)
		l.Tick()
	}
	check("on time", 0)
	on(tick + 400*time.Millisecond)
	check("asleep right now", 400*time.Millisecond)
	l.Tick()
	check("just woken", 400*time.Millisecond)
	for range 59 {
		on(tick)
		l.Tick()
	}
	check("awake for less than three seconds", 400*time.Millisecond)
	for range 2 {
		on(tick)
		l.Tick()
	}
	check("awake for longer", 0)
}

func TestLatenessRuns(t *testing.T) {
	l := heartbeat.NewLateness(clock.Real())
	time.Sleep(400 * time.Millisecond) // it is not running yet, and says so
	if l.Worst() < 300*time.Millisecond {
		t.Fatalf("not running, and only %v late", l.Worst())
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- l.Run(ctx) }()
	clustertest.Eventually(t, func() error {
		if w := l.Worst(); w > 200*time.Millisecond {
			return fmt.Errorf("%v late", w)
		}
		return nil
	})
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

// shifted is a clock that goes as the machine's does, and shows another time.
type shifted struct {
	clock.Clock
	by time.Duration
}

func (s shifted) Now() time.Time { return s.Clock.Now().Add(s.by) }

func TestABeatTellsItsSendersClock(t *testing.T) {
	w := newWorld(t)
	day := 24 * time.Hour
	p := heartbeat.NewPublisher("b1", shifted{clock.Real(), -2 * day})
	t.Cleanup(p.Close)
	publish(t, p, `{}`)
	base, _ := w.serve(t, "b1", "127.0.0.1:0", p)
	l := newListener(t, w, "b2", map[string]string{"b1": base})
	listen(t, l)
	for end := time.Now().Add(patience); l.Latest()["b1"].Seq < 2; time.Sleep(quick) {
		if time.Now().After(end) {
			t.Fatal("b1 was never heard")
		}
	}
	if ahead := l.Latest()["b1"].Ahead; ahead > -2*day || ahead < -2*day-patience {
		t.Errorf("its clock is said to be %s ahead, and is two days behind", ahead)
	}
}
