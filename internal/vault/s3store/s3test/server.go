// Package s3test starts a real S3 server for tests, and a proxy that makes it a bad one.
package s3test

import (
	"bytes"
	"context"
	"flag"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"

	"holdfast/internal/redact"
	"holdfast/internal/vault/s3store"
)

// Root is the server's own account.
func Root() s3store.Access {
	return s3store.Access{KeyID: "root-of-the-test", Secret: redact.Secret("secret-of-the-test")}
}

// Server is a versitygw that serves a directory: a bucket is a folder, an object a file.
type Server struct {
	Dir     string // holds the buckets' folders
	Address string // host:port
	program string
	extra   []string
	cmd     *exec.Cmd
	out     bytes.Buffer
}

// Start starts a server that ends with the test. The test is skipped where the program has not been built: see
// [Program].
func Start(t *testing.T) *Server {
	t.Helper()
	s := &Server{program: Program(t), Address: freeAddress(t)}
	dir := t.TempDir()
	s.Dir = filepath.Join(dir, "buckets")
	versions, accounts := filepath.Join(dir, "versions"), filepath.Join(dir, "accounts")
	for _, d := range []string{s.Dir, versions, accounts} {
		if err := os.Mkdir(d, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	s.extra = []string{"--iam-dir", accounts, "posix", "--versioning-dir", versions, s.Dir}
	t.Cleanup(s.Kill)
	s.Run(t)
	return s
}

// Run starts the server again at the same address, and waits until it answers.
func (s *Server) Run(t *testing.T) {
	t.Helper()
	root := Root()
	s.cmd = exec.Command(s.program, append([]string{"--port", s.Address, "--quiet"}, s.extra...)...)
	s.cmd.Env = append(os.Environ(), "ROOT_ACCESS_KEY="+root.KeyID, "ROOT_SECRET_KEY="+root.Secret.Reveal())
	s.cmd.Stdout, s.cmd.Stderr = &s.out, &s.out
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := s.cmd.Start(); err != nil {
		t.Fatalf("start %s: %v", s.program, err)
	}
	for end := time.Now().Add(time.Minute); ; {
		if c, err := net.DialTimeout("tcp", s.Address, time.Second); err == nil {
			_ = c.Close()
			return
		}
		if time.Now().After(end) {
			t.Fatalf("the S3 server does not answer at %s", s.Address)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// Kill ends the server at once, as a power cut does.
func (s *Server) Kill() {
	if s.cmd != nil {
		_ = s.cmd.Process.Kill()
		_ = s.cmd.Wait() // killed: the status says nothing
		s.cmd = nil
	}
}

// Bucket makes a bucket, with object lock or without, and gives its folder.
func (s *Server) Bucket(t *testing.T, name string, lock bool) string {
	t.Helper()
	c, err := s.client()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.MakeBucket(t.Context(), name, minio.MakeBucketOptions{ObjectLocking: lock}); err != nil {
		t.Fatal(err)
	}
	return filepath.Join(s.Dir, name)
}

// Config reaches a prefix of a bucket with the server's own account, and little patience.
func (s *Server) Config(bucket, prefix string) s3store.Config {
	return s3store.Config{
		URL: "s3://" + bucket + "/" + prefix, Endpoint: "http://" + s.Address, Write: Root(),
		Patience: s3store.Patience{Wait: 20 * time.Millisecond, WaitMax: time.Second},
	}
}

func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.84.3.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }() // the server takes its place
	return l.Addr().String()
}

// version of the server; tools/go.mod has the same, with the hashes of all its parts.
const version = "v1.8.0"

// Program gives the path of the server's program. It is built when S3 is asked for by name (go test -run S3) and
// where CI is set, which takes a minute on a small machine, and kept in the user's cache; otherwise the test is skipped where it is not there.
func Program(t *testing.T) string {
	t.Helper()
	if p := os.Getenv("HOLDFAST_VERSITYGW"); p != "" {
		return p
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Skipf("no place to keep the S3 server: %v", err)
	}
	bin := filepath.Join(cache, "holdfast-test", "versitygw-"+version)
	if _, err := os.Stat(bin); err == nil {
		return bin
	}
	f := flag.Lookup("test.run")
	if byName := f != nil && strings.Contains(f.Value.String(), "S3"); !byName && os.Getenv("CI") == "" {
		t.Skip("the S3 server is not built yet: run scripts/s3server once, or set HOLDFAST_VERSITYGW")
	}
	tree, err := exec.CommandContext(t.Context(), "go", "list", "-m", "-f", "{{.Dir}}", "holdfast").Output()
	if err != nil {
		t.Fatalf("find the tree: %v", err)
	}
	cmd := exec.CommandContext(t.Context(), filepath.Join(strings.TrimSpace(string(tree)), "scripts", "s3server"))
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build the S3 server: %v\n%s", err, out)
	}
	return bin
}

// DeleteVersions deletes every version of an object with the server's own account, as a thief would.
func (s *Server) DeleteVersions(ctx context.Context, bucket, key string) error {
	c, err := s.client()
	if err != nil {
		return err
	}
	for o := range c.ListObjectsIter(ctx, bucket, minio.ListObjectsOptions{Prefix: key, WithVersions: true, Recursive: true}) {
		if o.Err != nil {
			return o.Err
		}
		if err := c.RemoveObject(ctx, bucket, o.Key, minio.RemoveObjectOptions{VersionID: o.VersionID}); err != nil {
			return err
		}
	}
	return nil
}

// ReadOnly makes an account of the server's that may list and get what is in a bucket, and nothing else.
func (s *Server) ReadOnly(t *testing.T, bucket string) s3store.Access {
	t.Helper()
	reader, root := s3store.Access{KeyID: "reader", Secret: redact.Secret("secret-of-the-reader")}, Root()
	cmd := exec.CommandContext(t.Context(), s.program, "admin", "--access", root.KeyID, "--secret", root.Secret.Reveal(), "--endpoint-url", "http://"+s.Address,
		"create-user", "--access", reader.KeyID, "--secret", reader.Secret.Reveal(), "--role", "user")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("make an account: %v\n%s", err, out)
	}
	c, err := s.client()
	if err != nil {
		t.Fatal(err)
	}
	policy := strings.ReplaceAll(`{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":{"AWS":["reader"]},
		"Action":["s3:GetObject","s3:ListBucket"],"Resource":["arn:aws:s3:::BUCKET","arn:aws:s3:::BUCKET/*"]}]}`, "BUCKET", bucket)
	if err := c.SetBucketPolicy(t.Context(), bucket, policy); err != nil {
		t.Fatal(err)
	}
	return reader
}

func (s *Server) client() (*minio.Client, error) {
	root := Root()
	return minio.New(s.Address, &minio.Options{Creds: credentials.NewStaticV4(root.KeyID, root.Secret.Reveal(), ""), Region: "us-east-1", BucketLookup: minio.BucketLookupPath})
}
