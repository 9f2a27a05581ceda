package vault

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"

	"holdfast/internal/vault/repo"
	"holdfast/internal/vault/repo/snapshot"
)

// FileBackups lists the backups of one file set ("" = of all), oldest first, with what other processes wrote meanwhile.
// An entry that cannot be read is an error: a list that hides a backup is worse than none.
func (v *Vault) FileBackups(ctx context.Context, set string) ([]FileBackup, error) {
	return v.fileBackups(ctx, set, v.all)
}

// ReadableFileBackups is [Vault.FileBackups] as [Vault.ReadableBackups] is [Vault.Backups].
func (v *Vault) ReadableFileBackups(ctx context.Context, set string) ([]FileBackup, error) {
	return v.fileBackups(ctx, set, v.readable)
}

func (v *Vault) fileBackups(ctx context.Context, set string, from func(context.Context) (manifests, error)) ([]FileBackup, error) {
	labels := map[string]string{repo.TypeLabel: snapshot.ManifestType}
	if set != "" {
		labels["tag:files"] = set
	}
	v.repoMu.Lock()
	defer v.repoMu.Unlock()
	_, found, err := v.find(ctx, labels, from)
	if err != nil {
		return nil, fmt.Errorf("list backups of files in vault %s: %w", v.name, err)
	}
	var out []FileBackup
	for _, m := range found {
		about, ok := m.Labels[tagFiles]
		if !ok {
			continue // a base backup, or a snapshot that somebody made with the stock program
		}
		var b FileBackup
		if err := json.Unmarshal([]byte(about), &b); err != nil {
			return nil, fmt.Errorf("read backup %s in vault %s: %w", m.ID, v.name, err)
		}
		out = append(out, b)
	}
	slices.SortFunc(out, func(a, b FileBackup) int {
		return cmp.Or(a.Started.Compare(b.Started), cmp.Compare(a.ID, b.ID))
	})
	return out, nil
}

// Tree reads one backup of a file set.
type Tree struct {
	vault  *Vault
	Backup FileBackup
}

// OpenTree gives a backup that [Vault.FileBackups] lists for reading.
func (v *Vault) OpenTree(b FileBackup) *Tree { return &Tree{vault: v, Backup: b} }

// Each gives every name in order. A list that is damaged or ends early is an error, after the names that are authentic.
func (t *Tree) Each(ctx context.Context, each func(Node) error) error {
	c, err := t.Cursor(ctx)
	if err != nil {
		return err
	}
	defer c.Close()
	for {
		n, err := c.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := each(n); err != nil {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
	}
}

// Cursor goes through the names of a backup once.
type Cursor struct {
	tree *Tree
	from *repo.ObjectReader
	in   *bufio.Reader
	line []byte
	seen int
}

// Cursor begins at the root. It must be closed.
func (t *Tree) Cursor(ctx context.Context) (*Cursor, error) {
	r, err := t.open(ctx, t.Backup.List)
	if err != nil {
		return nil, fmt.Errorf("open the list of backup %s: %w", t.Backup.ID, t.Unreadable(err))
	}
	return &Cursor{tree: t, from: r, in: bufio.NewReaderSize(r, 256<<10)}, nil
}

// Next gives the next name, and io.EOF after the last.
func (c *Cursor) Next() (Node, error) {
	line, err := c.in.ReadBytes('\n')
	if errors.Is(err, io.EOF) && len(line) == 0 {
		if c.seen != c.tree.Backup.Entries {
			return Node{}, fmt.Errorf("read the list of backup %s: it has %d names, %d were stored", c.tree.Backup.ID, c.seen, c.tree.Backup.Entries)
		}
		return Node{}, io.EOF
	}
	var n Node
	if err == nil {
		n, err = ParseNode(line)
	}
	if err != nil {
		return Node{}, fmt.Errorf("read the list of backup %s, line %d: %w", c.tree.Backup.ID, c.seen+1, c.tree.Unreadable(err))
	}
	c.seen, c.line = c.seen+1, line
	return n, nil
}

// Line is what the list holds of the name that Next gave last, for who keeps it to parse it again.
func (c *Cursor) Line() []byte { return c.line }

// ParseNode reads a line of a list.
func ParseNode(line []byte) (Node, error) {
	var n Node
	if err := json.Unmarshal(line, &n); err != nil {
		return Node{}, err
	}
	return n, n.valid()
}

// Close lets go of the list.
func (c *Cursor) Close() { _ = c.from.Close() } // opened for reading alone

func (t *Tree) open(ctx context.Context, name string) (*repo.ObjectReader, error) {
	if err := t.vault.broken(); err != nil {
		return nil, err
	}
	id, err := repo.ParseObjectID(name)
	if err != nil {
		return nil, err
	}
	return t.vault.repo.OpenObject(ctx, id)
}

// Open reads the content of a file. Every byte that it gives is authentic; too few are an error where it is closed by
// whoever counts them.
func (t *Tree) Open(ctx context.Context, n Node) (io.ReadSeekCloser, error) {
	r, err := t.open(ctx, n.Object)
	if err == nil && r.Length() != n.Size {
		err = errors.Join(fmt.Errorf("%d bytes, %d were stored", r.Length(), n.Size), r.Close())
	}
	if err != nil {
		return nil, fmt.Errorf("read %q from the vault: %w", n.Path, err)
	}
	return r, nil
}
