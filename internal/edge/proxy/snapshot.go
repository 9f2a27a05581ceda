package proxy

import (
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"holdfast/internal/event"
)

// Snapshot is the whole of what an edge serves. A later one replaces it at once: there is no reload, and
// what did not change (a listener, a backend and all that runs through it) does not notice.
type Snapshot struct {
	// Cluster names where Revision counts. A revision is compared only within one, so that a cluster that was
	// rebuilt, and counts from 1 again, is obeyed.
	Cluster  string  `json:"cluster,omitempty"`
	Revision uint64  `json:"revision"`
	Routes   []Route `json:"routes"`
}

// Route leads requests for one name on one address to the instances of one service.
type Route struct {
	Service  string    `json:"service"`
	Scheme   string    `json:"scheme"`         // http, https or tcp
	Host     string    `json:"host,omitempty"` // name that clients ask for; "" = any; always "" with tcp
	Listen   string    `json:"listen"`         // addr:port
	CertFile string    `json:"cert_file,omitempty"`
	KeyFile  string    `json:"key_file,omitempty"`
	Ready    Check     `json:"ready"`
	Backends []Backend `json:"backends"`

	// SecondTryAfter is how long a request that may be repeated waits for an answer to begin before another
	// backend is asked too; the first answer wins (default 1 s).
	SecondTryAfter event.Duration `json:"second_try_after,omitempty"`
}

// Check is the active check of a route's backends.
type Check struct {
	Kind    string         `json:"kind,omitempty"`    // http (status 200 to 399 is well) or tcp (default: it accepts)
	Path    string         `json:"path,omitempty"`    // http (default /)
	Every   event.Duration `json:"every,omitempty"`   // default 2 s; 500 ms at most while anything is amiss
	Timeout event.Duration `json:"timeout,omitempty"` // default 1 s
	Fall    int            `json:"fall,omitempty"`    // default 3
	Rise    int            `json:"rise,omitempty"`    // default 2; the very first time one is enough
}

// Backend is one instance of the service. The same ID at another address is another backend.
type Backend struct {
	ID       string `json:"id"`
	Address  string `json:"address"`            // ip:port
	Draining bool   `json:"draining,omitempty"` // gets nothing new, finishes what it has
}

const (
	defaultSecondTryAfter = time.Second
	defaultEvery          = 2 * time.Second
	defaultTimeout        = time.Second
	checkFast             = 500 * time.Millisecond
)

// withDefaults is a copy of s with defaults filled in.
func (s Snapshot) withDefaults() Snapshot {
	routes := make([]Route, len(s.Routes))
	copy(routes, s.Routes)
	for i := range routes {
		r := &routes[i]
		r.Host = strings.ToLower(r.Host)
		orDefault(&r.SecondTryAfter, defaultSecondTryAfter)
		orDefault(&r.Ready.Every, defaultEvery)
		orDefault(&r.Ready.Timeout, defaultTimeout)
		if r.Ready.Kind == "" {
			r.Ready.Kind = "tcp"
		}
		if !strings.HasPrefix(r.Ready.Path, "/") {
			r.Ready.Path = "/" + r.Ready.Path
		}
	}
	s.Routes = routes
	return s
}

func orDefault(d *event.Duration, v time.Duration) {
	if *d == 0 {
		*d = event.Duration(v)
	}
}

// check finds everything that is wrong with s, defaults filled in.
func (s Snapshot) check() error {
	var errs []error
	schemes := map[string]string{} // listen -> scheme
	names := map[[2]string]string{}
	for _, r := range s.Routes {
		bad := func(format string, args ...any) {
			errs = append(errs, fmt.Errorf("route of service %s: "+format, append([]any{r.Service}, args...)...))
		}
		switch r.Scheme {
		case "http":
		case "https":
			if r.CertFile == "" || r.KeyFile == "" {
				bad("https needs cert_file and key_file")
			}
		case "tcp":
			if r.Host != "" {
				bad("tcp knows no host names, not %q", r.Host)
			}
		default:
			bad("scheme %q is not http, https or tcp", r.Scheme)
		}
		if _, _, err := net.SplitHostPort(r.Listen); err != nil {
			bad("listen: %w", err)
		}
		if other, ok := schemes[r.Listen]; ok && other != r.Scheme {
			bad("%s is %s already", r.Listen, other)
		}
		schemes[r.Listen] = r.Scheme
		if other, ok := names[[2]string{r.Listen, r.Host}]; ok {
			bad("%s for host %q belongs to service %s", r.Listen, r.Host, other)
		}
		names[[2]string{r.Listen, r.Host}] = r.Service
		if r.Ready.Kind != "http" && r.Ready.Kind != "tcp" {
			bad("check %q is not http or tcp", r.Ready.Kind)
		}
		if min(r.Ready.Every, r.Ready.Timeout, r.SecondTryAfter) < 0 || min(r.Ready.Fall, r.Ready.Rise) < 0 {
			bad("a time or count is negative")
		}
		seen := map[string]bool{}
		for _, b := range r.Backends {
			if _, _, err := net.SplitHostPort(b.Address); err != nil {
				bad("backend %s: %w", b.ID, err)
			}
			if b.ID == "" || seen[b.ID] {
				bad("backend id %q is empty or twice there", b.ID)
			}
			seen[b.ID] = true
		}
	}
	return errors.Join(errs...)
}

// StaleError refuses a snapshot because a later one is served.
type StaleError struct {
	Revision uint64 `json:"revision"`
	Served   uint64 `json:"served"`
}

func (e *StaleError) Error() string {
	return fmt.Sprintf("revision %d is behind revision %d, which is served", e.Revision, e.Served)
}
