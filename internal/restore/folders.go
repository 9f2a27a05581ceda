package restore

import (
	"os"
	"path"
	"sync"
)

// foldersMax bounds how many folders are kept open.
const foldersMax = 256

// folders keeps folders open in which files are written: a database has hundreds of files in each, and to look each up from
// the top costs more than to write a small one.
type folders struct {
	mu   sync.Mutex // guards what follows
	open map[string]*os.Root
}

// at is where a path below a root lies: in a folder that is open, or below the root.
func (f *folders) at(root *os.Root, rel, below string) (*os.Root, string) {
	dir, name := path.Split(below)
	if dir == "" {
		return root, below
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	key := path.Dir(rel) // of all roots
	if in, ok := f.open[key]; ok {
		return in, name
	}
	if len(f.open) >= foldersMax {
		return root, below
	}
	in, err := root.OpenRoot(path.Clean(dir))
	if err != nil { // whoever asks meets it too, and says what it was for
		return root, below
	}
	if f.open == nil {
		f.open = map[string]*os.Root{}
	}
	f.open[key] = in
	return in, name
}

func (f *folders) close() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, in := range f.open {
		_ = in.Close() // each file was closed with its own error
	}
	f.open = nil
}
