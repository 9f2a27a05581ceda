// Package spacetest runs a test in a network namespace of its own, for rules are a whole host's.
package spacetest

import (
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
)

const mark = "HOLDFAST_TEST_SPACE"

// Enter runs the test again, as a process in a namespace, and fails it when that one fails. It says whether this is the
// one inside, whose addresses are 10.233.0.1 to 3 and fd00:233::1 and 2. Without root the test is left out; in CI it fails.
func Enter(t *testing.T) (inside bool) {
	t.Helper()
	if os.Getenv(mark) == t.Name() {
		Run(t, "ip", "link", "set", "dev", "lo", "up")
		Run(t, "ip", "link", "add", "hf0", "type", "veth", "peer", "name", "hf1")
		for _, a := range []string{"10.233.0.1", "10.233.0.2", "10.233.0.3", "fd00:233::1", "fd00:233::2"} {
			if strings.Contains(a, ":") {
				Run(t, "ip", "address", "add", a+"/64", "dev", "hf0", "nodad")
			} else {
				Run(t, "ip", "address", "add", a+"/24", "dev", "hf0")
			}
		}
		Run(t, "ip", "link", "set", "dev", "hf0", "up")
		Run(t, "ip", "link", "set", "dev", "hf1", "up")
		return true
	}
	if os.Geteuid() != 0 {
		if os.Getenv("CI") != "" {
			t.Fatal("network namespaces need root")
		}
		t.Skip("network namespaces need root")
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v", "-test.timeout=3m")
	cmd.Env = append(os.Environ(), mark+"="+t.Name())
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "--- PASS: "+t.Name()) {
		t.Fatalf("%v\n%s", err, out)
	}
	return false
}

// Run runs a program, and returns what it said.
func Run(t *testing.T, program string, args ...string) string {
	t.Helper()
	out, err := exec.Command(program, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %v: %v: %s", program, args, err, out)
	}
	return string(out)
}
