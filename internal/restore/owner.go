package restore

import (
	"fmt"
	"os"
	"os/user"
	"strconv"
	"syscall"
)

// Owner is whom restored files belong to and as whom a restored server runs. The zero value is this process's user.
type Owner struct {
	Set      bool
	UID, GID uint32
}

// DefaultOwner is this process's user, or postgres when that is root: PostgreSQL refuses to run as root.
func DefaultOwner() (Owner, error) {
	if os.Geteuid() != 0 {
		return Owner{}, nil
	}
	return LookupOwner("postgres")
}

// LookupOwner finds a user by name.
func LookupOwner(name string) (Owner, error) {
	u, err := user.Lookup(name)
	if err != nil {
		return Owner{}, fmt.Errorf("find the user who is to run PostgreSQL: %w", err)
	}
	uid, err := strconv.ParseUint(u.Uid, 10, 32)
	if err != nil {
		return Owner{}, fmt.Errorf("find user %s: %w", name, err)
	}
	gid, err := strconv.ParseUint(u.Gid, 10, 32)
	if err != nil {
		return Owner{}, fmt.Errorf("find user %s: %w", name, err)
	}
	return Owner{Set: true, UID: uint32(uid), GID: uint32(gid)}, nil
}

// take gives a path to the owner.
func (o Owner) take(path string) error {
	if !o.Set {
		return nil
	}
	return os.Chown(path, int(o.UID), int(o.GID))
}

// attr starts a child as the owner, in a process group of its own: what is typed at the terminal reaches its starter
// alone, who ends it. It outlives a starter that is killed; what then runs in a [Trial] is ended by the next one.
func (o Owner) attr() *syscall.SysProcAttr {
	a := &syscall.SysProcAttr{Setpgid: true}
	if o.Set {
		a.Credential = &syscall.Credential{Uid: o.UID, Gid: o.GID, Groups: []uint32{o.GID}}
	}
	return a
}
