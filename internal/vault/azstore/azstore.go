// Package azstore keeps blobs as block blobs of one container of an Azure storage account, below a prefix. A success is
// what the service itself confirmed: it checks the content's hash, and what was stored is looked up again. Start at
// [Open].
package azstore

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/url"
	"regexp"
	"strings"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/blob"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/container"

	"holdfast/internal/clock"
	"holdfast/internal/redact"
	"holdfast/internal/vault/attempt"
	"holdfast/internal/vault/store"
)

// Access is one way to be let in: an account's key, which may do everything, or a shared access signature, which says
// what it may do. One of them is set.
type Access struct {
	Key redact.String // base64, as the portal shows it
	SAS redact.String // its query, with or without the question mark
}

// Config says which container, and how it is reached.
type Config struct {
	URL      string // azblob://account/container/prefix; the prefix may be missing
	Endpoint string // http(s)://host[:port]; "" = https://account.blob.core.windows.net
	CA       []byte // PEM of authorities that may sign the endpoint's certificate; nil = the system's

	Write  Access // needs to create, write, read and list
	Read   Access // zero = Write
	Delete Access // zero = Write

	Patience attempt.Patience
	Clock    clock.Clock // nil = the real one
}

// Store is one container below one prefix.
type Store struct {
	account, container  string
	prefix              string // empty, or ends in a slash
	endpoint            string // as messages name it
	write, read, remove *container.Client
	transport           *http.Transport // of all three
	patience            attempt.Patience
	clock               clock.Clock
	pageSize            *int32 // of lists; nil = as many as the service gives
}

var address = regexp.MustCompile(`^azblob://([a-z0-9]{3,24})/([a-z0-9](?:-?[a-z0-9]){2,62})(?:/(.*))?$`)

// Split takes an address apart. The prefix has no slash at its end.
func Split(text string) (account, container, prefix string, err error) {
	m := address.FindStringSubmatch(text)
	if m == nil {
		return "", "", "", fmt.Errorf("read vault address %q: not azblob://account/container/prefix", text)
	}
	prefix = strings.TrimSuffix(m[3], "/")
	if prefix != "" && !fs.ValidPath(prefix) {
		return "", "", "", fmt.Errorf("read vault address %q: %q is not a clean prefix", text, prefix)
	}
	return m[1], m[2], prefix, nil
}

// Open reaches the container and sees that it can be read. Nothing is written. store.ErrNoPlace: there is no such
// container; store.ErrDenied: the credentials do not do.
func Open(ctx context.Context, cfg Config) (*Store, error) {
	account, name, prefix, err := Split(cfg.URL)
	if err != nil {
		return nil, err
	}
	if prefix != "" {
		prefix += "/"
	}
	s := &Store{account: account, container: name, prefix: prefix, patience: cfg.Patience.OrDefaults(), clock: cfg.Clock}
	if s.clock == nil {
		s.clock = clock.Real()
	}
	if err := s.connect(cfg); err != nil {
		return nil, fmt.Errorf("open container %s of account %s: %w", name, account, err)
	}
	if err := s.look(ctx); err != nil {
		return nil, err
	}
	return s, nil
}

// connect makes the clients; no request is sent.
func (s *Store) connect(cfg Config) error {
	if cfg.Write == (Access{}) {
		return errors.New("no credentials are given")
	}
	u, err := s.service(cfg.Endpoint)
	if err != nil {
		return err
	}
	s.endpoint = u.Host
	s.transport = http.DefaultTransport.(*http.Transport).Clone()
	s.transport.MaxIdleConnsPerHost = 16
	s.transport.DisableCompression = true // the content comes as it is stored, or not at all
	if cfg.CA != nil && u.Scheme == "https" {
		pool := x509.NewCertPool()
		if !pool.AppendCertsFromPEM(cfg.CA) {
			return errors.New("its CA file holds no certificate in PEM form")
		}
		s.transport.TLSClientConfig = &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: pool}
	}
	for _, c := range []struct {
		into   **container.Client
		access Access
	}{{&s.write, cfg.Write}, {&s.read, cfg.Read}, {&s.remove, cfg.Delete}} {
		if c.access == (Access{}) {
			c.access = cfg.Write
		}
		if *c.into, err = s.client(*u, c.access); err != nil {
			return err
		}
	}
	return nil
}

// service is where the account answers: by a host name of its own, or, at any other endpoint, by a path.
func (s *Store) service(endpoint string) (*url.URL, error) {
	if endpoint == "" {
		endpoint = "https://" + s.account + ".blob.core.windows.net"
	}
	u, err := url.Parse(endpoint)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.User != nil || u.RawQuery != "" {
		return nil, errors.New("its endpoint is not http(s)://host:port")
	}
	switch strings.Trim(u.Path, "/") {
	case "", s.account:
	default:
		return nil, errors.New("its endpoint is not http(s)://host:port")
	}
	u.Path = ""
	if !strings.HasPrefix(u.Host, s.account+".") {
		u.Path = "/" + s.account
	}
	return u, nil
}

func (s *Store) client(u url.URL, a Access) (*container.Client, error) {
	opts := &container.ClientOptions{ClientOptions: policy.ClientOptions{
		Transport: &http.Client{Transport: s.transport},
		Telemetry: policy.TelemetryOptions{Disabled: true},
		Retry:     policy.RetryOptions{MaxRetries: -1}, // retried here, where it is known what may be repeated and what a repeat means
	}}
	u.Path += "/" + s.container
	if sas := a.SAS.Reveal(); sas != "" {
		if a.Key.Reveal() != "" {
			return nil, errors.New("an account key and a shared access signature are both given")
		}
		query := strings.TrimPrefix(strings.TrimSpace(sas), "?")
		if values, err := url.ParseQuery(query); err != nil || values.Get("sig") == "" {
			return nil, errors.New("what should be a shared access signature is none") // it is not repeated: it may be one with a flaw
		}
		u.RawQuery = query
		return container.NewClientWithNoCredential(u.String(), opts)
	}
	key := strings.TrimSpace(a.Key.Reveal())
	if _, err := base64.StdEncoding.DecodeString(key); err != nil || key == "" {
		return nil, errors.New("what should be the account's key is none: it is not base64")
	}
	cred, err := container.NewSharedKeyCredential(s.account, key)
	if err != nil {
		return nil, errors.New("what should be the account's key is none")
	}
	return container.NewClientWithSharedKeyCredential(u.String(), cred, opts)
}

// Address implements [store.Store].
func (s *Store) Address() string {
	return "azblob://" + s.account + "/" + s.container + "/" + s.prefix + " at " + s.endpoint
}

// Close lets go of the connections that are kept for the next request.
func (s *Store) Close() {
	s.transport.CloseIdleConnections()
}

// look lists one blob.
func (s *Store) look(ctx context.Context) error {
	one := int32(1)
	return s.try(ctx, "open", func(ctx context.Context) error {
		_, err := s.page(ctx, &container.ListBlobsFlatOptions{Prefix: &s.prefix, MaxResults: &one})
		return err
	})
}

// key is the blob's whole name.
func (s *Store) key(name string) (string, error) {
	if !fs.ValidPath(name) || name == "." {
		return "", fmt.Errorf("use %q as a name in the store: not a clean relative path", name)
	}
	return s.prefix + name, nil
}

func md5Of(u attempt.Upload) blob.TransferValidationTypeMD5 { return u.MD5 }

var _ store.Store = (*Store)(nil)
