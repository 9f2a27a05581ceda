package restore

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sys/unix"

	"holdfast/internal/durable"
	"holdfast/internal/pgcontrol"
	"holdfast/internal/vault"
)

// Copy is a restored database that runs under a name of its own beside the live one, on one host, until it is stopped. It
// belongs to nobody's agreement: it follows nobody, nobody can follow it, and it archives nothing, for it has the system
// identifier of its original and would write into its log.
type Copy struct {
	Name      string    `json:"name"`
	Of        string    `json:"of"` // the plan's name of the original
	At        string    `json:"at"` // the moment, in words
	Backup    string    `json:"backup"`
	Made      time.Time `json:"made"`
	BinDir    string    `json:"bin_dir"`
	Superuser string    `json:"superuser"`
	Port      int       `json:"port"` // on loopback
	Owner     Owner     `json:"owner"`
	Run       bool      `json:"run"` // it is wanted to run
	Folder    string    `json:"-"`   // the folder that holds all of it
}

// Address is where copies listen.
const Address = "127.0.0.1"

// copyFile stands in a copy's folder once its restore has ended well: before, there is nothing to run.
const copyFile = "copy.json"

var copyName = regexp.MustCompile(`^[a-z][a-z0-9-]{0,30}$`)

// CheckCopyName refuses a name that cannot be a folder's and a word on the command line.
func CheckCopyName(name string) error {
	if !copyName.MatchString(name) {
		return fmt.Errorf("name a copy %q: a name is a small letter, then small letters, digits and hyphens, 31 at most", name)
	}
	return nil
}

// Data is its data directory.
func (c Copy) Data() string { return filepath.Join(c.Folder, "data") }

// Socket is the folder with its private socket.
func (c Copy) Socket() string { return filepath.Join(c.Folder, "run") }

// Keep is the folder of its keeper.
func (c Copy) Keep() string { return filepath.Join(c.Folder, "keep") }

// CopyFolder is where a copy of that name lies below a folder for copies.
func CopyFolder(dir, name string) string { return filepath.Join(dir, name) }

// ReadCopies lists the copies of a folder; one that was never finished is none.
func ReadCopies(dir string) ([]Copy, error) {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("list restored copies: %w", err)
	}
	var out []Copy
	for _, e := range entries {
		raw, err := os.ReadFile(filepath.Join(dir, e.Name(), copyFile))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		c := Copy{Folder: CopyFolder(dir, e.Name())}
		if err == nil {
			err = json.Unmarshal(raw, &c)
		}
		if err != nil {
			return nil, fmt.Errorf("read restored copy %s: %w", e.Name(), err)
		}
		out = append(out, c)
	}
	return out, nil
}

