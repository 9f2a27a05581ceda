package repo

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"time"

	"holdfast/internal/vault/store"
)

// A session is one set of packs that one index makes known at once. A marker lies in the repository from before its first pack until
// the index is stored: by it, whoever cleans up knows packs that are being written, and whoever writes next finds those of a
// writer that was killed.

const markerPrefix = "s"

// SessionOf is the session in the name of a pack, an index or a marker: "s" and letters and digits; "" = none.
func SessionOf(blob string) string {
	_, rest, _ := strings.Cut(blob, "-")
	for part := range strings.SplitSeq(rest, "-") {
		if strings.HasPrefix(part, markerPrefix) {
			return part
		}
	}
	return ""
}

// newSession draws the id of a session: 64 bits, and how many months of 30 days have passed since the year 2000, as kopia has it.
func newSession(now time.Time) string {
	month := now.Sub(time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)) / (30 * 24 * time.Hour)
	return fmt.Sprintf("%s%s%x", markerPrefix, randomHex(8), int64(month))
}

// SessionInfo is what a marker says, with kopia's JSON names.
type SessionInfo struct {
	ID         string    `json:"id"`
	Started    time.Time `json:"startTime"`
	Checkpoint time.Time `json:"checkpointTime"` // when the writer was last known to live
	User       string    `json:"username"`
	Host       string    `json:"hostname"`
}

// marker is that of one session.
type marker struct {
	mu     sync.Mutex // guards what follows, and is held while it is stored
	name   string     // "" = not made yet
	sealed []byte     // made once: the same name must have the same bytes when storing it is tried again
	stored bool
}

// set stores the marker unless it is there.
func (m *marker) set(ctx context.Context, r *Repository, session string, uploaded func(int64)) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.stored {
		return nil
	}
	if m.name == "" {
		now := r.now()
		raw, err := json.Marshal(SessionInfo{ID: session, Started: now, Checkpoint: now, User: r.options.User, Host: r.options.Host})
		if err != nil {
			return fmt.Errorf("mark a session: %w", err)
		}
		name, sealed, err := r.seal.SealBlob(raw, markerPrefix, session)
		if err != nil {
			return fmt.Errorf("mark a session: %w", err)
		}
		m.name, m.sealed = name, sealed
	}
	if err := r.blobs.Put(ctx, blobDir+m.name, store.Bytes(m.sealed)); err != nil {
		return fmt.Errorf("mark a session: %w", err)
	}
	m.stored = true
	uploaded(int64(len(m.sealed)))
	return nil
}

// clear takes the marker away. What was never tried to be stored is not there. Where it stays it is only in the way of a clean-up,
// for some days: so that is told and is no error.
func (m *marker) clear(ctx context.Context, r *Repository) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.name == "" {
		return
	}
	if err := r.DeleteBlob(ctx, m.name); err != nil {
		r.options.Log.WarnContext(ctx, "the marker of a session that has ended stays", "marker", m.name, "err", err)
	}
	m.name, m.sealed, m.stored = "", nil, false
}

// EachSession gives what the markers say, the newest of each session. A marker that goes meanwhile is passed over.
func (r *Repository) EachSession(ctx context.Context, each func(SessionInfo) error) error {
	latest := map[string]SessionInfo{}
	err := r.EachBlob(ctx, markerPrefix, func(b Blob) error {
		i, err := r.readMarker(ctx, b.Name)
		if err != nil {
			return err
		}
		if old, ok := latest[i.ID]; i.ID != "" && (!ok || i.Checkpoint.After(old.Checkpoint)) {
			latest[i.ID] = i
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, i := range latest {
		if err := each(i); err != nil {
			return err
		}
	}
	return nil
}

// readMarker reads one marker; one that is not there gives no ID.
func (r *Repository) readMarker(ctx context.Context, name string) (i SessionInfo, err error) {
	raw, err := r.ReadBlob(ctx, name)
	if isGone(err) {
		return i, nil
	}
	if err == nil {
		raw, err = r.seal.OpenBlob(name, raw)
	}
	if err == nil {
		err = json.Unmarshal(raw, &i)
	}
	if err != nil {
		return i, fmt.Errorf("read the marker %s of a session: %w", name, err)
	}
	return i, nil
}
