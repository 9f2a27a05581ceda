package vault_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"holdfast/internal/disktest"
	"holdfast/internal/vault"
	"holdfast/internal/vault/wal"
)

// powerChild names the vault of a process that stores until its disk loses its power, and from which number on.
const powerChild = "HOLDFAST_TEST_POWER_LOSS"

const powerSegment = 1 << 20

// powerFiles are those of the n-th backup, and powerLog the n-th segment: anybody can make them again.
func powerFiles(n int) map[string][]byte {
	r := rand.New(rand.NewPCG(uint64(n), 1))
	fill := func(size int) []byte {
		b := make([]byte, size)
		for i := range b {
			b[i] = byte(r.Uint32())
		}
		return b
	}
	return map[string][]byte{"pgdata/PG_VERSION": []byte("15\n"), "pgdata/base/5/1": fill(200_000), "pgdata/global/pg_control": fill(8192)}
}

func powerLog(n int) []byte {
	content := make([]byte, powerSegment)
	copy(content, fmt.Sprintf("segment %d", n))
	return content
}

// TestWhoeverStoresUntilThePowerIsLost is no test by itself: it is the process of the next one.
func TestWhoeverStoresUntilThePowerIsLost(t *testing.T) {
	dir, from, ok := strings.Cut(os.Getenv(powerChild), "\n")
	if !ok {
		t.Skip("run by TestWhatIsToldAsStoredOutlivesALossOfPower alone")
	}
	var n int
	if _, err := fmt.Sscan(from, &n); err != nil {
		t.Fatal(err)
	}
	v, err := vault.Open(t.Context(), config(dir))
	if err != nil {
		t.Fatal(err)
	}
	log := v.Log(7, powerSegment)
	answers := bufio.NewScanner(os.Stdin)
	tell := func(what string, n int, id string) {
		fmt.Printf("stored %s %d %s\n", what, n, id)
		answers.Scan() // whoever asks may take the power first
	}
	for ; ; n++ {
		for i := range 2 {
			seg := 2*n + i
			if err := log.PutSegment(t.Context(), 1, wal.LSN(seg)<<20, powerLog(seg), time.Unix(2e9, 0)); err != nil {
				t.Fatal(err)
			}
			tell("log", seg, "-")
		}
		b := store(t, v, powerFiles(n))
		tell("backup", n, b.ID)
		if err := v.PutNote(t.Context(), vault.Note{Backup: b.ID, Kind: vault.Pin, By: "ada", At: time.Unix(3e9, 0).UTC()}); err != nil {
			t.Fatal(err)
		}
		tell("note", n, b.ID)
	}
}

// powerDisk is a file system in a file: it can lose at once what was written and not synced.
type powerDisk struct{ image, at string }

