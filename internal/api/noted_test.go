package api

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"holdfast/internal/agent"
	"holdfast/internal/cluster"
	"holdfast/internal/database"
	"holdfast/internal/event"
	"holdfast/internal/plan"
)

// What operators ask for is told in the history with who asked and why, and what was refused at once is not.
func TestWhatIsAskedForIsNoted(t *testing.T) {
	var told []event.Event
	s := serveWith(t, "b1", func(src *Source) {
		all := allWell()
		for _, host := range []string{"b1", "b2", "b3"} {
			all.local(host, func(l *database.Local) { l.Life = "1" })
		}
		src.Snapshot, src.Note = all.snapshot, func(e event.Event) { told = append(told, e) }
	})
	ask := func(kind string, args map[string]string) {
		t.Helper()
		q, err := s.client.Ask(t.Context(), agent.Asked{Room: "database", Subject: "records", Kind: kind, Args: args})
		if err != nil {
			t.Fatal(err)
		}
		if last := told[len(told)-1]; last.Request != q.ID || last.Room != "database" || last.Subject != "records" || last.Settled != 0 {
			t.Errorf("%s %s: %+v", kind, q.ID, last)
		}
	}
	for _, bad := range []string{`{"room":"database","subject":"orders","kind":"switchover"}`, `{"room":"database","subject":"records","kind":"pause","args":{"for":"-1s"}}`} {
		if status, body := s.do(t, s.operator, "POST", "/v1/requests", bad); status != 422 || len(told) > 0 {
			t.Errorf("status %d %s, and told was %v", status, body, told)
		}
	}
	due := time.Now().Add(time.Hour).UTC().Truncate(time.Second)
	ask("switchover", map[string]string{agent.ArgTo: "b2", agent.ArgAt: due.Format(time.RFC3339Nano)})
	ask("pause", map[string]string{agent.ArgFor: "30m", agent.ArgReason: "a new disk in b2"})
	ask("resume", nil)
	ask("restart", map[string]string{agent.ArgPending: "true"})
	ask("failover", map[string]string{agent.ArgTo: "b3", agent.ArgVia: "b1", agent.ArgFormer: "i1", agent.ArgFloor: "0/3000060"})
	if err := s.client.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second takes back what is not there
		if _, err := s.client.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	var lines []string
	for _, e := range told {
		what, _, _ := strings.Cut(e.What, " until ") // the clock's
		lines = append(lines, e.Room+" "+e.Subject+": "+what+" | "+strings.Join(e.Because, " | "))
	}
	at := func(i int) string {
		moment, _, _ := strings.Cut(told[i].What[strings.Index(told[i].What, " at ")+4:], ": asked for")
		return moment
	}
	want := []string{
		"database records: switchover to b2 at " + due.Format("2006-01-02 15:04:05 MST") + ": asked for | ann asked for it",
		"database records: pause | ann asked for it: a new disk in b2",
		"database records: resume: asked for | ann asked for it",
		"database records: restart, pending true: asked for | ann asked for it",
		"database records: failover to b3 at " + at(4) + ": asked for | ann asked for it | it was shown by b1 that the log of the new primary goes up to 0/3000060 at least, and what lies behind it may be lost",
		"cluster clinic: the whole application is being stopped | ann asked for it",
		"cluster clinic: the application is not being stopped any more | ann asked for it",
	}
	if diff := cmp.Diff(want, lines); diff != "" {
		t.Error(diff)
	}
}

// losesAnswers is a store that takes writes and cannot say so.
type losesAnswers struct{ cluster.Store }

func (l losesAnswers) Put(ctx context.Context, key string, value []byte, rev int64) (int64, error) {
	_, err := l.Store.Put(ctx, key, value, rev)
	return 0, errors.Join(cluster.ErrUnavailable, err)
}

func TestARequestOfUnknownOutcomeIsNotedAsSuch(t *testing.T) {
	var told []event.Event
	s := serveWith(t, "b1", func(src *Source) {
		src.Store = losesAnswers{src.Store}
		src.Note = func(e event.Event) { told = append(told, e) }
	})
	if status, _ := s.do(t, s.operator, "POST", "/v1/requests", switchover); status != 503 {
		t.Fatalf("status %d", status)
	}
	if len(told) != 1 || !strings.Contains(told[0].What, "switchover to b2: asked for, and whether it was taken is not known: ") {
		t.Errorf("told: %+v", told)
	}
}

func TestAnAppliedPlanIsNoted(t *testing.T) {
	start, mistakes := plan.Parse("/plan/holdfast.yaml", []byte(applicable))
	if start == nil {
		t.Fatal(mistakes)
	}
	var told []event.Event
	s := serveWith(t, "b1", func(src *Source) {
		src.Plan, src.Note = start, func(e event.Event) { told = append(told, e) }
	})
	more := strings.Replace(applicable, "acknowledged_by: 1", "acknowledged_by: 2", 1)
	shown, err := s.client.Apply(t.Context(), Apply{Text: more, DryRun: true})
	if err != nil || len(told) > 0 || len(shown.Changes) == 0 {
		t.Fatalf("%+v, %v; a dry run told %v", shown, err, told)
	}
	if _, err := s.client.Apply(t.Context(), Apply{Text: more, Revision: shown.Revision}); err != nil {
		t.Fatal(err)
	}
	want := []event.Event{{Room: "plan", Subject: "clinic", What: "applied", Because: []string{"ann asked for it", shown.Changes[0].String()}}}
	if diff := cmp.Diff(want, told); diff != "" {
		t.Error(diff)
	}
	if _, err := s.client.Apply(t.Context(), Apply{Text: applicable, Revision: shown.Revision}); err == nil || len(told) != 1 {
		t.Errorf("one that lost against another: %v, told %v", err, told)
	}
}