// LockCopies waits until nobody else starts, stops or removes copies in a folder; unlock is nil when there is no such
// folder.
func LockCopies(ctx context.Context, dir string) (unlock func(), err error) {
	f, err := os.Open(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	for err == nil {
		if err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err == nil {
			return func() { _ = f.Close() }, nil // which gives the lock back
		}
		if !errors.Is(err, unix.EWOULDBLOCK) {
			break
		}
		select {
		case <-ctx.Done():
			err = context.Cause(ctx)
		case <-time.After(50 * time.Millisecond):
			err = nil
		}
	}
	if f != nil {
		_ = f.Close() // never locked
	}
	return nil, fmt.Errorf("lock the restored copies in %s: %w", dir, err)
}

// Write keeps what a copy is.
func (c Copy) Write() error {
	raw, err := json.MarshalIndent(c, "", "  ")
	if err == nil {
		err = durable.WriteFile(filepath.Join(c.Folder, copyFile), append(raw, '\n'), 0o600)
	}
	if err != nil {
		return fmt.Errorf("write restored copy %s: %w", c.Name, err)
	}
	return nil
}

// Remove removes a copy and all of its data. Nothing may run on it. What it is goes first: half a copy is none.
func (c Copy) Remove() error {
	err := os.Remove(filepath.Join(c.Folder, copyFile))
	if err == nil {
		err = durable.SyncDir(c.Folder)
	}
	if err == nil {
		err = os.RemoveAll(c.Folder)
	}
	if err != nil {
		return fmt.Errorf("remove restored copy %s: %w", c.Name, err)
	}
	return nil
}

// Command is what runs a copy's server. The files that it names are written anew each time.
func (c Copy) Command() ([]string, error) {
	if err := c.prepare(); err != nil {
		return nil, fmt.Errorf("prepare restored copy %s: %w", c.Name, err)
	}
	control, err := pgcontrol.Read(c.Data())
	if err != nil {
		return nil, fmt.Errorf("prepare restored copy %s: %w", c.Name, err)
	}
	set := append(isolation(),
		setting{"config_file", filepath.Join(c.Folder, "postgresql.conf")}, setting{"hba_file", filepath.Join(c.Folder, "pg_hba.conf")},
		setting{"ident_file", filepath.Join(c.Folder, "pg_ident.conf")}, setting{"data_directory", c.Data()}, setting{"external_pid_file", ""},
		setting{"unix_socket_directories", c.Socket()}, setting{"unix_socket_permissions", "0700"},
		setting{"listen_addresses", Address}, setting{"port", fmt.Sprint(c.Port)}, setting{"cluster_name", c.Name},
		setting{"shared_preload_libraries", ""}, setting{"session_preload_libraries", ""}, setting{"local_preload_libraries", ""},
		setting{"logging_collector", "off"}, setting{"log_destination", "stderr"}, setting{"lc_messages", "C"}, setting{"huge_pages", "off"})
	for _, l := range control.Limits {
		set = append(set, setting{l.Name, fmt.Sprint(l.Value)})
	}
	set = append(set, setting{"max_wal_senders", "0"}) // nobody can follow it
	args := []string{filepath.Join(c.BinDir, "postgres"), "-D", c.Data()}
	for _, x := range set {
		args = append(args, "-c", x.name+"="+x.value)
	}
	return args, nil
}

// prepare writes the files beside the data. Roles come in by their passwords, on loopback alone; the private socket is for
// who may enter its folder.
func (c Copy) prepare() error {
	if err := os.MkdirAll(c.Socket(), 0o700); err != nil {
		return err
	}
	if err := c.Owner.take(c.Socket()); err != nil {
		return err
	}
	for name, content := range map[string]string{
		"postgresql.conf": "# Settings of this copy go below; those that keep it apart from its original are on the command line.\n",
		"pg_hba.conf":     "local all all trust\nhost all all " + Address + "/32 scram-sha-256\n",
		"pg_ident.conf":   "",
	} {
		p := filepath.Join(c.Folder, name)
		if _, err := os.Stat(p); err == nil {
			continue // the operator may have changed it
		}
		if err := durable.WriteFile(p, []byte(content), 0o600); err != nil {
			return err
		}
		if err := c.Owner.take(p); err != nil {
			return err
		}
	}
	return nil
}

// Answers is nil when the copy's server lets sessions in.
func (c Copy) Answers(ctx context.Context) error {
	conf, err := pgx.ParseConfig("")
	if err != nil {
		return fmt.Errorf("reach restored copy %s: %w", c.Name, err)
	}
	conf.Host, conf.Port, conf.User, conf.Database, conf.TLSConfig, conf.Fallbacks = c.Socket(), uint16(c.Port), c.Superuser, "postgres", nil, nil
	conn, err := pgx.ConnectConfig(ctx, conf)
	if err != nil {
		return fmt.Errorf("reach restored copy %s: %w", c.Name, err)
	}
	return conn.Close(ctx)
}

// NewCopy is what a finished restore becomes.
func NewCopy(name string, at Target, b vault.Backup, binDir, folder string, port int, owner Owner) Copy {
	return Copy{Name: name, Of: b.Database, At: at.String(), Backup: b.ID, Made: time.Now().UTC().Truncate(time.Second), BinDir: binDir, Superuser: b.Superuser,
		Port: port, Owner: owner, Run: true, Folder: folder}
}
