package agent

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"holdfast/internal/cluster"
	"holdfast/internal/database"
)

// Keys of the agreed state. Every agent reads all of them with each contact, so only what is small lies here.
const (
	keyRoot = "holdfast/"
	// KeyPlan holds the plan file's text.
	KeyPlan = keyRoot + "plan"
	// KeyStopping is present while the operator stops the whole application.
	KeyStopping = keyRoot + "stopping"
	// KeyController is the office of the controller.
	KeyController = keyRoot + "controller"
	// KeyAssignments says which service instances run where.
	KeyAssignments = keyRoot + "services"
	// KeyRequests is the prefix of what operators asked for; the answer lies beside it under KeyAnswers.
	KeyRequests = keyRoot + "request/"
	// KeyAnswers is the prefix of settled requests.
	KeyAnswers = keyRoot + "answer/"
	// KeyVaults is the prefix of which vault a name stands for.
	KeyVaults = keyRoot + "vault/"
	// KeyCopies is the prefix of which copies of a vault have once held all of it: VAULT/COPY.
	KeyCopies = keyRoot + "copy/"
	// KeyArchivers is the prefix of who archives a database's WAL.
	KeyArchivers = keyRoot + "archiver/"
	// KeySaved is the prefix of when the agreed state was last saved to a vault.
	KeySaved = keyRoot + "saved/"
	// keyServers is the prefix of what each host's server has that the log does not bring.
	keyServers = keyRoot + "server/"
	// KeyLives is the prefix of which life of an agent runs as a host.
	KeyLives = keyRoot + "life/"
	// KeyUpkeep is the prefix of how chores for vaults and backups last went.
	KeyUpkeep = keyRoot + "upkeep/"
	// KeyCare is the prefix of the offices of those who do them.
	KeyCare = keyRoot + "care/"
	// KeyRecovery says how the agreed state was rebuilt; absent while it never was.
	KeyRecovery = keyRoot + "recovery"
	// KeyRoot is the prefix of all of them.
	KeyRoot = keyRoot
)

// RecordKey is where the record of a database lies.
func RecordKey(name string) string { return keyRoot + "database/" + name }

// ServerKey is where a host tells what its server of a database has that the log does not bring.
func ServerKey(name, host string) string { return keyServers + name + "/" + host }

// Passing reports whether a key changes without anything being agreed anew: offices, savings, chores, questions and answers,
// what hosts tell of themselves.
func Passing(key string) bool {
	return key == KeyController || slices.ContainsFunc([]string{KeySaved, KeyRequests, KeyAnswers, KeyUpkeep, KeyCare, KeyLives, keyServers}, func(prefix string) bool {
		return strings.HasPrefix(key, prefix)
	})
}

// Saved is the last saving of the agreed state to one vault.
type Saved struct {
	Vault    string    `json:"vault"`
	Object   string    `json:"object"`
	At       time.Time `json:"at"` // by the saving host's clock
	Revision int64     `json:"revision"`
	Digest   string    `json:"digest"` // of what was saved, savings and offices apart
	Host     string    `json:"host"`
}

// Recovery is one rebuilding of the agreed state after the loss of a majority.
type Recovery struct {
	Number   int64     `json:"number"`   // 1, 2, ...
	Founding string    `json:"founding"` // of the new cluster
	At       time.Time `json:"at"`
	Survivor string    `json:"survivor"`
	Lost     []string  `json:"lost"` // written off
	From     string    `json:"from"` // what it was rebuilt from, in words
}

// Asked is one request of an operator as it lies in the store.
type Asked struct {
	ID       string            `json:"id"`
	Room     string            `json:"room"` // database, backup, files
	Subject  string            `json:"subject"`
	Kind     string            `json:"kind"` // switchover, base
	Args     map[string]string `json:"args,omitempty"`
	By       string            `json:"by"`
	Host     string            `json:"host,omitempty"`     // who carries it out, where one host does
	Progress string            `json:"progress,omitempty"` // how far that is
}

// Settled is the answer to a request.
type Settled struct {
	ID     string          `json:"id"`
	OK     bool            `json:"ok"`
	Text   string          `json:"text"`
	Host   string          `json:"host"`
	Result json.RawMessage `json:"result,omitempty"`
}

// records keeps one database's record in the store.
type records struct {
	store cluster.Store
	key   string
}

// Records is the agreed record of one database, for [database.Act].
func Records(s cluster.Store, name string) database.Records { return records{s, RecordKey(name)} }

func (r records) Read(ctx context.Context) (database.Record, int64, error) {
	e, err := r.store.Get(ctx, r.key)
	if err != nil {
		return database.Record{}, 0, fmt.Errorf("read the agreed record: %w", err)
	}
	var rec database.Record
	if e.Revision == 0 {
		return rec, 0, nil
	}
	if err := json.Unmarshal(e.Value, &rec); err != nil {
		return database.Record{}, 0, fmt.Errorf("read the agreed record: %w", err)
	}
	return rec, e.Revision, nil
}

func (r records) Swap(ctx context.Context, revision int64, rec database.Record) error {
	value, err := json.Marshal(rec)
	if err != nil {
		return err
	}
	if _, err := r.store.Put(ctx, r.key, value, revision); err != nil {
		return fmt.Errorf("write the agreed record of epoch %d: %w", rec.Epoch, err)
	}
	return nil
}
