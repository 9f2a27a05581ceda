package postgres

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"holdfast/internal/database"
	"holdfast/internal/durable"
)

// incarnationFile lies in the data directory: whatever replaces the directory replaces it too.
const incarnationFile = "holdfast.incarnation"

func newIncarnation() string {
	var b [6]byte
	_, _ = rand.Read(b[:]) // never fails: crypto/rand ends the program instead
	return hex.EncodeToString(b[:])
}

// readIncarnation gives "" when there is none.
func readIncarnation(data string) (string, error) {
	b, err := os.ReadFile(filepath.Join(data, incarnationFile))
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("read the incarnation: %w", err)
	}
	return strings.TrimSpace(string(b)), nil
}

func (s *Server) writeIncarnation(data, incarnation string) error {
	return s.give(filepath.Join(data, incarnationFile), []byte(incarnation+"\n"))
}

// readPromise gives the zero promise and false when there is none or it cannot be understood. Trouble of the
// disk is an error: it must not look like a promise that was never made.
func (s *Server) readPromise() (database.Promise, bool, error) {
	b, err := os.ReadFile(s.at.promise)
	if errors.Is(err, fs.ErrNotExist) {
		return database.Promise{}, false, nil
	}
	if err != nil {
		return database.Promise{}, false, fmt.Errorf("read the promise: %w", err)
	}
	var p database.Promise
	if err := json.Unmarshal(b, &p); err != nil || p.Incarnation == "" {
		return database.Promise{}, false, nil
	}
	return p, true, nil
}

// PromiseIn reads the promise of the server whose files lie in dir (Config.Dir), for who has no server to ask; false
// when there is none that can be understood.
func PromiseIn(dir string) (database.Promise, bool, error) {
	return (&Server{at: layoutOf(dir)}).readPromise()
}

func (s *Server) writePromise(p database.Promise) error {
	b, err := json.MarshalIndent(p, "", "  ")
	if err != nil {
		return fmt.Errorf("write the promise: %w", err)
	}
	return durable.WriteFile(s.at.promise, append(b, '\n'), 0o644)
}

// refuse says why an order of (epoch, generation) contradicts a promise; nil = it does not.
func refuse(p database.Promise, epoch, generation int64) error {
	if epoch < p.Epoch {
		return fmt.Errorf("epoch %d is below the promised %d: %w", epoch, p.Epoch, database.ErrPromised)
	}
	if generation < p.Generation { // it rises over all epochs: a lower one is an old backup of the agreed state
		return fmt.Errorf("generation %d of epoch %d is below the persisted %d: %w", generation, epoch, p.Generation, database.ErrPromised)
	}
	return nil
}

// swear persists a promise of at least (epoch, generation) for the data that are here, and gives it. When the
// promise is missing, of other data, or above what the log holds, these data may have forgotten what they
// acknowledged: they become a new incarnation first (DATABASE.md, A4).
func (s *Server) swear(epoch, generation int64) (database.Promise, error) {
	incarnation, err := readIncarnation(s.at.data)
	if err != nil {
		return database.Promise{}, err
	}
	p, ok, err := s.readPromise()
	if err != nil {
		return database.Promise{}, err
	}
	if err := refuse(p, epoch, generation); err != nil {
		return p, err
	}
	if ok {
		if ok, err = s.promiseHolds(p, incarnation); err != nil {
			return p, err
		}
	}
	next := database.Promise{Epoch: epoch, Generation: generation, Incarnation: p.Incarnation, Told: p.Told}
	if !ok {
		next.Incarnation, next.Told = newIncarnation(), 0
		s.log.Warn("new incarnation: the promise does not match the data", "promised", p.Incarnation, "data", incarnation, "incarnation", next.Incarnation)
		if err := s.writeIncarnation(s.at.data, next.Incarnation); err != nil {
			return p, err
		}
	}
	if next == p {
		return p, nil
	}
	return next, s.writePromise(next)
}

// forswear ends a promise whose data have less log than was told of them: they become a new incarnation when they are asked
// next, which counts for nothing that the former could acknowledge. A log that has grown longer again, on another
// timeline, must not make up for it.
func (s *Server) forswear(p database.Promise) error {
	s.mu.Lock()
	s.now.held, s.now.heldFor = 0, ""
	s.mu.Unlock()
	p.Incarnation, p.Told = newIncarnation(), 0 // which no data have
	return s.writePromise(p)
}

// raise persists a higher epoch in a promise that is sound.
func (s *Server) raise(p database.Promise, epoch int64) error {
	if p.Epoch >= epoch {
		return nil
	}
	p.Epoch = epoch
	return s.writePromise(p)
}

