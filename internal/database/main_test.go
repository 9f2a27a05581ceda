package database_test

import (
	"flag"
	"fmt"
	"os"
	"testing"
)

// TestMain asks for more views than rapid draws by itself: the odd ones need some thousands. The command line
// still has the last word: -rapid.checks=100000.
func TestMain(m *testing.M) {
	if err := flag.Set("rapid.checks", "4000"); err != nil {
		fmt.Fprintln(os.Stderr, "set how many views are drawn:", err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}
