package host

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"holdfast/internal/durable"
	"holdfast/internal/plan"
)

// An empty member of etcd can begin in two ways: it founds a cluster with the others that the plan names, or it enters
// one that runs. Two machines that are new to a plan could be a majority of it, and so found a second cluster beside the
// one that runs. So the machine that issues certificates writes down once with whom the application is founded, and hands
// that list out with each certificate: only those whom it names found, and only with one another.

// FoundersFile is where the list lies, in the authority's folder and beside each certificate.
const FoundersFile = "founders.json"

// ReadFounders reads whose members found the application's cluster. fs.ErrNotExist where an earlier version issued the
// certificates.
func ReadFounders(dir string) ([]string, error) {
	var names []string
	err := readJSON(filepath.Join(dir, FoundersFile), &names)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("read who founds the cluster: %w", err)
	}
	return names, err
}

// WriteFounders writes them down. An empty list lets nobody found.
func WriteFounders(dir string, names []string) error {
	sorted := append([]string{}, names...)
	slices.Sort(sorted)
	b, err := json.Marshal(sorted)
	if err != nil {
		return err
	}
	return durable.WriteFile(filepath.Join(dir, FoundersFile), append(b, '\n'), 0o644)
}

// Founders are the hosts whose members of etcd found the cluster of a plan.
func Founders(p *plan.Plan) []string {
	var names []string
	for _, h := range p.HomeSite().EtcdHosts() {
		names = append(names, h.Name)
	}
	slices.Sort(names)
	return names
}

// Founded reports whether the host of this directory has had a member of etcd, or has reached a cluster.
func Founded(dir string) bool { return hasMember(dir) || exists(foundingFile(dir)) }

// hasMember reports whether a member of etcd was begun here, or was told to.
func hasMember(dir string) bool {
	data, marker := memberFiles(dir)
	return exists(data) || exists(marker) || exists(specFile(dir, "etcd"))
}

// exists reports whether something is there; what cannot be looked at is taken for it.
func exists(path string) bool {
	_, err := os.Lstat(path)
	return !errors.Is(err, fs.ErrNotExist)
}

// mayFound reports whether an empty member of this host may begin as one of those that found the plan's cluster.
func mayFound(dir string, p *plan.Plan) (bool, error) {
	if Founded(dir) {
		return false, nil
	}
	names, err := ReadFounders(certDir(dir))
	if errors.Is(err, fs.ErrNotExist) {
		return true, nil
	}
	return slices.Equal(names, Founders(p)), err
}

// keepsMember reports whether a member of etcd is to run here: one that was begun, one that was told to enter a cluster,
// or one that the plan gives this host and that founds.
func keepsMember(cfg Config, f founding, seated bool) (bool, error) {
	if hasMember(cfg.Dir) || f.Members[cfg.Self] != "" {
		return true, nil
	}
	if !seated {
		return false, nil
	}
	return mayFound(cfg.Dir, cfg.Plan)
}
