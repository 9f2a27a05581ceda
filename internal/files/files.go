// Package files backs up directories of users' files as they are, and restores them whole or in part. Start at [Backup]
// and [Restore].
//
// A backup goes through the directory once, in order, beside the list that the backup before it has left: what has the
// same inode, size and times is taken over unread, everything else is read, and read again when it changed meanwhile. What
// a kopia snapshot cannot keep (extended attributes, ACLs, hard links, holes, special files, names that are no UTF-8)
// stands in the list beside the snapshot; see docs/decisions and docs/handbook/files.md. Nothing grows with the number
// of files but what one directory's names take.
package files

import (
	"path"
	"strings"
)

// Excluded reports whether patterns leave out a path below the set. A pattern without a slash inside fits a name at any
// depth, another one the path from the set on; one that ends in a slash fits directories alone. What is in a directory
// that is left out is left out with it: the walk does not enter it.
func Excluded(patterns []string, rel string, dir bool) bool {
	for _, p := range patterns {
		body, onlyDirs := strings.CutSuffix(p, "/")
		if onlyDirs && !dir {
			continue
		}
		subject := rel
		if !strings.Contains(body, "/") {
			subject = path.Base(rel)
		}
		if ok, err := path.Match(strings.TrimPrefix(body, "/"), subject); err == nil && ok { // the plan refuses what is no pattern
			return true
		}
	}
	return false
}

// Selection is which part of a backup is meant: paths below the set, each with all that is below it. None = everything.
type Selection []string

// ParseSelection cleans paths as an operator writes them: "letters/2026/", "./letters".
func ParseSelection(paths []string) Selection {
	var s Selection
	for _, p := range paths {
		if p = strings.TrimPrefix(path.Clean("/"+p), "/"); p == "" {
			return nil
		}
		s = append(s, p)
	}
	return s
}

// Has reports whether a path is meant.
func (s Selection) Has(p string) bool {
	if len(s) == 0 {
		return true
	}
	for _, x := range s {
		if p == x || strings.HasPrefix(p, x+"/") {
			return true
		}
	}
	return false
}

// Leads reports whether a directory lies above a path that is meant.
func (s Selection) Leads(dir string) bool {
	if dir == "." {
		return true
	}
	for _, x := range s {
		if strings.HasPrefix(x, dir+"/") {
			return true
		}
	}
	return false
}
