package vault_test

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"holdfast/internal/disktest"
	"holdfast/internal/vault"
)

// stockMount lets the stock program show an object as a directory until the test ends. The program fusermount3, which it
// would ask to mount, is not on every machine: the mount is made here, and handed to it under the name that its library
// knows for that.
func stockMount(t *testing.T, kopia, home, object string, environ []string) string {
	t.Helper()
	disktest.NeedRoot(t)
	device, err := os.OpenFile("/dev/fuse", os.O_RDWR, 0)
	if err != nil {
		disktest.Cannot(t, "nothing can be mounted here: %v", err)
	}
	defer func() { _ = device.Close() }() // the program has it then
	dir := t.TempDir()
	options := fmt.Sprintf("fd=%d,rootmode=40000,user_id=0,group_id=0", device.Fd())
	if err := unix.Mount("kopia", dir, "fuse.kopia", unix.MS_RDONLY|unix.MS_NOSUID|unix.MS_NODEV, options); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(kopia, "mount", object, "/dev/fd/3", "--config-file="+filepath.Join(home, "kopia.config"), "--log-dir="+home)
	cmd.Env, cmd.ExtraFiles = environ, []*os.File{device}
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err = cmd.Start()
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Errorf("unmount: %v", err)
		}
		if cmd.Process == nil {
			return
		}
		if err := cmd.Wait(); err != nil { // it ends when it is unmounted
			t.Errorf("kopia mount: %v\n%s", err, out.String())
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// The unmodified kopia program shows a file set and a base backup as directories; of times, whole seconds.
func TestStockProgramMountsWhatWeWrite(t *testing.T) {
	kopia := stockProgram(t)
	v, dir := create(t)
	nodes, contents := treeSample()
	b, _ := storeTree(t, v, nodes, contents)
	home := t.TempDir()
	run := stockRunner(t, kopia, dir, home)
	run("repository", "connect", "filesystem", "--path="+filepath.Join(dir, "repository"), "--cache-directory="+filepath.Join(home, "cache"))
	rootOf := func(backup string) string {
		list := run("snapshot", "list", "--all", "--json")
		_, list, _ = strings.Cut(list, backup) // its description is before its root
		_, list, ok := strings.Cut(list, `"obj":"`)
		if !ok {
			t.Fatalf("no root object of %s in\n%s", backup, list)
		}
		root, _, _ := strings.Cut(list, `"`)
		return root
	}
	environ := append(os.Environ(), "KOPIA_PASSWORD="+config(dir).Key.Reveal(), "KOPIA_CHECK_FOR_UPDATES=false", "HOME="+home, "XDG_CACHE_HOME="+home)
	shown := stockMount(t, kopia, home, rootOf(b.ID), environ)
	checkStock(t, filepath.Join(shown, vault.FilesDir), nodes, contents, time.Second)
	base := store(t, v, sample())
	if d := differ(sample(), readTree(t, stockMount(t, kopia, home, rootOf(base.ID), environ))); d != "" {
		t.Error("a base backup is shown differently by the stock program")
	}
}
