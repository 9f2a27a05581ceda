package vault

import (
	"time"

	"holdfast/internal/vault/store"
)

// In makes a vault lie in a place that is made already.
func (c Config) In(place store.Store) Config {
	c.instead = place
	return c
}

// WithFormatKept makes a vault look at its repository's format again after so long, where a quarter of an hour is usual.
func (c Config) WithFormatKept(d time.Duration) Config {
	c.formatKept = d
	return c
}

// BundleName reads the name of a bundle.
func BundleName(name string) (dir, first string, count int, ok bool) {
	b, ok := parseBundleName(name)
	return b.dir, b.first, b.count, ok
}
