package host

import (
	"context"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"holdfast/internal/auth"
	"holdfast/internal/clock"
	"holdfast/internal/problem"
)

func TestTheEndOfACertificateIsToldInTime(t *testing.T) {
	const day = 24 * time.Hour
	until := time.Date(2031, 5, 17, 8, 30, 0, 0, time.UTC)
	for _, c := range []struct {
		name     string
		left     time.Duration
		severity problem.Severity // "" = nothing is said
		title    string
	}{
		{"a new one", 365 * day, "", ""},
		{"a day before it is said", 31 * day, "", ""},
		{"a month before its end", 30 * day, problem.Note, "its certificate ends on 2031-05-17 08:30 UTC"},
		{"a week before its end", 7 * day, problem.Degraded, "its certificate ends on 2031-05-17 08:30 UTC"},
		{"after its end", -time.Second, problem.Critical, "its certificate has ended on 2031-05-17 08:30 UTC"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := certificateProblem("b2", "/data/hosts/b2/tls", c.left, until)
			if p == nil {
				p = &problem.Problem{}
			} else if p.Code != "host.certificate-ends" || p.Subject != "b2" || !strings.Contains(p.Remedy, "cluster certify b2 --plan PLAN --yes") {
				t.Errorf("it says %+v", p)
			}
			if p.Severity != c.severity || p.Title != c.title {
				t.Errorf("%q: %s; want %q: %s", p.Severity, p.Title, c.severity, c.title)
			}
		})
	}
}

func TestTheEndOfTheAuthorityIsToldInTime(t *testing.T) {
	const day = 24 * time.Hour
	until := time.Date(2041, 5, 17, 8, 30, 0, 0, time.UTC)
	for left, want := range map[time.Duration]problem.Severity{366 * day: "", 365 * day: problem.Note, 90 * day: problem.Degraded, 0: problem.Critical} {
		p := authorityProblem("b2", left, until)
		if p == nil {
			p = &problem.Problem{}
		} else if p.Code != "host.authority-ends" || p.Subject != "b2" || !strings.Contains(p.Title, "2041-05-17 08:30 UTC") {
			t.Errorf("it says %+v", p)
		}
		if p.Severity != want {
			t.Errorf("%s before: %q, want %q", left, p.Severity, want)
		}
	}
}

// aheadClock is that much ahead of the real one.
type aheadClock struct {
	clock.Clock
	by time.Duration
}

func (c aheadClock) Now() time.Time { return c.Clock.Now().Add(c.by) }

func TestAHostLooksAtItsOwnCertificate(t *testing.T) {
	ca, err := auth.CreateAuthority(filepath.Join(t.TempDir(), "ca"), "clinic")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := ca.WriteHost(certDir(dir), auth.HostCert{Name: "b2"}); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		after time.Duration
		said  int
	}{{0, 0}, {360 * 24 * time.Hour, 1}, {9 * 366 * 24 * time.Hour, 2}} {
		h := &Host{cfg: Config{Self: "b2", Dir: dir}, clock: aheadClock{clock.Real(), c.after}}
		w := &certificate{host: h}
		done, cancel := context.WithCancel(t.Context())
		cancel() // one look, and no waiting for the next
		if err := w.run(done); err != nil {
			t.Fatal(err)
		}
		if got := w.problems(); len(got) != c.said {
			t.Errorf("after %v it says %v", c.after, got)
		}
	}
}
