// Package s3store keeps blobs as objects of one bucket, below a prefix, in any store that speaks S3. A success is
// what the server itself confirmed: it checks the content's hash, and what was stored is looked up again. Start at
// [Open].
package s3store

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"

	"holdfast/internal/clock"
	"holdfast/internal/redact"
	"holdfast/internal/vault/attempt"
	"holdfast/internal/vault/store"
)

// Access is one pair of credentials.
type Access struct {
	KeyID  string
	Secret redact.String
}

// Addressing says where in a request the bucket's name stands.
type Addressing string

// The zero value chooses by the endpoint: Amazon's by host name, all others by path.
const (
	ByPath Addressing = "path" // https://endpoint/bucket/key
	ByHost Addressing = "host" // https://bucket.endpoint/key
)

// Config says which bucket, and how it is reached.
type Config struct {
	URL        string // s3://bucket/prefix; the prefix may be missing
	Endpoint   string // http(s)://host[:port]; "" = Amazon's
	Region     string // "" = us-east-1 at an endpoint, and looked up at Amazon
	Addressing Addressing
	CA         []byte // PEM of authorities that may sign the endpoint's certificate; nil = the system's

	Write  Access // needs to put and, without Read, to list and get
	Read   Access // zero = Write
	Delete Access // zero = Write

	Lock  time.Duration          // objects that Locks names cannot be deleted by anybody for so long; 0 = no lock
	Locks func(name string) bool // nil = none

	Patience Patience
	Clock    clock.Clock // nil = the real one
}

// Patience bounds how long one call may take. Zero fields mean the defaults.
type Patience = attempt.Patience

// Store is one bucket below one prefix.
type Store struct {
	bucket, prefix      string // the prefix is empty or ends in a slash
	endpoint            string // as messages name it
	write, read, remove minio.Core
	transport           *http.Transport // of all three
	lock                time.Duration
	locks               func(string) bool
	patience            attempt.Patience
	clock               clock.Clock

	mu          sync.Mutex
	conditional *bool // nil = not tried yet; see [Store.conditionally]
}

var address = regexp.MustCompile(`^s3://([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])(?:/(.*))?$`)

// Split takes an address apart. The prefix has no slash at its end.
func Split(text string) (bucket, prefix string, err error) {
	m := address.FindStringSubmatch(text)
	if m == nil {
		return "", "", fmt.Errorf("read vault address %q: not s3://bucket/prefix", text)
	}
	prefix = strings.TrimSuffix(m[2], "/")
	if prefix != "" && !fs.ValidPath(prefix) {
		return "", "", fmt.Errorf("read vault address %q: %q is not a clean prefix", text, prefix)
	}
	return m[1], prefix, nil
}

