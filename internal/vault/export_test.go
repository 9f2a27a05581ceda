package vault

import "time"

// WithFormatKept makes a vault look at its repository's format again after so long, where kopia takes a quarter of an hour.
func (c Config) WithFormatKept(d time.Duration) Config {
	c.formatKept = d
	return c
}
