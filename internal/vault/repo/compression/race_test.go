//go:build race

package compression_test

import (
	"os"
	"os/exec"
	"strings"
	"testing"

	"holdfast/internal/vault/repo/compression"
)

// Who writes into content while it is compressed, or into packed content while it is read, is found by the race detector, though
// zstd itself is left out of it. Each race is run by another process, which fails.
func TestARaceOverContentIsFound(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for _, which := range []string{"compress", "decompress", "result"} {
		t.Run(which, func(t *testing.T) {
			cmd := exec.CommandContext(t.Context(), self, "-test.run=^TestRaces$", "-test.v")
			cmd.Env = append(os.Environ(), "HOLDFAST_TEST_RACES="+which)
			said, err := cmd.CombinedOutput()
			if err == nil || !strings.Contains(string(said), "DATA RACE") {
				t.Errorf("nothing was found: %v\n%s", err, said)
			}
		})
	}
}

// TestRaces is what another process runs for [TestARaceOverContentIsFound].
func TestRaces(t *testing.T) {
	which := os.Getenv("HOLDFAST_TEST_RACES")
	if which == "" {
		t.Skip("only in a process of its own")
	}
	c, err := compression.New()
	if err != nil {
		t.Fatal(err)
	}
	content := []byte(strings.Repeat("a page of a table, ", 1000))
	packed, err := c.Compress(nil, content)
	if err != nil {
		t.Fatal(err)
	}
	room := make([]byte, len(content))
	struck := map[string][]byte{"compress": content, "decompress": packed, "result": room}[which]
	done := make(chan struct{})
	go func() {
		defer close(done)
		struck[len(struck)/2] = 0
	}()
	switch which {
	case "compress":
		_, err = c.Compress(nil, content)
	default:
		_, err = c.Decompress(room[:0], packed, compression.Fastest, len(content))
	}
	t.Logf("the race went so: %v", err) // either is right
	<-done
}
