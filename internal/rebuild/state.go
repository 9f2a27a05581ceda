// Package rebuild says how the agreed state comes back after most hosts are gone for good. [State] is what is saved
// to a vault after each change; [Propose] judges what is left (one host's own disk, the newest saving, promises) and
// says what a cluster of one would begin with, what cannot be known, and who is written off. It touches nothing:
// internal/host collects and carries out, and the command line shows it to a person first.
package rebuild

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"holdfast/internal/agent"
	"holdfast/internal/cluster"
	"holdfast/internal/database"
)

// schemaNow is the layout of [State] that this program writes, and the newest that it reads.
const schemaNow = 1

// State is everything that the hosts of an application agreed on at one revision, with what else a host needs that
// begins with nothing. It holds secrets (keys of certificates): it is only ever stored encrypted.
type State struct {
	Schema      int       `json:"schema"`
	Application string    `json:"application"`
	At          time.Time `json:"at"` // by the saving host's clock
	By          string    `json:"by"` // host
	ClusterID   uint64    `json:"cluster_id,string"`
	Recovery    int64     `json:"recovery"` // how often the state had been rebuilt
	Revision    int64     `json:"revision"`
	Entries     []Entry   `json:"entries"`
	Promises    []Promise `json:"promises"`
	// Files are the application's authority where the saving host had it, and that host's own certificate: by their
	// path, ca/... and hosts/NAME/tls/...
	Files map[string][]byte `json:"files,omitempty"`
}

// Entry is one agreed key.
type Entry struct {
	Key      string `json:"key"`
	Value    []byte `json:"value"`
	Revision int64  `json:"revision"`
}

// Promise is what a host's server of one database swore, and who says so.
type Promise struct {
	Database string           `json:"database"`
	Host     string           `json:"host"`
	Promise  database.Promise `json:"promise"`
	Source   string           `json:"source,omitempty"` // in words: its own disk, the saving
}

// Encode is the state as it is stored.
func (s State) Encode() ([]byte, error) {
	s.Schema = schemaNow
	b, err := json.Marshal(s)
	if err != nil {
		return nil, fmt.Errorf("write the agreed state: %w", err)
	}
	return b, nil
}

// Decode reads what [State.Encode] wrote. A newer layout than this program knows is refused.
func Decode(b []byte) (State, error) {
	var s State
	if err := json.Unmarshal(b, &s); err != nil {
		return State{}, fmt.Errorf("read the saved state: %w", err)
	}
	switch {
	case s.Schema > schemaNow:
		return State{}, fmt.Errorf("read the saved state: it is of layout %d, this program knows up to %d; use a newer one", s.Schema, schemaNow)
	case s.Schema < 1 || s.Application == "":
		return State{}, errors.New("read the saved state: it is none")
	}
	return s, nil
}

// Lasting are the entries worth saving, sorted by key.
func Lasting(state map[string]cluster.Entry) []Entry {
	var out []Entry
	for key, e := range state {
		if !agent.Passing(key) {
			out = append(out, Entry{Key: key, Value: e.Value, Revision: e.Revision})
		}
	}
	slices.SortFunc(out, func(a, b Entry) int { return strings.Compare(a.Key, b.Key) })
	return out
}

// Digest tells contents apart: when it has changed, something was agreed that is not saved yet.
func Digest(entries []Entry) string {
	sum := sha256.New()
	for _, e := range entries {
		_, _ = fmt.Fprintf(sum, "%d %s %d ", len(e.Key), e.Key, len(e.Value)) // a hash takes everything
		_, _ = sum.Write(e.Value)                                             // likewise
	}
	return hex.EncodeToString(sum.Sum(nil)[:16])
}
