package postgres

import (
	"context"
	"errors"
	"regexp"

	"holdfast/internal/database"
)

var settingName = regexp.MustCompile(`^[a-z_][a-z0-9_.]*$`)
var reserved = []string{}

type observer struct{}

func (o *observer) close() error { return nil }

func (s *Server) Observe(ctx context.Context) database.Local  { return database.Local{} }
func (s *Server) Init(ctx context.Context, epoch int64) error { return errors.ErrUnsupported }
func (s *Server) Clone(ctx context.Context, from database.Endpoint, epoch int64) error {
	return errors.ErrUnsupported
}
func (s *Server) Rewind(ctx context.Context, from database.Endpoint, epoch int64) error {
	return errors.ErrUnsupported
}
func (s *Server) Start(ctx context.Context, hot bool) error  { return errors.ErrUnsupported }
func (s *Server) StopFast(ctx context.Context) error         { return errors.ErrUnsupported }
func (s *Server) Kill(ctx context.Context, why string) error { return errors.ErrUnsupported }
func (s *Server) Recruit(ctx context.Context, epoch, generation int64) (database.Position, error) {
	return database.Position{}, errors.ErrUnsupported
}
func (s *Server) Remember(ctx context.Context, epoch, generation int64) error {
	return errors.ErrUnsupported
}
func (s *Server) Follow(ctx context.Context, from database.Endpoint, epoch int64) error {
	return errors.ErrUnsupported
}
func (s *Server) Promote(ctx context.Context, epoch int64, timeline uint32, chain []database.Fork) error {
	return errors.ErrUnsupported
}
func (s *Server) SetNames(ctx context.Context, n database.Names) error { return errors.ErrUnsupported }
func (s *Server) Barrier(ctx context.Context, epoch int64) error       { return errors.ErrUnsupported }
func (s *Server) Admit(ctx context.Context, clients bool) error        { return errors.ErrUnsupported }
func (s *Server) EnsureRoles(ctx context.Context) error                { return errors.ErrUnsupported }
func (s *Server) Checkpoint(ctx context.Context) error                 { return errors.ErrUnsupported }
func (s *Server) Extend(ctx context.Context, epoch int64, remainingMillis int64) error {
	return errors.ErrUnsupported
}
