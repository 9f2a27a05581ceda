// Package snapshot is how a backup lies in a repository so that the kopia program shows, mounts and restores it: a manifest
// that names a root, and directories that name what is in them. Types and names are kopia's, and equal values are equal bytes,
// so that a directory in which nothing changed has the name that it had. Start at [Save], [WriteDir] and [Each].
package snapshot

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"holdfast/internal/vault/repo"
)

// ManifestType is the type of manifests that are snapshots.
const ManifestType = "snapshot"

// The labels of a snapshot's manifest, beside its type and its tags.
const (
	HostLabel = "hostname"
	UserLabel = "username"
	PathLabel = "path"
)

// Time is a moment in nanoseconds since 1970, and in JSON text of RFC 3339 in UTC.
type Time int64

// TimeOf converts a moment. What lies before 1678 or after 2262 does not fit, and becomes some other moment, always the same.
func TimeOf(t time.Time) Time { return Time(t.UnixNano()) }

// Time converts back, in UTC.
func (t Time) Time() time.Time { return time.Unix(0, int64(t)).UTC() }

// MarshalJSON implements [json.Marshaler].
func (t Time) MarshalJSON() ([]byte, error) { return t.Time().MarshalJSON() }

// UnmarshalJSON implements [json.Unmarshaler].
func (t *Time) UnmarshalJSON(raw []byte) error {
	var at time.Time
	if err := at.UnmarshalJSON(raw); err != nil {
		return err
	}
	*t = TimeOf(at)
	return nil
}

// EntryType is what lies under a name.
type EntryType string

// The types of entries. Others are passed on as they are.
const (
	TypeFile    EntryType = "f"
	TypeDir     EntryType = "d"
	TypeSymlink EntryType = "s"
)

// Permissions are the bits of [io/fs.FileMode] without the type, and in JSON text of octal digits behind a 0.
type Permissions uint32

// MarshalJSON implements [json.Marshaler].
func (p Permissions) MarshalJSON() ([]byte, error) {
	return strconv.AppendQuote(nil, "0"+strconv.FormatUint(uint64(p), 8)), nil
}

// UnmarshalJSON implements [json.Unmarshaler].
func (p *Permissions) UnmarshalJSON(raw []byte) error {
	var text string
	if err := json.Unmarshal(raw, &text); err != nil {
		return fmt.Errorf("permissions: %w", err)
	}
	n, err := strconv.ParseUint(text, 0, 32)
	if err != nil {
		return fmt.Errorf("permissions: %w", err)
	}
	*p = Permissions(n)
	return nil
}

// DirEntry is one name in a directory.
type DirEntry struct {
	Name        string            `json:"name,omitempty"`
	Type        EntryType         `json:"type,omitempty"`
	Permissions Permissions       `json:"mode,omitempty"`
	FileSize    int64             `json:"size,omitempty"` // bytes
	ModTime     Time              `json:"mtime,omitempty"`
	BirthTime   *Time             `json:"btime,omitempty"`
	UserID      uint32            `json:"uid,omitempty"`
	GroupID     uint32            `json:"gid,omitempty"`
	ObjectID    repo.ObjectID     `json:"obj"`
	DirSummary  *DirectorySummary `json:"summ,omitempty"`
}

// DirectorySummary counts what lies below a directory.
type DirectorySummary struct {
	TotalFileSize     int64         `json:"size"` // bytes
	TotalFileCount    int64         `json:"files"`
	TotalSymlinkCount int64         `json:"symlinks"`
	TotalDirCount     int64         `json:"dirs"` // itself too
	MaxModTime        Time          `json:"maxTime"`
	IncompleteReason  string        `json:"incomplete,omitempty"`
	FatalErrorCount   int           `json:"numFailed"`
	IgnoredErrorCount int           `json:"numIgnoredErrors,omitempty"`
	FailedEntries     []*EntryError `json:"errors,omitempty"`
}

// EntryError says why something below a directory was not stored.
type EntryError struct {
	Path  string `json:"path"`
	Error string `json:"error"`
}

// DirManifest is one directory. Its entries lie in the order of their names.
type DirManifest struct {
	Stream  string            `json:"stream"` // [DirStream]
	Entries []*DirEntry       `json:"entries"`
	Summary *DirectorySummary `json:"summary"`
}

// DirStream is what a directory calls itself.
const DirStream = "kopia:directory"

