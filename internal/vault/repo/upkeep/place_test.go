package upkeep_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"holdfast/internal/vault/repo"
	"holdfast/internal/vault/store"
)

// memory is a place with a clock of its own, which the repositories in it go by too.
type memory struct {
	mu    sync.Mutex // guards what follows
	blobs map[string]kept
	clock time.Time
	skew  time.Duration // how much later it is by the place's clock
	hands map[string]*hand
}

type kept struct {
	data []byte
	at   time.Time
}

func newMemory() *memory {
	return &memory{blobs: map[string]kept{}, clock: time.Unix(2e9, 0), hands: map[string]*hand{}}
}

func (m *memory) now() time.Time {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.clock
}

func (m *memory) pass(d time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.clock = m.clock.Add(d)
}

// clone is a place that holds the same now.
func (m *memory) clone() *memory {
	m.mu.Lock()
	defer m.mu.Unlock()
	return &memory{blobs: maps.Clone(m.blobs), clock: m.clock, skew: m.skew, hands: m.hands}
}

func (m *memory) names(prefix string) (out []string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for n := range m.blobs {
		if strings.HasPrefix(n, "repository/"+prefix) {
			out = append(out, n)
		}
	}
	return out
}

// spoil makes blobs unreadable, as far as they are chosen, and gives their number.
func (m *memory) spoil(prefix string, choose func(name string) bool) (n int) {
	for _, name := range m.names(prefix) {
		if choose(name) {
			m.mu.Lock()
			b := m.blobs[name]
			b.data = bytes.Clone(b.data)
			for i := range b.data {
				b.data[i] ^= 0x55
			}
			m.blobs[name] = b
			m.mu.Unlock()
			n++
		}
	}
	return n
}

// process is a place as one process sees it, which can be killed.
type process struct {
	*memory
	left    int  // operations until it is killed; below 0 = never
	applied bool // the operation during which it is killed takes effect all the same
	ran     int
	refuse  func(op, name string) error
	between map[int]func() // what others do right before an operation of that number
	dead    bool
	behind  time.Duration // how much earlier it is by its own clock
}

func (p *process) now() time.Time { return p.memory.now().Add(-p.behind) }

var errKilled = errors.New("the process was killed")

func (m *memory) process() *process { return &process{memory: m, left: -1} }

// step counts an operation. do is what it does.
func (p *process) step(op, name string, do func(*memory) error) error {
	m := p.memory
	m.mu.Lock()
	var others []func()
	for _, at := range slices.Sorted(maps.Keys(p.between)) {
		if at <= p.ran+1 { // several operations may begin at once, and none of them finds itself to be that one
			others = append(others, p.between[at])
			delete(p.between, at)
		}
	}
	m.mu.Unlock()
	for _, do := range others {
		do()
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if p.dead {
		return errKilled
	}
	if p.ran++; p.left >= 0 && p.ran > p.left {
		p.dead = true
		if p.applied {
			_ = do(m) // whoever asked will never know
		}
		return errKilled
	}
	if p.refuse != nil {
		if err := p.refuse(op, name); err != nil {
			return err
		}
	}
	return do(m)
}

func (p *process) Put(_ context.Context, name string, data store.Data) error {
	raw, err := io.ReadAll(data.Reader())
	if err != nil {
		return err
	}
	return p.step("put", name, func(m *memory) error {
		if old, ok := m.blobs[name]; ok {
			if !bytes.Equal(old.data, raw) {
				return store.ErrDiffers
			}
			return nil
		}
		m.blobs[name] = kept{raw, m.clock.Add(m.skew)}
		return nil
	})
}

func (p *process) Replace(_ context.Context, name string, data store.Data) error {
	raw, err := io.ReadAll(data.Reader())
	if err != nil {
		return err
	}
	return p.step("replace", name, func(m *memory) error {
		m.blobs[name] = kept{raw, m.clock.Add(m.skew)}
		return nil
	})
}

func (p *process) Get(_ context.Context, name string, offset, length int64, to io.Writer) error {
	var raw []byte
	err := p.step("get", name, func(m *memory) error {
		b, ok := m.blobs[name]
		if !ok {
			return store.ErrNotFound
		}
		if length < 0 {
			length = int64(len(b.data)) - offset
		}
		if offset+length > int64(len(b.data)) {
			return store.ErrShort
		}
		raw = b.data[offset : offset+length]
		return nil
	})
	if err == nil {
		_, err = to.Write(raw)
	}
	return err
}

func (p *process) Stat(_ context.Context, name string) (i store.Info, err error) {
	err = p.step("stat", name, func(m *memory) error {
		b, ok := m.blobs[name]
		if !ok {
			return store.ErrNotFound
		}
		i = store.Info{Name: name, Size: int64(len(b.data)), ModTime: b.at}
		return nil
	})
	return i, err
}

func (p *process) List(_ context.Context, prefix string, each func(store.Info) error) error {
	var all []store.Info
	err := p.step("list", prefix, func(m *memory) error {
		for n, b := range m.blobs {
			if strings.HasPrefix(n, prefix) {
				all = append(all, store.Info{Name: n, Size: int64(len(b.data)), ModTime: b.at})
			}
		}
		return nil
	})
	for _, i := range all {
		if err := each(i); err != nil {
			return err
		}
	}
	return err
}

func (p *process) Names(context.Context, string) ([]string, error) {
	return nil, errors.New("no repository asks for that")
}

func (p *process) Delete(_ context.Context, name string) error {
	return p.step("delete", name, func(m *memory) error {
		delete(m.blobs, name)
		return nil
	})
}

func (*process) Address() string { return "memory" }

const password = "the key"

// open is what a new process sees. It takes a quarter of a second: see [memory.as].
func (p *process) open(t testing.TB) (*repo.Repository, error) {
	return repo.Open(t.Context(), p, password, repo.Options{Host: "h1", User: "holdfast", Now: func() time.Time { return p.now() }})
}

// hand is a process that is sent from one place to the next, for it knows the key.
type hand struct {
	*process
	r *repo.Repository
}

// as gives the hand of that name, who knows what is in this place now.
func (m *memory) as(t testing.TB, name string) *hand {
	t.Helper()
	h := m.hands[name]
	if h == nil {
		h = &hand{process: m.process()}
		var err error
		h.r, err = h.process.open(t)
		must(t, err)
		m.hands[name] = h
	}
	*h.process = process{memory: m, left: -1}
	must(t, h.r.Refresh(t.Context()))
	return h
}
