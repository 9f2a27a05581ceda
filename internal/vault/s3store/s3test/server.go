// Package s3test starts a real S3 server for tests, and a proxy that makes it a bad one. The server is Ceph's radosgw, which many run
// as their own S3; behind it is a cluster that lives in memory, one for each process of tests. Start at [Start].
//
// Where Ceph (16, as Debian 12 has it) is not like Amazon's S3, and the tests go on with it:
//   - In a bucket of versions it takes If-None-Match and stores a further version all the same; in others it heeds the condition.
//     The driver finds that out, and asks before and compares after. [Faults].Heeds makes a server of it that heeds.
//   - To the accounts of one of its tenants it says so in each entry of a list of versions, which minio-go refuses to read. The
//     accounts here have no tenant.
package s3test

import (
	"net"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"

	"holdfast/internal/redact"
	"holdfast/internal/vault/s3store"
)

// Root is the server's own account: all buckets that the server makes are its.
func Root() s3store.Access {
	return s3store.Access{KeyID: "root-of-the-test", Secret: redact.Secret("secret-of-the-test")}
}

// Server is a radosgw with buckets and accounts of its own.
type Server struct {
	Address string // host:port
	space   space
	running *daemon // nil = it was killed
}

// Start starts a server that ends with the test. The test is skipped where Ceph is not installed, and fails there in CI.
func Start(t *testing.T) *Server {
	t.Helper()
	need(t)
	cluster, err := shared()
	if err != nil {
		t.Fatal(err)
	}
	s := &Server{}
	if s.space, err = cluster.space(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := s.space.account(t.Context(), "root", Root()); err != nil {
		t.Fatal(err)
	}
	if s.Address, err = freeAddress(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Kill)
	s.Run(t)
	return s
}

// Run starts the server again at the same address, and waits until it answers.
func (s *Server) Run(t *testing.T) {
	t.Helper()
	d, err := s.space.serve(s.Address)
	if err != nil {
		t.Fatal(err)
	}
	s.running = d
	for end := time.Now().Add(startMax); ; {
		if c, err := net.DialTimeout("tcp", s.Address, time.Second); err == nil {
			_ = c.Close()
			return
		}
		if d.hasEnded() || time.Now().After(end) {
			t.Fatalf("the S3 server does not answer at %s: %s", s.Address, d.said())
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// Kill ends the server at once, as a power cut does. What it stored stays.
func (s *Server) Kill() {
	if s.running != nil {
		s.running.kill()
		s.running = nil
	}
}

// Config reaches a prefix of a bucket with the server's own account, and little patience.
func (s *Server) Config(bucket, prefix string) s3store.Config {
	return s3store.Config{
		URL: "s3://" + bucket + "/" + prefix, Endpoint: "http://" + s.Address, Write: Root(),
		Patience: s3store.Patience{Wait: 20 * time.Millisecond, WaitMax: time.Second},
	}
}

func (s *Server) client() (*minio.Client, error) { return client(s.Address, Root()) }

func client(address string, as s3store.Access) (*minio.Client, error) {
	return minio.New(address, &minio.Options{Creds: credentials.NewStaticV4(as.KeyID, as.Secret.Reveal(), ""), Region: "us-east-1", BucketLookup: minio.BucketLookupPath})
}
