package vault

import (
	"maps"
	"sync"
)

// knownPagesMax bounds what is remembered of the catalog, in bytes as they lie in the place: some hundred thousand rows.
const knownPagesMax = 16 << 20

// knownPages are pages of the catalog that were read, still sealed: they never change, and one that was merged is not listed any
// more. So a host that keeps its vault open reads of its catalog what is new.
type knownPages struct {
	mu    sync.Mutex // guards what follows
	raw   map[string][]byte
	bytes int
}

func (k *knownPages) get(name string) ([]byte, bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	raw, ok := k.raw[name]
	return raw, ok
}

// put remembers a page that is whole, where there is room.
func (k *knownPages) put(name string, raw []byte) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.raw == nil {
		k.raw = map[string][]byte{}
	}
	if k.bytes += len(raw) - len(k.raw[name]); k.bytes > knownPagesMax {
		k.bytes -= len(raw)
		delete(k.raw, name)
		return
	}
	k.raw[name] = raw
}

// keepOnly forgets every page that is not listed.
func (k *knownPages) keepOnly(listed map[string]int64) {
	k.mu.Lock()
	defer k.mu.Unlock()
	maps.DeleteFunc(k.raw, func(name string, raw []byte) bool {
		_, ok := listed[name]
		if !ok {
			k.bytes -= len(raw)
		}
		return !ok
	})
}
