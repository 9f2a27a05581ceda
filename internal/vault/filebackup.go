package vault

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	"holdfast/internal/vault/wal"
)

// FileBackup is one backup of a file set as the vault lists it. Times are the clock's of the host that made it.
type FileBackup struct {
	ID          string    `json:"id"` // set, time and a few random digits; stable for the backup's life
	Application string    `json:"application"`
	Set         string    `json:"set"`  // the plan's name for it
	Host        string    `json:"host"` // whose directory it is
	Path        string    `json:"path"` // the directory
	Earlier     string    `json:"earlier,omitempty"`
	Started     time.Time `json:"started"`
	Ended       time.Time `json:"ended"` // when the last file had been looked at
	Files       int       `json:"files"`
	Dirs        int       `json:"dirs"`
	Others      int       `json:"others"`           // symbolic links and special files
	Bytes       int64     `json:"bytes"`            // of all files
	Read        int64     `json:"read"`             // bytes that were read; the rest is as Earlier has it
	Stored      int64     `json:"stored"`           // bytes that this backup added to the vault
	Reused      int       `json:"reused,omitempty"` // files that were taken over from Earlier unread
	Vanished    int       `json:"vanished,omitempty"`
	Changed     Names     `json:"changed,omitzero"`    // changed whenever they were read: what is stored may be of two moments
	Unreadable  Names     `json:"unreadable,omitzero"` // not in it, with the reason
	Excluded    []string  `json:"excluded,omitempty"`  // patterns
	Point       *Point    `json:"point,omitempty"`     // recovery point that it is part of; nil = none
	Entries     int       `json:"entries"`             // lines of the list
	List        string    `json:"list"`                // kopia's name for the list of entries
	Written     time.Time `json:"written"`
}

// Point is a recovery point: files and a database of one moment, for both stood still.
type Point struct {
	ID       string        `json:"id"` // of the point, and of the restore point in the database's log
	Database string        `json:"database"`
	SystemID uint64        `json:"system_id,string,omitempty"` // whose log it is in; 0 with Timeline 0
	Timeline uint32        `json:"timeline,omitempty"`         // on which it is; 0 = made before that was noted
	LSN      wal.LSN       `json:"lsn"`
	At       time.Time     `json:"at"`     // when the position was noted, by the set's host
	Frozen   time.Duration `json:"frozen"` // how long both stood still; with Stuck until they were not let go on
	// Stuck is why files and database were not let go on after it was made; "" = they were. It says nothing of now.
	Stuck string `json:"stuck,omitempty"`
}

// Stood says for how long both stood still.
func (p Point) Stood() string {
	text := p.Frozen.Round(time.Millisecond).String()
	if p.Stuck != "" {
		text += " and on: they were not let go on (" + p.Stuck + ")"
	}
	return text
}

// Complete reports whether everything that was there is in it.
func (b FileBackup) Complete() bool { return b.Unreadable.Count == 0 }

// Names are some names and how many there are: as many as a list can show.
type Names struct {
	Count int      `json:"count"`
	First []string `json:"first,omitempty"`
}

// namesShown is how many names are kept by themselves.
const namesShown = 100

// Add takes a name; from the hundredth on it is only counted.
func (n *Names) Add(name string) {
	if n.Count++; len(n.First) < namesShown {
		n.First = append(n.First, strings.ToValidUTF8(name, "�"))
	}
}

// IsZero reports whether there are none.
func (n Names) IsZero() bool { return n.Count == 0 }

// Kinds of a [Node].
const (
	KindFile    = "f"
	KindDir     = "d"
	KindSymlink = "s"
	KindPipe    = "p"
	KindChar    = "c"
	KindBlock   = "b"
	KindSocket  = "k"
)

// FormatOf gives the type bits of stat(2)'s st_mode for a kind; 0 = there is no such kind.
func FormatOf(kind string) uint32 {
	switch kind {
	case KindFile:
		return unix.S_IFREG
	case KindDir:
		return unix.S_IFDIR
	case KindSymlink:
		return unix.S_IFLNK
	case KindPipe:
		return unix.S_IFIFO
	case KindChar:
		return unix.S_IFCHR
	case KindBlock:
		return unix.S_IFBLK
	case KindSocket:
		return unix.S_IFSOCK
	}
	return 0
}

