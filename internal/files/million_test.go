package files_test

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"holdfast/internal/files"
	"holdfast/internal/vault"
)

// rssMax is what the whole process may ever take with a million small files.
const rssMax = 512 << 20

// A million small files are backed up, backed up again and restored in 512 MiB. It takes minutes: HOLDFAST_LAB=all.
func TestAMillionSmallFilesFitIntoTheMemory(t *testing.T) {
	if os.Getenv("HOLDFAST_LAB") != "all" {
		t.Skip("it takes minutes: HOLDFAST_LAB=all")
	}
	const dirs, each = 1000, 1000
	base := t.TempDir()
	if at := os.Getenv("HOLDFAST_MILLION_DIR"); at != "" { // a disk or a tmpfs with room
		base = filepath.Join(at, "holdfast-million")
		must(t, os.Mkdir(base, 0o700))
		t.Cleanup(func() { must(t, os.RemoveAll(base)) })
	}
	dir := filepath.Join(base, "set")
	for i := range dirs {
		d := filepath.Join(dir, fmt.Sprintf("practice-%04d", i))
		must(t, os.MkdirAll(d, 0o755))
		for j := range each {
			must(t, os.WriteFile(filepath.Join(d, fmt.Sprintf("letter-%06d.txt", j)), fmt.Appendf(nil, "letter %d of practice %d\n", j, i), 0o640))
		}
	}
	v := openIn(t, filepath.Join(base, "vault"))
	step := func(what string, do func()) {
		began := time.Now()
		do()
		t.Logf("%s: %s, at most %d MiB resident so far", what, time.Since(began).Round(100*time.Millisecond), peak(t)>>20)
	}
	var first, second vault.FileBackup
	step("first backup", func() { first = backUp(t, files.Options{Vault: v, Path: dir}) })
	step("nothing changed", func() { second = backUp(t, files.Options{Vault: v, Path: dir, Earlier: &first}) })
	if second.Files != dirs*each || second.Reused < dirs*each*99/100 {
		t.Errorf("%d files, %d taken over", second.Files, second.Reused)
	}
	t.Logf("stored %d MiB, then %d MiB", first.Stored>>20, second.Stored>>20)
	step("restore", func() { restoreTo(t, v, second, filepath.Join(base, "back")) })
	if got := peak(t); got > rssMax {
		t.Errorf("%d MiB were resident, at most %d may be", got>>20, rssMax>>20)
	}
}

// peak is the most memory that this process ever had resident.
func peak(t *testing.T) int64 {
	t.Helper()
	f, err := os.Open("/proc/self/status")
	must(t, err)
	defer func() { _ = f.Close() }() // opened for reading alone
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if rest, ok := strings.CutPrefix(lines.Text(), "VmHWM:"); ok {
			var kib int64
			_, err := fmt.Sscan(rest, &kib)
			must(t, err)
			return kib << 10
		}
	}
	t.Fatal("no VmHWM")
	return 0
}
