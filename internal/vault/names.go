package vault

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"time"

	"holdfast/internal/vault/copies"
	"holdfast/internal/vault/wal"
)

// fillingFile stands in a copy that is being made from the others: vault.json comes last, so that a copy which is not
// whole is no vault yet.
const fillingFile = "filling.json"

// passing names what belongs to one copy alone.
func passing(name string) bool {
	id, inRepository := strings.CutPrefix(name, repositoryDir+"/")
	switch {
	case inRepository:
		return strings.HasPrefix(id, sessionMarkers) || strings.HasPrefix(id, "_")
	case strings.HasPrefix(name, "lost+found/"), strings.HasPrefix(name, writingDir+"/"):
		return true
	}
	return name == checkFile || name == rightFile || name == fillingFile
}

// changing names what is replaced on purpose.
func changing(name string) bool {
	id, inRepository := strings.CutPrefix(name, repositoryDir+"/")
	return inRepository && strings.HasPrefix(id, "kopia.") || name == formatBlobCopy || isRecord(name) || path.Base(name) == coveredFile
}

// bulk names the packs of files' content, which a directory refuses before its disk is full.
func bulk(name string) bool { return strings.HasPrefix(name, repositoryDir+"/p") }

// light names what is let go of when something newer has taken its place, and what may come back without harm.
func light(name string) bool {
	dir, _, _ := strings.Cut(name, "/")
	return dir == stateDir || dir == catalogDir || dir == "wal" && strings.Contains(path.Base(name), ".partial-")
}

// order is when a blob is carried to another copy: packs and log first, then the indexes that name packs, then the marks that open
// epochs (kopia passes over the indexes of an epoch that are younger than the second mark behind it), then what opens the vault, and
// last what makes it one.
func order(name string) int {
	id, inRepository := strings.CutPrefix(name, repositoryDir+"/")
	switch {
	case name == identityFile:
		return 4
	case name == formatBlobCopy, inRepository && strings.HasPrefix(id, "kopia."):
		return 3
	case inRepository && strings.HasPrefix(id, "xe"):
		return 2
	case inRepository && id != "" && strings.Contains("xnm", id[:1]):
		return 1
	}
	return 0
}

// needed leaves out beginnings of segments that a longer piece has replaced, segments that lie in a bundle, and savings that
// would be let go of.
func needed(names []string) []string {
	bundles := spansOf(slices.Values(names))
	longest := map[string]string{} // segment with its folder -> the piece that holds most of it
	var states []SavedState
	for _, n := range names {
		dir, base := path.Split(n)
		switch top, _, _ := strings.Cut(n, "/"); {
		case top == "wal" && len(base) > 24 && !strings.HasPrefix(base[24:], bundleMark):
			segment := dir + base[:24]
			if pieceLength(base) > pieceLength(path.Base(longest[segment])) {
				longest[segment] = n
			}
		case top == stateDir:
			if s, ok := parseState(base); ok {
				states = append(states, s)
			}
		}
	}
	sortStates(states)
	kept := keptStates(states)
	out := names[:0:0]
	for _, n := range names {
		dir, base := path.Split(n)
		switch top, _, _ := strings.Cut(n, "/"); {
		case top == "wal" && strings.Contains(base, ".partial-") && longest[dir+base[:24]] != n:
			continue
		case top == "wal" && bundles.covers(n):
			continue
		case top == stateDir:
			if _, ok := parseState(base); ok && !kept[n] {
				continue
			}
		}
		out = append(out, n)
	}
	return out
}

// needed leaves out, besides, what the catalog says was let go of: a copy that comes back from long ago still has it.
func (v *Vault) needed(names []string) []string {
	c := v.lastCatalog.Load()
	if c != nil {
		names = slices.DeleteFunc(slices.Clone(names), c.gone)
	}
	return needed(names)
}

