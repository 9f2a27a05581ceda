package host

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"holdfast/internal/auth"
	"holdfast/internal/problem"
)

const (
	// certificateEvery is how often a host looks until when its certificate is valid; a renewal is seen after that time.
	certificateEvery = 30 * time.Second
	// certificateNote and certificateUrgent are how long before the end it is said, and said louder. The next `holdfast up`
	// renews what ends within the first.
	certificateNote   = 30 * 24 * time.Hour
	certificateUrgent = 7 * 24 * time.Hour
	// authorityNote and authorityUrgent are the same of the authority, whose end is that of everything at once, and takes planning.
	authorityNote   = 365 * 24 * time.Hour
	authorityUrgent = 90 * 24 * time.Hour
)

// certificate watches the end of this host's certificate: those that were made together end together, and then no host
// believes another. It watches that of the authority too.
type certificate struct {
	host      *Host
	now       atomic.Pointer[problem.Problem]
	authority atomic.Pointer[problem.Problem]
}

func (c *certificate) run(ctx context.Context) error {
	dir := certDir(c.host.cfg.Dir)
	for {
		// One that cannot be read now is told of by who needs it.
		if until, err := auth.Expires(dir); err == nil {
			c.now.Store(certificateProblem(c.host.cfg.Self, dir, until.Sub(c.host.clock.Now()), until))
		}
		if until, err := auth.AuthorityExpires(dir); err == nil {
			c.authority.Store(authorityProblem(c.host.cfg.Self, until.Sub(c.host.clock.Now()), until))
		}
		if !c.host.sleep(ctx, certificateEvery) {
			return nil
		}
	}
}

// certificateProblem judges a certificate of a host that is valid until then, which is left away; nil = for long enough.
func certificateProblem(host, dir string, left time.Duration, until time.Time) *problem.Problem {
	if left > certificateNote {
		return nil
	}
	day := until.UTC().Format("2006-01-02 15:04 MST")
	p := problem.Problem{
		Code: "host.certificate-ends", Subject: host, Severity: problem.Note, Title: "its certificate ends on " + day,
		Meaning: "From then on no other host believes it: it takes part in nothing. Certificates that were made together end together.",
		Remedy: fmt.Sprintf("where the authority is: holdfast cluster certify %s --plan PLAN --yes, and copy its files to %s; it is used at once. "+
			"Where holdfast up runs the plan, its next start renews it", host, dir),
	}
	switch {
	case left <= 0:
		p.Severity, p.Title = problem.Critical, "its certificate has ended on "+day
		p.Meaning = "No other host believes it: it takes part in nothing."
	case left <= certificateUrgent:
		p.Severity = problem.Degraded
	}
	return &p
}

// authorityProblem judges the authority that a host knows, as [certificateProblem] does its certificate.
func authorityProblem(host string, left time.Duration, until time.Time) *problem.Problem {
	if left > authorityNote {
		return nil
	}
	day := until.UTC().Format("2006-01-02 15:04 MST")
	p := problem.Problem{
		Code: "host.authority-ends", Subject: host, Severity: problem.Note, Title: "the authority of all certificates ends on " + day + ", as this host knows it",
		Meaning: "From then on no host and no operator is believed by any other, whatever their own certificates say: nothing can be agreed on any more.",
		Remedy:  "no command of this version renews the authority: take a version that does in time, and plan for it now",
	}
	switch {
	case left <= 0:
		p.Severity, p.Title = problem.Critical, "the authority of all certificates has ended on "+day+", as this host knows it"
		p.Meaning = "No host and no operator is believed by any other, whatever their own certificates say."
	case left <= authorityUrgent:
		p.Severity = problem.Degraded
	}
	return &p
}

func (c *certificate) problems() (out []problem.Problem) {
	for _, p := range []*problem.Problem{c.now.Load(), c.authority.Load()} {
		if p != nil {
			out = append(out, *p)
		}
	}
	return out
}
