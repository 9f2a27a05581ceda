package api

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"holdfast/internal/agent"
	"holdfast/internal/database"
	"holdfast/internal/problem"
)

// frozen puts an agent before the others that takes every question and never answers, and takes the client's own limit away:
// whoever waits for that agent waits until the test is over.
func (s *served) frozen(t *testing.T) (asked *atomic.Int32) {
	t.Helper()
	asked, _ = s.frozenBut(t, "")
	return asked
}

// frozenBut is [served.frozen] of an agent that answers looks at one path, with nothing that is worth reading.
func (s *served) frozenBut(t *testing.T, path string) (asked, written *atomic.Int32) {
	t.Helper()
	asked, written = &atomic.Int32{}, &atomic.Int32{}
	over := make(chan struct{})
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		switch {
		case r.Method != http.MethodGet:
			written.Add(1)
		case r.URL.Path == path:
			_, _ = w.Write([]byte("{}")) // a client that left needs none
			return
		}
		select {
		case <-over:
		case <-r.Context().Done():
		}
	}))
	t.Cleanup(srv.Close)
	t.Cleanup(func() { close(over) })
	s.client.urls = append([]string{srv.URL}, s.client.urls...)
	s.client.http.Timeout = 0
	return asked, written
}

func TestAFrozenHostIsNotWaitedFor(t *testing.T) {
	for name, ask := range map[string]func(ctx context.Context, c *Client) error{
		"status":     func(ctx context.Context, c *Client) error { _, err := c.Status(ctx); return err },
		"candidates": func(ctx context.Context, c *Client) error { _, err := c.Candidates(ctx, "records"); return err },
		"explain":    func(ctx context.Context, c *Client) error { _, err := c.Explain(ctx, "records"); return err },
		"requests":   func(ctx context.Context, c *Client) error { _, err := c.Open(ctx); return err },
		"failover":   func(ctx context.Context, c *Client) error { _, err := c.Failover(ctx, "records", ""); return err },
		"salvages": silence(func(ctx context.Context, c *Client) ([]string, error) {
			_, silent, err := c.Salvages(ctx)
			return silent, err
		}),
		"history": silence(func(ctx context.Context, c *Client) ([]string, error) {
			_, silent, err := c.Events(ctx)
			return silent, err
		}),
		"a report": func(ctx context.Context, c *Client) error {
			_, err := c.Salvage(ctx, "records", "epoch-7-0a1b")
			return err
		},
		"its rows": func(ctx context.Context, c *Client) error {
			return c.Bundle(ctx, "records", "epoch-7-0a1b", io.Discard)
		},
		"a write": func(ctx context.Context, c *Client) error { return c.Stop(ctx) },
	} {
		t.Run(name, func(t *testing.T) {
			s := serveWith(t, "b1", func(src *Source) { src.Salvage = putAside{} })
			asked := s.frozen(t)
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			if err := ask(ctx, s.client); err != nil {
				t.Fatal(err)
			}
			if asked.Load() == 0 {
				t.Error("the frozen host was not asked at all")
			}
		})
	}
}

// silence fails a question that does not tell of the one host that said nothing.
func silence(ask func(ctx context.Context, c *Client) ([]string, error)) func(ctx context.Context, c *Client) error {
	return func(ctx context.Context, c *Client) error {
		silent, err := ask(ctx, c)
		if err == nil && (len(silent) != 1 || silent[0] != c.urls[0]) {
			err = fmt.Errorf("it tells that %v are silent", silent)
		}
		return err
	}
}

// putAside is one report with rows.
type putAside struct{}

func (putAside) List() ([]Salvaged, error) {
	return []Salvaged{{Database: "records", ID: "epoch-7-0a1b"}}, nil
}

func (putAside) Report(_, id string) (database.Salvage, error) {
	if id != "epoch-7-0a1b" {
		return database.Salvage{}, fs.ErrNotExist
	}
	return database.Salvage{ID: id, Commits: make([]database.LostCommit, commitsAtOnce+1)}, nil
}

func (putAside) Rows(context.Context, string, string) (*os.File, error) { return os.Open(os.DevNull) }

// A report is whole although it comes in pages, and a name that nobody knows is told as such.
func TestAReportIsFetchedFromWhoKeepsIt(t *testing.T) {
	s := serveWith(t, "b1", func(src *Source) { src.Salvage = putAside{} })
	r, err := s.client.Salvage(t.Context(), "records", "epoch-7-0a1b")
	if err != nil || len(r.Commits) != commitsAtOnce+1 {
		t.Errorf("%d commits, %v", len(r.Commits), err)
	}
	var p *problem.Problem
	if _, err := s.client.Salvage(t.Context(), "records", "epoch-8-0a1b"); !errors.As(err, &p) || p.Code != "api.unknown" {
		t.Errorf("a report that is nowhere: %v", err)
	}
	if err := s.client.Bundle(t.Context(), "records", "epoch-8-0a1b", io.Discard); !errors.As(err, &p) || p.Code != "api.unknown" {
		t.Errorf("the rows of none: %v", err)
	}
}

// An agent may answer looks and not reach the agreed state, as on the smaller side of a cut: who answers last is not who is written to.
func TestAWriteBeginsWithWhoReachesTheAgreedState(t *testing.T) {
	for name, path := range map[string]string{"a frozen host": "", "a host that is cut off": "/v1/status"} {
		t.Run(name, func(t *testing.T) {
			s := serve(t, "b1")
			asked, written := s.frozenBut(t, path)
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			if _, err := s.client.Status(ctx); err != nil {
				t.Fatal(err)
			}
			if _, err := s.client.Ask(ctx, agent.Asked{Room: "database", Subject: "records", Kind: "switchover"}); err != nil {
				t.Errorf("the request was not taken: %v", err)
			}
			if asked.Load() == 0 || written.Load() > 0 {
				t.Errorf("it got %d questions, %d of them to write", asked.Load(), written.Load())
			}
		})
	}
}

func TestThePrimarysAgentThatIsAwayIsNamed(t *testing.T) {
	s := serve(t, "b2")
	var p *problem.Problem
	if _, err := s.client.Candidates(t.Context(), "records"); !errors.As(err, &p) || p.Code != "api.not-the-primary" {
		t.Errorf("while all answer it says %v", err)
	}
	gone := httptest.NewServer(http.NotFoundHandler())
	gone.Close()
	s.client.urls = append([]string{gone.URL}, s.client.urls...)
	_, err := s.client.Candidates(t.Context(), "records")
	if !errors.As(err, &p) || p.Code != "api.primary-silent" || !strings.Contains(p.Title, "host b1 ") || !strings.Contains(p.Remedy, "database explain records") {
		t.Errorf("without the primary's agent it says %v", err)
	}
}
