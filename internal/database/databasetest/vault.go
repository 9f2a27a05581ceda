package databasetest

import (
	"context"
	"errors"
	"slices"
	"time"

	"holdfast/internal/database"
)

// Vault is what was brought away of a database: base backups, and the log of each timeline as it was received. What a
// primary wrote and nobody else ever held is among it.
type Vault struct {
	Away bool // nobody reaches it

	bases []base
	log   map[logOf][]Entry
}

// logOf names the log of one timeline of one system.
type logOf struct {
	system   uint64
	timeline uint32
}

// base is a base backup: what a server's disk held of the log then.
type base struct {
	system  uint64
	wal     []Entry
	history []database.Fork
	control int
}

// Errors of a vault as a source.
var (
	errAway   = errors.New("the vault does not answer")
	errNoBase = errors.New("the vault holds no base backup of this system on the committed chain")
	errGap    = errors.New("the vault's log has a gap, or ends before what the primary keeps")
)

// Receive brings away what a primary has flushed. What it has recycled by then is a gap for ever.
func (v *Vault) Receive(s *Server) {
	if _, primary := s.RunsAsPrimary(); v.Away || !primary {
		return
	}
	if v.log == nil {
		v.log = map[logOf][]Entry{}
	}
	for i := s.d.flushed - 1; i >= 0; i-- { // back to what is there
		e := s.d.wal[i]
		held := v.log[logOf{s.d.systemID, e.Timeline}]
		if n := len(held); n > 0 && held[n-1].Start >= e.Start || e.Start < s.d.oldest {
			v.add(s, i+1)
			return
		}
	}
	v.add(s, 0)
}

func (v *Vault) add(s *Server, from int) {
	for _, e := range s.d.wal[from:s.d.flushed] {
		key := logOf{s.d.systemID, e.Timeline}
		v.log[key] = append(v.log[key], e)
	}
}

// Base makes a base backup of a server.
func (v *Vault) Base(s *Server) bool {
	if v.Away || s.p == nil || !s.p.ready || s.d.state != database.DataPresent || s.d.flushed == 0 {
		return false
	}
	v.bases = append(v.bases, base{s.d.systemID, slices.Clip(s.d.wal[:s.d.flushed]), slices.Clone(s.d.history), s.d.control})
	return true
}

// Bases is how many there are.
func (v *Vault) Bases() int { return len(v.bases) }

// find is the newest base on a chain, by the way of its own history.
func (v *Vault) find(system uint64, chain []database.Fork) (base, bool) {
	for _, b := range slices.Backward(v.bases) {
		if b.system == system && onChain(chain, b.history, b.wal[len(b.wal)-1]) {
			return b, true
		}
	}
	return base{}, false
}

// onChain reports whether a history that ends with a record is a prefix of the chain.
func onChain(chain, history []database.Fork, last Entry) bool {
	if len(history) > len(chain) {
		return false
	}
	for i, f := range history {
		if c := chain[i]; c.Timeline != f.Timeline || c.Parent != f.Parent || c.LSN != f.LSN {
			return false
		}
	}
	return len(history) == len(chain) || last.End <= chain[len(history)].LSN
}

// lead is a base's log, and what of the vault's leads on from it along the chain without a hole, to upTo at most.
func (v *Vault) lead(b base, chain []database.Fork, upTo database.LSN) []Entry {
	wal := slices.Clip(b.wal)
	at := wal[len(wal)-1]
	for step := len(b.history); step <= len(chain); step++ {
		timeline, end := uint32(1), upTo
		if step > 0 {
			timeline = chain[step-1].Timeline
		}
		if step < len(chain) {
			end = min(end, chain[step].LSN)
		}
		for _, e := range v.log[logOf{b.system, timeline}] {
			if e.Start != at.End || e.End > end {
				continue
			}
			wal, at = append(wal, e), e
		}
		if step < len(chain) && at.End != chain[step].LSN {
			break
		}
	}
	return wal
}

// Refill implements [database.Server].
func (s *Server) Refill(ctx context.Context, primary database.Endpoint, timeline uint32, chain []database.Fork, epoch int64) error {
	s.failedFrom = database.FromVault
	return s.remember(database.KindClone, s.refill(ctx, primary.Host, chain, epoch))
}

func (s *Server) refill(ctx context.Context, primary string, chain []database.Fork, epoch int64) error {
	switch {
	case s.d.state == database.DataForeign:
		return errNoData
	case s.d.state == database.DataPresent && s.d.promise.Epoch > epoch:
		return database.ErrPromised
	}
	peer, v := s.w.Server(primary), s.w.Vault()
	if _, ok := s.reaches(primary); !ok || peer.p == nil || peer.p.role != database.Primary {
		return errStream
	}
	if v.Away {
		return errAway
	}
	b, ok := v.find(peer.d.systemID, chain)
	if !ok {
		return errNoBase
	}
	if end := endOf(v.lead(b, chain, peer.flushedLSN())); end < peer.d.oldest {
		return errGap
	}
	if err := s.Kill(ctx, "its data are made anew"); err != nil {
		return err
	}
	before, promised := s.d.incarnation, s.d.promise
	if err := s.newIncarnation(ctx); err != nil {
		return err
	}
	if _, ok := s.reaches(primary); ok && peer.p != nil {
		peer.reserve(s.d.incarnation)
	}
	if s.d.state == database.DataPresent { // from here on nobody can read what was there
		s.discards(peer)
	}
	s.d.state, s.position = database.DataPartial, database.Position{}
	for left := s.between(500*time.Millisecond, 6*time.Second); left > 0; left -= 100 * time.Millisecond {
		if err := s.w.Wait(ctx, s.host, 100*time.Millisecond); err != nil {
			return err
		}
		if v.Away {
			return errAway
		}
	}
	if _, ok := s.reaches(primary); !ok || peer.p == nil || peer.p.role != database.Primary {
		return errStream // how far its log is sure is not known
	}
	return s.refilled(ctx, b, v.lead(b, chain, peer.flushedLSN()), chain, epoch, before, promised)
}

// refilled makes what came from the vault the data of this server.
func (s *Server) refilled(ctx context.Context, b base, wal []Entry, chain []database.Fork, epoch int64, before string, promised database.Promise) error {
	next := disk{
		state: database.DataPresent, systemID: b.system, incarnation: s.d.incarnation, wal: wal, flushed: len(wal),
		files: map[uint32]fileOf{}, names: s.atStart(), control: b.control, oldest: b.wal[len(b.wal)-1].End,
	}
	for _, f := range chain {
		f.Epoch = 0
		next.history = append(next.history, f)
		next.files[f.Timeline] = realFile
	}
	if s.bugs.OldIncarnation && before != "" {
		next.incarnation = before
	}
	if err := s.fsync(ctx); err != nil {
		return err
	}
	s.d = next
	s.trimHistory()
	promise := database.Promise{Epoch: epoch, Incarnation: s.d.incarnation}
	if s.bugs.OldIncarnation && promised.Epoch == epoch {
		promise.Generation = promised.Generation
	}
	s.swear(promise)
	s.versions++
	return nil
}
