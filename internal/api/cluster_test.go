package api

import (
	"context"
	"errors"
	"testing"

	"holdfast/internal/problem"
)

// seats refuses to replace any member, and counts who tried.
type seats struct {
	Cluster
	looked, tried int
}

func (s *seats) refusal() error {
	return &problem.Problem{Code: "cluster.seat-lives", Subject: "b2", Severity: problem.Note, Title: "it serves", Meaning: "m", Remedy: "r"}
}

func (s *seats) MayReplace(context.Context, string) error { s.looked++; return s.refusal() }

func (s *seats) Replace(context.Context, string) (JoinOrder, error) {
	s.tried++
	return nil, s.refusal()
}

func TestALookAtAReplacementRefusesAndChangesNothing(t *testing.T) {
	c := &seats{}
	s := serveWith(t, "b1", func(src *Source) { src.Cluster = c })
	var p *problem.Problem
	if err := s.client.MayReplace(t.Context(), "b2", ""); !errors.As(err, &p) || p.Code != "cluster.seat-lives" {
		t.Errorf("the look is told %v", err)
	}
	if c.looked != 1 || c.tried != 0 {
		t.Errorf("looked %d times, tried %d times", c.looked, c.tried)
	}
	if _, err := s.client.ReplaceMember(t.Context(), "b2", ""); !errors.As(err, &p) || p.Code != "cluster.seat-lives" || c.tried != 1 {
		t.Errorf("the replacement is told %v, tried %d times", err, c.tried)
	}
	if err := s.client.MayReplace(t.Context(), "b9", ""); !errors.As(err, &p) || p.Code != "api.unknown" || c.looked != 1 {
		t.Errorf("an unknown host: %v", err)
	}
}
