package postgres

import (
	"errors"
	"fmt"
	"os"
	"os/user"
	"slices"
	"strconv"
	"syscall"

	"holdfast/internal/problem"
)

// serverUser is who runs PostgreSQL when Holdfast is root: PostgreSQL refuses to run as root.
const serverUser = "postgres"

// owner is the system user of the server and its files.
type owner struct {
	name   string
	uid    int
	gid    int
	groups []int
	change bool // we are root, and give files and processes to the owner
}

func findOwner(database string) (owner, error) {
	if os.Geteuid() != 0 {
		groups, err := os.Getgroups()
		if err != nil {
			return owner{}, fmt.Errorf("read our own groups: %w", err)
		}
		name := strconv.Itoa(os.Geteuid())
		if u, err := user.Current(); err == nil { // a nameless user is fine until pg_ident.conf needs its name
			name = u.Username
		}
		return owner{name: name, uid: os.Geteuid(), gid: os.Getegid(), groups: groups}, nil
	}
	u, err := user.Lookup(serverUser)
	if err != nil {
		var unknown user.UnknownUserError
		if errors.As(err, &unknown) {
			return owner{}, &problem.Problem{
				Code: "database.no-user", Subject: database, Severity: problem.Critical,
				Title:   fmt.Sprintf("there is no system user %s", serverUser),
				Meaning: "Holdfast runs as root here, and PostgreSQL must not: it needs an unprivileged user of its own.",
				Remedy:  "install PostgreSQL's package, which makes it, or: useradd --system --shell /usr/sbin/nologin " + serverUser,
			}
		}
		return owner{}, fmt.Errorf("look up the user %s: %w", serverUser, err)
	}
	o := owner{name: serverUser, change: true}
	if o.uid, err = strconv.Atoi(u.Uid); err != nil {
		return owner{}, fmt.Errorf("look up the user %s: %w", serverUser, err)
	}
	if o.gid, err = strconv.Atoi(u.Gid); err != nil {
		return owner{}, fmt.Errorf("look up the user %s: %w", serverUser, err)
	}
	ids, err := u.GroupIds()
	if err != nil {
		return owner{}, fmt.Errorf("look up the groups of %s: %w", serverUser, err)
	}
	for _, id := range ids {
		if g, err := strconv.Atoi(id); err == nil {
			o.groups = append(o.groups, g)
		}
	}
	return o, nil
}

func (o owner) inGroup(gid int) bool { return gid == o.gid || slices.Contains(o.groups, gid) }

// own gives a path to the owner.
func (o owner) own(path string) error {
	if !o.change {
		return nil
	}
	if err := os.Lchown(path, o.uid, o.gid); err != nil {
		return fmt.Errorf("give %s to %s: %w", path, o.name, err)
	}
	return nil
}

// attributes make a child run as the owner, in a process group of its own.
func (o owner) attributes() *syscall.SysProcAttr {
	a := &syscall.SysProcAttr{Setpgid: true}
	if o.change {
		a.Credential = &syscall.Credential{Uid: uint32(o.uid), Gid: uint32(o.gid)}
	}
	return a
}