// Open reaches the bucket and sees that it can be read. Nothing is written. store.ErrNoPlace: there is no such bucket;
// store.ErrDenied: the credentials do not do. A lock on a bucket that cannot lock is refused as [ErrNoLock].
func Open(ctx context.Context, cfg Config) (*Store, error) {
	bucket, prefix, err := Split(cfg.URL)
	if err != nil {
		return nil, err
	}
	if prefix != "" {
		prefix += "/"
	}
	s := &Store{bucket: bucket, prefix: prefix, lock: cfg.Lock, locks: cfg.Locks, patience: cfg.Patience.OrDefaults(), clock: cfg.Clock}
	if s.clock == nil {
		s.clock = clock.Real()
	}
	if err := s.connect(cfg); err != nil {
		return nil, fmt.Errorf("open bucket %s: %w", bucket, err)
	}
	if err := s.look(ctx); err != nil {
		return nil, err
	}
	if s.lock > 0 {
		if err := s.lockable(ctx); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// connect makes the clients; no request is sent.
func (s *Store) connect(cfg Config) error {
	switch {
	case cfg.Write == Access{}:
		return errors.New("no credentials are given")
	case cfg.Lock < 0:
		return fmt.Errorf("a lock of %s is none", cfg.Lock)
	}
	endpoint := cfg.Endpoint
	if endpoint == "" {
		endpoint = "https://s3.amazonaws.com"
	} else if cfg.Region == "" {
		cfg.Region = "us-east-1"
	}
	u, err := url.Parse(endpoint)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.User != nil || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" {
		return errors.New("its endpoint is not http(s)://host:port")
	}
	s.endpoint = u.Host
	if s.transport, err = transportTo(u, cfg.CA); err != nil {
		return err
	}
	for _, c := range []struct {
		into   *minio.Core
		access Access
	}{{&s.write, cfg.Write}, {&s.read, cfg.Read}, {&s.remove, cfg.Delete}} {
		access := c.access
		if access == (Access{}) {
			access = cfg.Write
		}
		core, err := minio.NewCore(u.Host, &minio.Options{
			Creds:  credentials.NewStaticV4(access.KeyID, access.Secret.Reveal(), ""),
			Secure: u.Scheme == "https", Transport: s.transport, Region: cfg.Region, BucketLookup: lookup(cfg.Addressing),
			MaxRetries: 1, // retried here, where it is known what may be repeated and what a repeat means
		})
		if err != nil {
			return err
		}
		*c.into = *core
	}
	return nil
}

func lookup(a Addressing) minio.BucketLookupType {
	switch a {
	case ByPath:
		return minio.BucketLookupPath
	case ByHost:
		return minio.BucketLookupDNS
	}
	return minio.BucketLookupAuto
}

// transportTo is one set of connections for all three clients of a store.
func transportTo(u *url.URL, ca []byte) (*http.Transport, error) {
	t, err := minio.DefaultTransport(u.Scheme == "https")
	if err != nil {
		return nil, err
	}
	if ca != nil && u.Scheme == "https" {
		pool := x509.NewCertPool()
		if !pool.AppendCertsFromPEM(ca) {
			return nil, errors.New("its CA file holds no certificate in PEM form")
		}
		t.TLSClientConfig = &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: pool}
	}
	return t, nil
}

// Address implements [store.Store].
func (s *Store) Address() string {
	return "s3://" + s.bucket + "/" + s.prefix + " at " + s.endpoint
}

// Close lets go of the connections that are kept for the next request.
func (s *Store) Close() {
	s.transport.CloseIdleConnections()
}

// look lists one object: unlike a look at the bucket itself, a refusal says why.
func (s *Store) look(ctx context.Context) error {
	return s.try(ctx, "open", func(ctx context.Context) error {
		ctx, done := context.WithTimeoutCause(ctx, s.patience.Silence, attempt.ErrSlow)
		defer done()
		for o := range s.read.ListObjectsIter(ctx, s.bucket, minio.ListObjectsOptions{Prefix: s.prefix, MaxKeys: 1}) {
			return o.Err
		}
		return nil
	})
}

// ErrNoLock is returned when a lock is asked for in a bucket that was made without object lock.
var ErrNoLock = errors.New("the bucket was made without object lock")

func (s *Store) lockable(ctx context.Context) error {
	return s.try(ctx, "read the lock settings", func(ctx context.Context) error {
		ctx, done := context.WithTimeoutCause(ctx, s.patience.Silence, attempt.ErrSlow)
		defer done()
		state, _, _, _, err := s.write.GetObjectLockConfig(ctx, s.bucket)
		if r := minio.ToErrorResponse(err); r.Code == "ObjectLockConfigurationNotFoundError" || r.StatusCode == http.StatusNotFound && r.Code != minio.NoSuchBucket {
			return ErrNoLock
		}
		if err == nil && state != "Enabled" {
			return ErrNoLock
		}
		return err
	})
}

// key is the object's whole name. probe and what is no clean path are refused.
func (s *Store) key(name string) (string, error) {
	if !fs.ValidPath(name) || name == "." || name == probe {
		return "", fmt.Errorf("use %q as a name in the store: not a clean relative path", name)
	}
	return s.prefix + name, nil
}

var _ store.Store = (*Store)(nil)
