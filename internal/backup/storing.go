package backup

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"holdfast/internal/pgdata"
	"holdfast/internal/vault"
)

// Whoever reads files hands what has to be stored to others, who compress it and seal it. So one stretch in which all pages have changed
// is the work of all cores; and the server is told of the end of the backup, and ends it, while the last pieces are being stored.

// waitingMax is how many pieces wait to be stored, each of [readPiece] bytes at most.
const waitingMax = 32

// piece is what was read at one place of a file.
type piece struct {
	of      *reading
	part    *stretch
	chunk   *vault.Chunk // where it is noted as what it was stored
	content []byte
	at      int64
	was     *vault.Chunk // what the earlier backup has there
}

// storing is the storing of what is read, by workers of its own.
type storing struct {
	*copier
	fail    context.CancelCauseFunc // ends reading and storing; the first cause is what is told
	waiting chan piece
	workers sync.WaitGroup

	unlisted sync.Once // it was told that the earlier backup cannot say what it has of a file

	mu    sync.Mutex // guards what follows
	found copied     // in all files that are part of the backup
	rooms [][]byte   // that may be used again: the last one first, for what was in it is in the processor's own memory still
}

// store begins to store what is handed on, with so many workers, until [storing.wait] is called. Whoever reads does so under the context
// that is given back.
func (c *copier) store(ctx context.Context, workers int) (*storing, context.Context) {
	ctx, fail := context.WithCancelCause(ctx)
	s := &storing{copier: c, fail: fail, waiting: make(chan piece, waitingMax)}
	for range workers {
		s.workers.Go(func() {
			for p := range s.waiting {
				s.storePiece(ctx, p)
			}
		})
	}
	return s, ctx
}

// wait returns when all that was handed on is stored, and says what was found in it. Nothing may be handed on any more. ctx is that of
// the storing; its end, for whatever cause, is the error.
func (s *storing) wait(ctx context.Context) (copied, error) {
	close(s.waiting)
	s.workers.Wait()
	err := context.Cause(ctx)
	s.fail(nil)
	return s.found, err
}

// hand hands a piece on, as soon as not too many are waiting.
func (s *storing) hand(ctx context.Context, p piece) error {
	p.of.left.Add(1)
	select {
	case s.waiting <- p:
		return nil
	case <-ctx.Done():
		return ctx.Err() // and the file is never whole
	}
}

// storePiece stores a piece, unless all has come to nothing.
func (s *storing) storePiece(ctx context.Context, p piece) {
	err := ctx.Err()
	if err == nil {
		err = s.storeChunk(p)
	}
	if err != nil {
		p.of.failed.Store(true)
		err = fmt.Errorf("back up %s: %w", p.of.f.path, err)
	}
	s.giveBack(p.content)
	if err = errors.Join(err, p.of.ended()); err != nil {
		s.fail(err)
	}
}

func (s *storing) storeChunk(p piece) error {
	now, err := s.to.StoreChunk(p.content)
	if err != nil {
		return err
	}
	*p.chunk = now
	s.bytes(len(p.content))
	if s.compare && p.was != nil && !now.Equal(*p.was) && olderThan(p.content, s.from.backup.Start) && logged(p.content) {
		first := p.at/pgdata.PageSize + int64(p.of.f.segment)*pgdata.SegmentPages
		p.part.note(copied{differs: []string{fmt.Sprintf("%s blocks %d to %d", p.of.f.path, first, first+int64(len(p.content))/pgdata.PageSize-1)}})
	}
	return s.keep()
}

// note adds what became of a file.
func (s *storing) note(done copied) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.found.add(done)
}

// room gives room for one piece.
func (s *storing) room() []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := len(s.rooms)
	if n == 0 {
		return make([]byte, readPiece)
	}
	b := s.rooms[n-1]
	s.rooms = s.rooms[:n-1]
	return b
}

func (s *storing) giveBack(room []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.rooms = append(s.rooms, room[:readPiece])
}