// promiseHolds reports whether a promise is of these data and not above what their log holds.
func (s *Server) promiseHolds(p database.Promise, incarnation string) (bool, error) {
	if p.Incarnation == "" || p.Incarnation != incarnation {
		return false, nil
	}
	if p.Told == 0 {
		return true, nil
	}
	s.mu.Lock()
	held := s.now.held
	if s.now.heldFor != incarnation {
		held = 0
	}
	s.mu.Unlock()
	if held >= p.Told {
		return true, nil
	}
	end, err := s.scan(0)
	if err != nil {
		return false, err
	}
	s.holds(incarnation, database.LSN(end.LSN))
	return database.LSN(end.LSN) >= p.Told, nil
}

// holds remembers how far the log is known to reach.
func (s *Server) holds(incarnation string, upTo database.LSN) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.now.heldFor != incarnation {
		s.now.held, s.now.heldFor = 0, incarnation
	}
	s.now.held = max(s.now.held, upTo)
}

// Remember persists a newer generation beside the promise of the same epoch.
func (s *Server) Remember(_ context.Context, epoch, generation int64) error {
	s.op.Lock()
	defer s.op.Unlock()
	p, ok, err := s.readPromise()
	if err != nil {
		return err
	}
	if !ok || p.Epoch != epoch {
		return fmt.Errorf("remember generation %d: epoch %d is not the promised one, %d: %w", generation, epoch, p.Epoch, database.ErrStale)
	}
	if generation <= p.Generation {
		return nil
	}
	p.Generation = generation
	return s.writePromise(p)
}

// partial is the marker beside data that are being made. What it names is ours and may be replaced.
type partial struct {
	Job         database.Kind `json:"job"`
	Incarnation string        `json:"incarnation"`
	Replaces    string        `json:"replaces,omitempty"` // the incarnation that was whole before, however many tries ago
}

// replaces is the incarnation that a job takes the place of: the last that was whole.
func (s *Server) replaces() (string, error) {
	m, err := s.readPartial()
	switch {
	case err != nil:
		return "", err
	case m != nil && m.Replaces != "":
		return m.Replaces, nil
	}
	return readIncarnation(s.at.data)
}

func (s *Server) markPartial(job database.Kind, incarnation, replaces string) error {
	b, err := json.Marshal(partial{job, incarnation, replaces})
	if err != nil {
		return fmt.Errorf("mark the data as partial: %w", err)
	}
	return durable.WriteFile(s.at.partial, append(b, '\n'), 0o644)
}

// readPartial gives nil when the data are whole. A marker that cannot be read still marks.
func (s *Server) readPartial() (*partial, error) {
	b, err := os.ReadFile(s.at.partial)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the mark of partial data: %w", err)
	}
	var m partial
	if err := json.Unmarshal(b, &m); err != nil {
		return &partial{}, nil
	}
	return &m, nil
}

func (s *Server) clearPartial() error {
	if err := os.Remove(s.at.partial); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("clear the mark of partial data: %w", err)
	}
	return durable.SyncDir(s.at.dir)
}

// dataState judges what lies in the data directory, with the reason where it is foreign.
func (s *Server) dataState() (database.DataState, string, error) {
	m, err := s.readPartial()
	if err != nil {
		return "", "", err
	}
	if m != nil {
		return database.DataPartial, fmt.Sprintf("a %s did not end", m.Job), nil
	}
	entries, err := os.ReadDir(s.at.data)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return database.DataAbsent, "", nil
	case err != nil:
		return "", "", fmt.Errorf("look at the data directory: %w", err)
	case len(entries) == 0:
		return database.DataAbsent, "", nil
	}
	b, err := os.ReadFile(filepath.Join(s.at.data, "PG_VERSION"))
	if errors.Is(err, fs.ErrNotExist) {
		return database.DataForeign, s.at.data + " is not empty and holds no PostgreSQL data", nil
	}
	if err != nil {
		return "", "", fmt.Errorf("look at the data directory: %w", err)
	}
	if major := strings.TrimSpace(string(b)); major != strconv.Itoa(s.cfg.Major) {
		return database.DataForeign, fmt.Sprintf("%s is of PostgreSQL %s, the plan says %d", s.at.data, major, s.cfg.Major), nil
	}
	incarnation, err := readIncarnation(s.at.data)
	if err != nil {
		return "", "", err
	}
	if incarnation == "" {
		return database.DataForeign, s.at.data + " was not made by Holdfast", nil
	}
	if why, err := s.forked(incarnation); err != nil || why != "" {
		return database.DataForeign, why, err
	}
	return database.DataPresent, "", nil
}