// DirPrefix is before the names of the contents of directories.
const DirPrefix = "k"

// SourceInfo is what a snapshot is of.
type SourceInfo struct {
	Host     string `json:"host"`
	UserName string `json:"userName"`
	Path     string `json:"path"`
}

// Stats counts what a snapshot took in.
type Stats struct {
	TotalFileSize         int64 `json:"totalSize"` // bytes
	ExcludedTotalFileSize int64 `json:"excludedTotalSize"`
	TotalFileCount        int32 `json:"fileCount"`
	CachedFiles           int32 `json:"cachedFiles"`
	NonCachedFiles        int32 `json:"nonCachedFiles"`
	TotalDirectoryCount   int32 `json:"dirCount"`
	ExcludedFileCount     int32 `json:"excludedFileCount"`
	ExcludedDirCount      int32 `json:"excludedDirCount"`
	IgnoredErrorCount     int32 `json:"ignoredErrorCount"`
	ErrorCount            int32 `json:"errorCount"`
}

// Manifest is one snapshot.
type Manifest struct {
	ID               repo.ManifestID   `json:"id"` // not stored: where it is read, it is that of the manifest
	Source           SourceInfo        `json:"source"`
	Description      string            `json:"description"`
	StartTime        Time              `json:"startTime"`
	EndTime          Time              `json:"endTime"`
	Stats            Stats             `json:"stats"`
	IncompleteReason string            `json:"incomplete,omitempty"`
	RootEntry        *DirEntry         `json:"rootEntry"`
	Tags             map[string]string `json:"tags,omitempty"` // labels of the manifest too
	Pins             []string          `json:"pins,omitempty"` // while there is one, kopia does not expire it
}

// RootObjectID names the root; the zero value where there is none.
func (m *Manifest) RootObjectID() repo.ObjectID {
	if m.RootEntry == nil {
		return repo.ObjectID{}
	}
	return m.RootEntry.ObjectID
}

// labels are what the manifest is found by.
func (m *Manifest) labels() (map[string]string, error) {
	out := map[string]string{repo.TypeLabel: ManifestType, HostLabel: m.Source.Host, UserLabel: m.Source.UserName, PathLabel: m.Source.Path}
	for k, v := range out {
		if v == "" {
			return nil, fmt.Errorf("it has no %s", k)
		}
	}
	for k, v := range m.Tags {
		if _, ok := out[k]; ok {
			return nil, fmt.Errorf("%q cannot be a tag", k)
		}
		out[k] = v
	}
	return out, nil
}

// Save lists a snapshot, with the next flush. It fills in m.ID.
func Save(ctx context.Context, w *repo.Writer, m *Manifest) (repo.ManifestID, error) {
	labels, err := m.labels()
	if err != nil {
		return "", fmt.Errorf("save a snapshot: %w", err)
	}
	stored := *m
	stored.ID = ""
	id, err := w.PutManifest(ctx, labels, &stored)
	if err != nil {
		return "", fmt.Errorf("save a snapshot: %w", err)
	}
	m.ID = id
	return id, nil
}

// ManifestReader is a repository or a writer.
type ManifestReader interface {
	Manifest(ctx context.Context, id repo.ManifestID, into any) (*repo.ManifestEntry, error)
}

// Load reads a snapshot's manifest. [repo.ErrManifestNotFound].
func Load(ctx context.Context, r ManifestReader, id repo.ManifestID) (*Manifest, error) {
	var m Manifest
	e, err := r.Manifest(ctx, id, &m)
	if err == nil && e.Labels[repo.TypeLabel] != ManifestType {
		err = fmt.Errorf("manifest %s is of type %q", id, e.Labels[repo.TypeLabel])
	}
	if err != nil {
		return nil, fmt.Errorf("load a snapshot: %w", err)
	}
	m.ID = id
	return &m, nil
}

// WriteDir stores a directory; path is for errors alone.
func WriteDir(ctx context.Context, w *repo.Writer, path string, d *DirManifest) (repo.ObjectID, error) {
	out := w.NewObject(ctx, repo.ObjectOptions{Prefix: DirPrefix, Compress: true})
	err := json.NewEncoder(out).Encode(d)
	var id repo.ObjectID
	if err == nil {
		id, err = out.Result()
	}
	if err = errors.Join(err, out.Close()); err != nil {
		return repo.ObjectID{}, fmt.Errorf("store directory %q: %w", path, err)
	}
	return id, nil
}
