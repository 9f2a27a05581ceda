package filestore

import (
	"io/fs"
	"path/filepath"
	"strings"
)

// A kopia repository lies in folders by the beginnings of its blobs' names, exactly as kopia's own "filesystem"
// storage lays it out, so that the stock program opens the same directory. Elsewhere a name is a path.
const (
	repositoryPrefix = "repository/"
	shardsFile       = repositoryPrefix + ".shards" // where kopia looks the layout up
	shardsText       = `{"default":[1,3],"maxNonShardedLength":20}` + "\n"
	unshardedMax     = 20 // bytes of a name that is not split
	blobSuffix       = ".f"
)

// pathOf is where a name lies below the root.
func pathOf(name string) string {
	id, ok := strings.CutPrefix(name, repositoryPrefix)
	if !ok {
		return filepath.FromSlash(name)
	}
	if len(id) > unshardedMax {
		id = id[:1] + "/" + id[1:4] + "/" + id[4:]
	}
	return filepath.FromSlash(repositoryPrefix + id + blobSuffix)
}

// nameOf is the way back. ok is false for what is no blob.
func nameOf(rel string) (name string, ok bool) {
	name = filepath.ToSlash(rel)
	if strings.Contains(name, tempMark) {
		return "", false
	}
	id, inRepository := strings.CutPrefix(name, repositoryPrefix)
	if !inRepository {
		return name, true
	}
	id, ok = strings.CutSuffix(id, blobSuffix)
	return repositoryPrefix + strings.ReplaceAll(id, "/", ""), ok
}

// mayHold reports whether a folder can hold names that begin with prefix, so that a list need not look at the rest.
func mayHold(dir, prefix string) bool {
	if dir == "." {
		return true
	}
	begins := filepath.ToSlash(dir) + "/"
	if id, ok := strings.CutPrefix(begins, repositoryPrefix); ok {
		begins = repositoryPrefix + strings.ReplaceAll(id, "/", "")
	}
	return strings.HasPrefix(begins, prefix) || strings.HasPrefix(prefix, begins)
}

// valid refuses names that would leave the root, or that the way back would not give.
func valid(name string) bool {
	return fs.ValidPath(name) && name != "." && name != trashDir && !strings.HasPrefix(name, trashDir+"/") && !strings.Contains(name, tempMark) &&
		(!strings.HasPrefix(name, repositoryPrefix) || strings.Count(name, "/") == 1)
}