// KindOf gives the kind of what stat(2) shows with this st_mode; "" = none that is kept.
func KindOf(mode uint32) string {
	for _, kind := range []string{KindFile, KindDir, KindSymlink, KindPipe, KindChar, KindBlock, KindSocket} {
		if mode&unix.S_IFMT == FormatOf(kind) {
			return kind
		}
	}
	return ""
}

// Node is one name of a file set with all that is kept of it. One line of the list that lies in each backup is one of
// them, in the order of Path read component by component; the root is the first and its Path is ".".
type Node struct {
	Path   string  `json:"p"`             // slash-separated below the set, valid UTF-8, unique: as stock kopia shows it
	Raw    []byte  `json:"raw,omitempty"` // the same as it really is, where that is no UTF-8
	Kind   string  `json:"k"`
	Mode   uint32  `json:"m"` // permission, set-id and sticky bits as chmod(2) takes them
	UID    uint32  `json:"u"`
	GID    uint32  `json:"g"`
	ModNs  int64   `json:"t"`           // modification time, nanoseconds since 1970
	ChgNs  int64   `json:"c,omitempty"` // change time, likewise: tells whether it was touched since
	Inode  uint64  `json:"i,omitempty"`
	Size   int64   `json:"n,omitempty"`
	Object string  `json:"o,omitempty"` // kopia's name for the content of a file or the target of a symbolic link
	Target []byte  `json:"to,omitempty"`
	Link   string  `json:"l,omitempty"`    // Path of the first name of the same inode (hard link)
	Sparse bool    `json:"hole,omitempty"` // it has holes: runs of zeros need no room
	Room   int64   `json:"room,omitempty"` // bytes of a sparse file that lie outside its holes; 0 = all of Size
	Device uint64  `json:"dev,omitempty"`  // of a character or block device
	Attrs  []Xattr `json:"x,omitempty"`    // extended attributes, POSIX ACLs among them, sorted by name
}

// Xattr is one extended attribute.
type Xattr struct {
	Name  string `json:"k"`
	Value []byte `json:"v"`
}

// RealPath is where it lies below the set on the host.
func (n Node) RealPath() string {
	if len(n.Raw) > 0 {
		return string(n.Raw)
	}
	return n.Path
}

// ModTime is when its content was last changed.
func (n Node) ModTime() time.Time { return time.Unix(0, n.ModNs) }

// valid refuses a node that could lead a restore astray: the list is authentic, and this costs nothing.
func (n Node) valid() error {
	switch {
	case !utf8.ValidString(n.Path):
		return errors.New("its name is no UTF-8")
	case n.Path == "." && n.Kind == KindDir && len(n.Raw) == 0:
		return nil
	case len(n.Kind) != 1 || !strings.Contains("fdspcbk", n.Kind):
		return fmt.Errorf("it is of kind %q", n.Kind)
	}
	for _, p := range []string{n.Path, n.RealPath()} {
		for part := range strings.SplitSeq(p, "/") {
			if part == "" || part == "." || part == ".." || strings.ContainsRune(part, 0) {
				return fmt.Errorf("%q is no path below the set", p)
			}
		}
	}
	return nil
}

func (n Node) line() ([]byte, error) {
	raw, err := json.Marshal(n)
	return append(raw, '\n'), err
}

// ComparePaths orders paths component by component, which is the order of a walk: a directory, then all that is in it,
// then what comes after it. "." is first.
func ComparePaths(a, b string) int {
	switch {
	case a == b:
		return 0
	case a == ".":
		return -1
	case b == ".":
		return 1
	}
	i := 0
	for i < len(a) && i < len(b) && a[i] == b[i] {
		i++
	}
	switch {
	case i == len(a):
		return -1
	case i == len(b):
		return 1
	case a[i] == '/':
		return -1
	case b[i] == '/':
		return 1
	case a[i] < b[i]:
		return -1
	}
	return 1
}
