// Package azuritetest starts a real Azure Blob server for tests: Azurite, which Microsoft makes for that.
package azuritetest

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/container"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/sas"

	"holdfast/internal/redact"
	"holdfast/internal/vault/attempt"
	"holdfast/internal/vault/azstore"
)

// Account is the server's one account.
const Account = "holdfasttest"

// Key lets do everything.
func Key() redact.String {
	return redact.Secret(base64.StdEncoding.EncodeToString([]byte("key of the account of the test")))
}

// Server is an Azurite with one account.
type Server struct {
	Address string // host:port
	program string
	dir     string
	cmd     *exec.Cmd
	out     bytes.Buffer
}

// Start starts a server that ends with the test. The test is skipped where Azurite is not installed, and fails there in
// CI: see [Program].
func Start(t *testing.T) *Server {
	t.Helper()
	s := &Server{program: Program(t), Address: freeAddress(t), dir: t.TempDir()}
	t.Cleanup(s.Kill)
	s.Run(t)
	return s
}

// Run starts the server again at the same address, and waits until it answers.
func (s *Server) Run(t *testing.T) {
	t.Helper()
	host, port, err := net.SplitHostPort(s.Address)
	if err != nil {
		t.Fatal(err)
	}
	s.cmd = exec.Command("node", s.program, "--blobHost", host, "--blobPort", port, "--location", s.dir, "--silent", "--disableTelemetry", "--skipApiVersionCheck")
	s.cmd.Env = append(os.Environ(), "AZURITE_ACCOUNTS="+Account+":"+Key().Reveal())
	s.cmd.Stdout, s.cmd.Stderr = &s.out, &s.out
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := s.cmd.Start(); err != nil {
		t.Fatalf("start Azurite: %v", err)
	}
	for end := time.Now().Add(2 * time.Minute); ; {
		if c, err := net.DialTimeout("tcp", s.Address, time.Second); err == nil {
			_ = c.Close()
			return
		}
		if time.Now().After(end) {
			t.Fatalf("Azurite does not answer at %s", s.Address)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// Kill ends the server at once.
func (s *Server) Kill() {
	if s.cmd != nil {
		_ = s.cmd.Process.Kill()
		_ = s.cmd.Wait() // killed: the status says nothing
		s.cmd = nil
	}
}

// Container makes a container.
func (s *Server) Container(t *testing.T, name string) {
	t.Helper()
	if _, err := s.client(t, name).Create(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
}

// SAS makes a signature that allows whoever has it what the letters say: read, list, create, write, delete.
func (s *Server) SAS(t *testing.T, name, rights string) redact.String {
	t.Helper()
	has := func(letter string) bool { return strings.Contains(rights, letter) }
	p := sas.ContainerPermissions{Read: has("r"), List: has("l"), Create: has("c"), Write: has("w"), Delete: has("d")}
	u, err := s.client(t, name).GetSASURL(p, time.Now().Add(24*time.Hour), &container.GetSASURLOptions{})
	if err != nil {
		t.Fatal(err)
	}
	_, query, _ := strings.Cut(u, "?")
	return redact.Secret(query)
}

func (s *Server) client(t *testing.T, name string) *container.Client {
	t.Helper()
	cred, err := container.NewSharedKeyCredential(Account, Key().Reveal())
	if err != nil {
		t.Fatal(err)
	}
	c, err := container.NewClientWithSharedKeyCredential("http://"+s.Address+"/"+Account+"/"+name, cred, nil)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// Config reaches a prefix of a container with the account's key, and little patience.
func (s *Server) Config(name, prefix string) azstore.Config {
	return azstore.Config{
		URL: "azblob://" + Account + "/" + name + "/" + prefix, Endpoint: "http://" + s.Address, Write: azstore.Access{Key: Key()},
		Patience: attempt.Patience{Wait: 20 * time.Millisecond, WaitMax: time.Second},
	}
}

func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", fmt.Sprintf("127.84.4.%d:0", os.Getpid()%250+1)) // where no other process of tests looks for one
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }() // the server takes its place
	return l.Addr().String()
}

// version of Azurite; scripts/azurite.d has the same, with the hashes of all its parts.
const version = "3.37.0"

// Program gives the path of Azurite's program, which scripts/setup installs. Without it the test is skipped, but in CI
// it fails.
func Program(t *testing.T) string {
	t.Helper()
	skip := t.Skipf
	if os.Getenv("CI") != "" {
		skip = t.Fatalf
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		skip("no place to keep Azurite: %v", err)
	}
	main := filepath.Join(cache, "holdfast-test", "azurite-"+version, "node_modules", "azurite", "dist", "src", "blob", "main.js")
	if _, err := os.Stat(main); err != nil {
		skip("Azurite is not installed: run scripts/azurite (or scripts/setup): %v", err)
	}
	if _, err := exec.LookPath("node"); err != nil {
		skip("Azurite needs node: %v", err)
	}
	return main
}
