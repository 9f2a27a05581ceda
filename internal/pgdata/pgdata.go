// Package pgdata is what a copy of a PostgreSQL data directory must know of the files in it: which belong to the
// running server alone, which hold relations, and whether a page carries its checksum.
package pgdata

import (
	"path"
	"regexp"
	"strconv"
	"strings"
)

// ControlFile is copied last: it must not be older than any file that recovery starts from.
const ControlFile = "global/pg_control"

// Emptied reports whether the content of a directory must not be in a copy (PostgreSQL manual, "Making a Base
// Backup Using the Low Level API"): it belongs to the running server, or recovery makes it anew.
func Emptied(dir string) bool {
	switch dir {
	case "pg_wal", "pg_replslot", "pg_dynshmem", "pg_notify", "pg_serial", "pg_snapshots", "pg_stat_tmp", "pg_subtrans":
		return true
	}
	return strings.HasPrefix(path.Base(dir), "pgsql_tmp")
}

// LeftOut reports whether a single file is left out: what the running server or Holdfast says about itself
// there, and what the copy gets by its own way.
func LeftOut(p string) bool {
	base := path.Base(p)
	switch p {
	case "postmaster.pid", "postmaster.opts", "current_logfiles", "current_logfiles.tmp", "backup_label", "backup_label.old",
		"tablespace_map", "tablespace_map.old", "backup_manifest", "postgresql.auto.conf.tmp", "recovery.signal", "standby.signal", ControlFile:
		return true
	}
	return strings.HasPrefix(base, "pg_internal.init") || strings.HasPrefix(base, "pgsql_tmp") || strings.HasPrefix(base, "holdfast.")
}

// Relation is what a relation file's name says.
type Relation struct {
	Number    string // relfilenode
	Temporary bool   // gone with its session
	Fork      string // "", _fsm, _vm, _init
	Segment   uint32 // of 1 GiB each
}

// relationName takes a relation file apart: 16384, 16384_fsm, 16384.1, 16384_vm.2, 16384_init. A temporary
// relation is t3_16384.
var relationName = regexp.MustCompile(`^(t\d+_)?(\d+)(_(?:fsm|vm|init))?(?:\.(\d+))?$`)

// Spaces is the folder of links to tablespaces, each with its number as its name.
const Spaces = "pg_tblspc"

// InSpace takes apart a path that lies in a tablespace: its number, and the path below where its link leads.
func InSpace(p string) (oid, below string, ok bool) {
	rest, ok := strings.CutPrefix(p, Spaces+"/")
	if !ok {
		return "", "", false
	}
	oid, below, ok = strings.Cut(rest, "/")
	return oid, below, ok && below != ""
}

// ParseRelation reads a path relative to the data directory; false = it is no relation file. Relations lie in
// global, base/OID and pg_tblspc/OID/VERSION/OID, and their pages carry checksums where the server has them.
func ParseRelation(p string) (Relation, bool) {
	dir := path.Dir(p)
	if dir != "global" && path.Dir(dir) != "base" && path.Dir(path.Dir(path.Dir(dir))) != Spaces {
		return Relation{}, false
	}
	m := relationName.FindStringSubmatch(path.Base(p))
	if m == nil {
		return Relation{}, false
	}
	r := Relation{Number: m[2], Temporary: m[1] != "", Fork: m[3]}
	if m[4] != "" {
		n, err := strconv.ParseUint(m[4], 10, 32)
		if err != nil {
			return Relation{}, false
		}
		r.Segment = uint32(n)
	}
	return r, true
}

// Unlogged finds the relations that have an init fork among files: a copy needs nothing else of them, for
// recovery empties each from that fork. The answer is for [DropUnlogged].
func Unlogged(files []string) map[string]bool {
	found := map[string]bool{}
	for _, p := range files {
		if r, ok := ParseRelation(p); ok && r.Fork == "_init" {
			found[path.Dir(p)+"/"+r.Number] = true
		}
	}
	return found
}

// DropUnlogged reports whether p belongs to one of these relations and is not its init fork.
func DropUnlogged(p string, unlogged map[string]bool) bool {
	r, ok := ParseRelation(p)
	return ok && r.Fork != "_init" && unlogged[path.Dir(p)+"/"+r.Number]
}