// pieceLength orders the pieces of one segment: whole ones have no end.
func pieceLength(base string) string {
	if len(base) < 25 {
		return ""
	}
	rest, partial := strings.CutPrefix(base[24:], ".partial-")
	if !partial {
		return "~" // behind every number
	}
	digits, _, _ := strings.Cut(rest, "-")
	return digits
}

// policy is what copies need to know of our names, and of what lies under them.
func (v *Vault) policy() copies.Policy {
	return copies.Policy{
		Passing: passing, Changing: changing, Bulk: bulk, Light: light, Order: order, Needed: v.needed,
		Refresh: v.refresh, Check: v.check, Newer: v.newer, Rotten: v.rotten,
	}
}

// rotten tells of a copy's blob that was read and is no good.
func (v *Vault) rotten(copied, name string, err error) {
	v.log.Error("a blob of one copy is damaged, the others are read instead", "copy", copied, "blob", name, "err", err)
}

// check says whether content can be what name stands for, as far as its seal, its name and the catalog tell.
func (v *Vault) check(name string, content []byte) error { return v.whole(name, content) }

// checkSealed opens what carries its own proof.
func (v *Vault) checkSealed(name string, content []byte) error {
	dir, _, _ := strings.Cut(name, "/")
	switch {
	case dir == "wal" && strings.HasSuffix(name, walSuffix):
		return v.checkLog(name, content)
	case dir == stateDir:
		s, ok := parseState(path.Base(name))
		if !ok {
			return nil
		}
		return v.checkState(s, content)
	case dir == catalogDir:
		_, err := v.openPage(name, content)
		return err
	case dir == receiptDir:
		_, err := v.openReceipt(name, content)
		return err
	case dir == deletionDir:
		_, err := v.openPaper(name, content)
		return err
	}
	return nil
}

// checkRow compares content with what the catalog says of it, as it was last read.
func (v *Vault) checkRow(name string, content []byte) error {
	r, ok := v.known(name)
	if !ok && v.isUnread(name) {
		return errUnread
	}
	if !ok {
		return nil
	}
	if sum := sha256.Sum256(content); r.Size != int64(len(content)) || r.Sum != hex.EncodeToString(sum[:]) {
		return fmt.Errorf("%w: %d bytes, and %d were stored", errDamaged, len(content), r.Size)
	}
	return nil
}

// errUnread is an index of which nothing else is known.
var errUnread = errors.New("damaged: it does not open")

// errDamaged is a blob whose content is not what was stored.
var errDamaged = errors.New("damaged: it is not what was stored")

// known is what the catalog said of a blob when it was last read.
func (v *Vault) known(name string) (row, bool) {
	c := v.lastCatalog.Load()
	if c == nil {
		return row{}, false
	}
	return c.has(name)
}

// refresh reads the catalog for a comparison of copies.
func (v *Vault) refresh(ctx context.Context) error {
	c, err := v.readCatalog(ctx)
	if err != nil {
		return err
	}
	v.lastCatalog.Store(&c)
	return nil
}

// newer reports whether b is to take a's place: of two marks how far the log is held, the one that reaches further; of two
// records the younger.
func (v *Vault) newer(name string, a, b []byte) bool {
	if name == formatBlob || name == formatBlobCopy {
		// One that is not known may be of a rotation since the vault was opened; when it is damaged, a repair mends it.
		return v.formatRank(a) > 0 && v.formatRank(b) > v.formatRank(a)
	}
	if isRecord(name) {
		old, oldErr := v.openRecord(name, a)
		now, err := v.openRecord(name, b)
		return err == nil && (oldErr != nil || now.At.After(old.At))
	}
	if path.Base(name) != coveredFile {
		return false
	}
	reach := func(raw []byte) (wal.LSN, time.Time) {
		h, _, err := v.openWAL(raw)
		if err != nil {
			return 0, time.Time{}
		}
		return h.start, h.covers
	}
	aEnd, aAt := reach(a)
	bEnd, bAt := reach(b)
	return bAt.After(aAt) || bAt.Equal(aAt) && bEnd > aEnd
}
