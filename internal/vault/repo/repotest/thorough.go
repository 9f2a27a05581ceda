package repotest

import (
	"flag"
	"os"
	"strconv"
	"testing"
)

// Thorough reports whether there is time for each operation and each course of things (make lab); else some by chance must do.
func Thorough() bool { return os.Getenv("HOLDFAST_LAB") == "all" }

// FewChecks makes a property be tried n times, until the test has ended, where there is no time for more and nobody said how often.
func FewChecks(t *testing.T, n int) {
	t.Helper()
	checks := flag.Lookup("rapid.checks")
	usual := checks.Value.String()
	if usual != checks.DefValue || Thorough() {
		return
	}
	set := func(to string) {
		if err := checks.Value.Set(to); err != nil {
			t.Fatal(err)
		}
	}
	set(strconv.Itoa(n))
	t.Cleanup(func() { set(usual) })
}
