package lab

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A test process that was killed leaves its disks mounted, one of them perhaps frozen: the next run takes them away, and
// those of a process that lives it leaves alone.
func TestDisksOfADeadRunAreTakenAway(t *testing.T) {
	needDisks(t)
	born, err := bornAt(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp(filepath.Dir(diskMark), filepath.Base(diskMark)+"disks-")
	if err != nil {
		t.Fatal(err)
	}
	names := map[string]string{
		"alive":   fmt.Sprintf("disk-%d-%s-h1", os.Getpid(), born),
		"dead":    fmt.Sprintf("disk-%d-%s0-h2", os.Getpid(), born), // the number lives, the process that had it does not
		"foreign": "image-of-somebody",
	}
	t.Cleanup(func() {
		for at := range names {
			if there, err := mounted(filepath.Join(dir, at)); err == nil && there {
				if err := errors.Join(thaw(filepath.Join(dir, at)), command("umount", filepath.Join(dir, at))); err != nil {
					t.Error(err)
				}
			}
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	for at, name := range names {
		image, place := filepath.Join(dir, name), filepath.Join(dir, at)
		if err := errors.Join(os.WriteFile(image, nil, 0o600), os.Truncate(image, 16<<20), os.Mkdir(place, 0o755)); err != nil {
			t.Fatal(err)
		}
		if err := command("mkfs.ext4", "-q", image); err != nil {
			t.Fatal(err)
		}
		if err := command("mount", "-o", "loop", image, place); err != nil {
			t.Fatal(err)
		}
	}
	if err := command("fsfreeze", "--freeze", filepath.Join(dir, "dead")); err != nil {
		t.Fatal(err)
	}
	if err := removeDisks(); err != nil {
		t.Fatal(err)
	}
	for at := range names {
		there, err := mounted(filepath.Join(dir, at))
		if err != nil {
			t.Fatal(err)
		}
		if want := at != "dead"; there != want {
			t.Errorf("%s: mounted is %t, want %t", at, there, want)
		}
	}
	devices, err := filepath.Glob("/sys/block/loop*/loop/backing_file")
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range devices {
		if file, err := os.ReadFile(d); err == nil && strings.Contains(string(file), names["dead"]) {
			t.Errorf("%s still holds the dead run's file", d)
		}
	}
}
