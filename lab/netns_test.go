package lab

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// Whoever believes the faults must have seen the switch lose packets, and only those that it was told to.
func TestASwitchLosesWhatItIsToldToAndNothingElse(t *testing.T) {
	nodes := []string{"a", "b", "c"}
	n := NewNetwork(t, nodes...)
	inbox := map[string]net.PacketConn{}
	for _, node := range nodes {
		err := n.Inside(node, func() (err error) {
			inbox[node], err = net.ListenPacket("udp4", n.Address(node)+":9000")
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = inbox[node].Close() }() // the test's end frees it anyway
	}
	everyPair := func(word string) {
		t.Helper()
		for from, box := range inbox {
			for to := range inbox {
				if from == to {
					continue
				}
				if _, err := box.WriteTo([]byte(from+to+word), inbox[to].LocalAddr()); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	// arrived reads until every other node's second word is there: a first word that is not there by then was lost.
	arrived := func() string {
		t.Helper()
		var first []string
		for _, node := range nodes {
			for seconds := 0; seconds < len(nodes)-1; {
				if err := inbox[node].SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
					t.Fatal(err)
				}
				buffer := make([]byte, 100)
				k, _, err := inbox[node].ReadFrom(buffer)
				if err != nil {
					t.Fatalf("wait at %s: %v", node, err)
				}
				if pair, ok := strings.CutSuffix(string(buffer[:k]), " during"); ok {
					first = append(first, pair)
				} else {
					seconds++
				}
			}
		}
		slices.Sort(first)
		return strings.Join(first, " ")
	}
	for _, c := range []struct {
		name  string
		fault func()
		want  string
	}{
		{"a whole network loses nothing", func() {}, "ab ac ba bc ca cb"},
		{"one direction of one link", func() { n.CutOneWay("a", "b") }, "ac ba bc ca cb"},
		{"both directions of one link", func() { n.Cut("a", "b") }, "ac bc ca cb"},
		{"everything from and to one node", func() { n.Isolate("a") }, "bc cb"},
		{"everything that one node sends", func() { n.Mute("a") }, "ba bc ca cb"},
		{"everything that is sent to one node", func() { n.Deafen("a") }, "ab ac bc cb"},
		{"two faults at once", func() { n.CutOneWay("a", "b"); n.Cut("b", "c") }, "ac ba ca"},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.fault()
			everyPair(" during")
			n.Heal()
			everyPair(" after")
			if got := arrived(); got != c.want {
				t.Errorf("arrived: %s, want %s", got, c.want)
			}
		})
	}
}

// A test process that was killed leaves its namespaces, and what runs there; the next one removes them, and nobody
// else's.
func TestWhatADeadRunLeftIsRemovedAndNothingOfTheLiving(t *testing.T) {
	needNetwork(t)
	living := exec.Command("sleep", "600")
	if err := living.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = living.Process.Kill() // it only sleeps
		_ = living.Wait()
	}()
	born, err := bornAt(living.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	alive := fmt.Sprintf("hf-%d-%s-h1", living.Process.Pid, born)
	reused := fmt.Sprintf("hf-%d-%s0-h1", living.Process.Pid, born) // the number lives, the process that had it does not
	foreign := fmt.Sprintf("hf-%s-mine", born)                      // another's way of naming
	for _, space := range []string{alive, reused, foreign} {
		if err := ip("netns", "add", space); err != nil {
			t.Fatal(err)
		}
		defer func() {
			if _, err := os.Stat(filepath.Join(netnsDir, space)); err != nil {
				return // removed already
			}
			if err := ip("netns", "delete", space); err != nil {
				t.Error(err)
			}
		}()
	}
	left := exec.Command("ip", "netns", "exec", reused, "sleep", "600")
	if err := left.Start(); err != nil {
		t.Fatal(err)
	}
	for {
		pids, err := processesIn(reused)
		if err != nil {
			t.Fatal(err)
		}
		if slices.Contains(pids, left.Process.Pid) {
			break
		}
	}
	NewNetwork(t, "h1")
	if err := left.Wait(); err == nil {
		t.Error("what ran in the dead run's namespace was not killed")
	}
	for space, want := range map[string]bool{alive: true, foreign: true, reused: false} {
		if _, err := os.Stat(filepath.Join(netnsDir, space)); (err == nil) != want {
			t.Errorf("%s: there is %t, want %t", space, err == nil, want)
		}
	}
}

// bornAt must tell two processes with the same number apart, so it may not be a constant.
func TestTwoProcessesBeginAtDifferentTimes(t *testing.T) {
	own, err := bornAt(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	first, err := bornAt(1)
	if err != nil {
		t.Fatal(err)
	}
	if own == first {
		t.Errorf("this process and the first one both began at %s", own)
	}
}
