package vault

import "sync"

// indexes keeps the indexes of bundles that were read last. A bundle never changes; one that was deleted is not found when
// it is read itself.
type indexes struct {
	mu    sync.Mutex // guards what follows
	known map[string]bundle
	order []string // the oldest first
}

// indexesMax is how many are kept: 256 segments each take some 20 kB.
const indexesMax = 128

func (x *indexes) get(object string) (bundle, bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	b, ok := x.known[object]
	return b, ok
}

func (x *indexes) put(b bundle) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.known == nil {
		x.known = map[string]bundle{}
	}
	if _, ok := x.known[b.object]; ok {
		return
	}
	if len(x.order) == indexesMax {
		delete(x.known, x.order[0])
		x.order = x.order[1:]
	}
	x.known[b.object], x.order = b, append(x.order, b.object)
}
