package api

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"holdfast/internal/agent"
	"holdfast/internal/problem"
)

// frozen puts an agent before the others that takes every question and never answers, and takes the client's own limit away:
// whoever waits for that agent waits until the test is over.
func (s *served) frozen(t *testing.T) (asked *atomic.Int32) {
	t.Helper()
	asked = &atomic.Int32{}
	over := make(chan struct{})
	srv := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		select {
		case <-over:
		case <-r.Context().Done():
		}
	}))
	t.Cleanup(srv.Close)
	t.Cleanup(func() { close(over) })
	s.client.urls = append([]string{srv.URL}, s.client.urls...)
	s.client.http.Timeout = 0
	return asked
}

func TestAFrozenHostIsNotWaitedFor(t *testing.T) {
	for name, ask := range map[string]func(ctx context.Context, c *Client) error{
		"status":     func(ctx context.Context, c *Client) error { _, err := c.Status(ctx); return err },
		"candidates": func(ctx context.Context, c *Client) error { _, err := c.Candidates(ctx, "records"); return err },
		"explain":    func(ctx context.Context, c *Client) error { _, err := c.Explain(ctx, "records"); return err },
		"requests":   func(ctx context.Context, c *Client) error { _, err := c.Open(ctx); return err },
	} {
		t.Run(name, func(t *testing.T) {
			s := serve(t, "b1")
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

func TestAWriteBeginsWithWhoAnsweredLast(t *testing.T) {
	s := serve(t, "b1")
	asked := s.frozen(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if _, err := s.client.Status(ctx); err != nil {
		t.Fatal(err)
	}
	before := asked.Load()
	if _, err := s.client.Ask(ctx, agent.Asked{Room: "database", Subject: "records", Kind: "switchover"}); err != nil {
		t.Errorf("the request was not taken: %v", err)
	}
	if now := asked.Load(); now != before {
		t.Errorf("a frozen host was asked to write (%d, then %d questions)", before, now)
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