func newPowerDisk(t *testing.T) powerDisk {
	t.Helper()
	d := powerDisk{filepath.Join(t.TempDir(), "disk"), filepath.Join(t.TempDir(), "mount")}
	disktest.NeedRoot(t)
	err := errors.Join(os.WriteFile(d.image, nil, 0o600), os.Truncate(d.image, 1<<30), os.Mkdir(d.at, 0o700))
	if err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("mkfs.ext4", "-q", "-m", "0", d.image).CombinedOutput(); err != nil {
		disktest.Cannot(t, "no file system can be made here: %v %s", err, out)
	}
	if out, err := exec.Command("mount", "-o", "loop", d.image, d.at).CombinedOutput(); err != nil {
		disktest.Cannot(t, "no file system can be mounted here: %v %s", err, out)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(d.at, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return d
}

// losePower ends every write, and drops what has not come to the disk.
func (d powerDisk) losePower(t *testing.T) {
	t.Helper()
	const shutdown, noFlush = 0x8004587d, 2 // EXT4_IOC_SHUTDOWN and EXT4_GOING_FLAGS_NOLOGFLUSH of fs/ext4/ext4.h
	f, err := os.Open(d.at)
	if err == nil {
		err = errors.Join(unix.IoctlSetPointerInt(int(f.Fd()), shutdown, noFlush), f.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
}

func (d powerDisk) again(t *testing.T) {
	t.Helper()
	for _, args := range [][]string{{"umount", d.at}, {"mount", "-o", "loop", d.image, d.at}} {
		if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %v %s", args, err, out)
		}
	}
}

// A vault's disk loses its power again and again while it is written, at moments of chance. Whatever was told as stored is
// there and right afterwards, the vault opens, and is written on. HOLDFAST_LAB=all does it forty times.
func TestWhatIsToldAsStoredOutlivesALossOfPower(t *testing.T) {
	rounds := 1
	if os.Getenv("HOLDFAST_LAB") == "all" {
		rounds = 40
	}
	disk := newPowerDisk(t)
	dir := filepath.Join(disk.at, "vault")
	v, err := vault.Create(t.Context(), config(dir))
	if err != nil {
		t.Fatal(err)
	}
	if err := v.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	told, next := map[string]string{}, 0 // what is stored, and the backup that it belongs to
	for round := range rounds {
		next = untilThePowerIsLost(t, disk, dir, next, told)
		v, err := vault.Open(t.Context(), config(dir))
		if err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
		outlived(t, v, told)
		if s, err := v.Scrub(t.Context(), vault.ScrubOptions{}); err != nil || len(s.Damage()) > 0 {
			t.Errorf("round %d: found %+v, %v", round, s.Damage(), err)
		}
		if err := v.Close(context.Background()); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			t.Fatalf("in round %d of %d", round, rounds)
		}
	}
	t.Logf("%d things told as stored outlived %d losses of power", len(told), rounds)
}

// untilThePowerIsLost lets a process store, from the n-th backup on, until its disk is gone. It gives the next number.
func untilThePowerIsLost(t *testing.T, disk powerDisk, dir string, n int, told map[string]string) int {
	t.Helper()
	child := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestWhoeverStoresUntilThePowerIsLost$", "-test.v")
	child.Env = append(os.Environ(), fmt.Sprintf("%s=%s\n%d", powerChild, dir, n))
	out, err := child.StdoutPipe()
	var answer io.WriteCloser
	if err == nil {
		answer, err = child.StdinPipe()
	}
	if err == nil {
		err = child.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	var said []string
	seen, stopAt, cut := 0, 3+rand.N(12), false
	for lines := bufio.NewScanner(out); lines.Scan(); {
		said = append(said, lines.Text())
		var kind, id string
		var k int
		if _, err := fmt.Sscanf(lines.Text(), "stored %s %d %s", &kind, &k, &id); err != nil {
			continue
		}
		told[fmt.Sprintf("%s %d", kind, k)] = id
		if kind == "log" {
			k /= 2
		}
		n = max(n, k+1)
		seen++
		if seen != stopAt || rand.N(2) > 0 { // else the power goes before anything else is written that could help
			if _, err := answer.Write([]byte("go on\n")); err != nil && !cut {
				t.Fatal(err)
			}
		}
		if seen == stopAt {
			cut = true
			time.Sleep(rand.N(100 * time.Millisecond))
			disk.losePower(t)
			if err := child.Process.Kill(); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := child.Wait(); !cut {
		t.Fatalf("it ended before its disk was gone: %v\n%s", err, strings.Join(said, "\n"))
	}
	disk.again(t)
	return n
}

// outlived reads everything that was told as stored.
func outlived(t *testing.T, v *vault.Vault, told map[string]string) {
	t.Helper()
	ctx := t.Context()
	log := v.Log(7, powerSegment)
	notes, err := v.Notes(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for what, id := range told {
		var kind string
		var n int
		if _, err := fmt.Sscanf(what, "%s %d", &kind, &n); err != nil {
			t.Fatal(err)
		}
		switch kind {
		case "log":
			got, err := log.File(ctx, wal.SegmentName(1, wal.LSN(n)<<20, powerSegment))
			if err != nil || string(got) != string(powerLog(n)) {
				t.Errorf("segment %d, told as stored: %d bytes, %v", n, len(got), err)
			}
		case "backup":
			got, err := fetch(ctx, v, id)
			if err != nil || differ(powerFiles(n), got) != "" {
				t.Errorf("backup %d, told as stored: %v %s", n, err, differ(powerFiles(n), got))
			}
		case "note":
			found := false
			for _, note := range notes {
				found = found || note.Backup == id && note.Kind == vault.Pin
			}
			if !found {
				t.Errorf("the note on backup %d, told as stored, is gone", n)
			}
		}
	}
}
