// Package mount shows a backup of a file set as a directory that can be read and not written. Start at [Run].
//
// The list of the backup is kept on the local disk, enciphered, while it is shown: names and what stat(2) says of them come
// from there. Contents come from the vault when they are read, and each byte that is given is authentic. What the vault does
// not give in time is an I/O error for whoever reads, and it may be read again: nobody hangs for longer than that.
package mount

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"holdfast/internal/clock"
	"holdfast/internal/vault"
)

// reading is a file that is open in the vault.
type reading = io.ReadSeekCloser

// Options say what is shown, and where.
type Options struct {
	Tree   *vault.Tree
	Dir    string        // empty, and there
	Limit  time.Duration // for one request to the vault; 0 = 30 s
	Clock  clock.Clock   // nil = the real one
	Log    *slog.Logger  // nil = silent
	Ready  func(Shown)   // told once when the directory can be read; nil = nobody asks
	Failed func(error)   // told of the first read that fails after one that did not; nil = nobody asks
	Again  func(int)     // told of the first that succeeds again, and how many failed before it; nil = nobody asks
}

// Shown is where a backup can be read.
type Shown struct {
	Dir   string // absolute, with no symbolic link in it
	End   string // the command that unmounts it
	Names int
}

// Ended is how the showing went.
type Ended struct {
	// Busy is true when somebody still used what was shown, in the directory or at another place that it was mounted on too: the
	// directory was taken away all the same, and whoever has something open gets I/O errors from when this process ends.
	Busy   bool
	Failed int // requests that ended in an I/O error
}

const (
	limitDefault = 30 * time.Second
	// goneWait is how long a directory that is in use is waited for before it is taken away all the same.
	goneWait = 2 * time.Second
	// goneTry is how often it is tried to unmount it meanwhile.
	goneTry = 50 * time.Millisecond
)

// Run shows the backup until ctx ends or somebody unmounts the directory; then nothing of it is left.
func Run(ctx context.Context, o Options) (Ended, error) {
	if o.Clock == nil {
		o.Clock = clock.Real()
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Limit == 0 {
		o.Limit = limitDefault
	}
	dir, err := Check(o.Dir)
	if err != nil {
		return Ended{}, err
	}
	o.Dir = dir
	list, err := newSpool()
	if err != nil {
		return Ended{}, err
	}
	defer list.close()
	index, err := gather(ctx, o.Tree, list)
	if err != nil {
		return Ended{}, err
	}
	reads, end := context.WithCancel(context.WithoutCancel(ctx))
	t := &tree{
		RawFileSystem: fuse.NewDefaultRawFileSystem(), backup: o.Tree.Backup, index: index, spool: list,
		trouble: &trouble{failed: o.Failed, again: o.Again},
	}
	t.contents = newContents(reads, o.Limit, o.Clock, t.openIn(o.Tree))
	busy, err := serve(ctx, o, t)
	end()
	if !t.contents.close() {
		o.Log.WarnContext(ctx, "the vault still holds a read up", "limit", o.Limit)
	}
	return Ended{Busy: busy, Failed: t.trouble.total()}, err
}

// serve mounts, and answers until it is over. It reports whether the directory was still in use.
func serve(ctx context.Context, o Options, t *tree) (busy bool, err error) {
	opts := fuse.MountOptions{
		FsName: "holdfast:" + o.Tree.Backup.ID, Name: "holdfast", Options: []string{"ro", "noexec"}, MaxReadAhead: 1 << 20, MaxWrite: 1 << 20,
		SyncRead:    true, // a file in the vault is read on where it was read last
		DirectMount: true,
		Logger:      slog.NewLogLogger(o.Log.Handler(), slog.LevelWarn),
	}
	if root() {
		opts.Options, opts.DirectMountStrict = nil, true
		opts.DirectMountFlags = unix.MS_RDONLY | unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	}
	server, err := fuse.NewServer(t, o.Dir, &opts)
	if err != nil {
		return false, refusedMount(o.Dir, err)
	}
	over := make(chan struct{})
	go func() {
		server.Serve()
		close(over)
	}()
	err = server.WaitMount()
	if err == nil {
		if o.Ready != nil {
			o.Ready(Shown{Dir: o.Dir, End: endWith(o.Dir), Names: t.index.total()})
		}
		select {
		case <-over: // somebody unmounted it
			return false, nil
		case <-ctx.Done():
		}
	}
	busy, gone := take(o, over)
	return busy, errors.Join(err, gone)
}

func endWith(dir string) string {
	if root() {
		return "umount " + dir
	}
	return "fusermount3 -u " + dir
}

func root() bool { return os.Geteuid() == 0 }

// take unmounts, waits a little for who still uses what is shown, and then takes the directory away all the same. The server's
// own Unmount is no use: behind it, it waits without limit for every other place that the same is mounted on.
func take(o Options, over <-chan struct{}) (busy bool, err error) {
	late, again := o.Clock.NewTimer(goneWait), o.Clock.NewTimer(goneTry)
	defer late.Stop()
	defer again.Stop()
	away := unmount(o.Dir, false) == nil
	for {
		select {
		case <-over: // nobody has it any more, or somebody else unmounted it
			return false, nil
		case <-again.C():
			if !away {
				away = unmount(o.Dir, false) == nil
			}
			again.Reset(goneTry)
			continue
		case <-late.C():
		}
		if !away {
			err = unmount(o.Dir, true)
		}
		select {
		case <-over: // it was not in use any more
			return false, nil
		default:
		}
		if err != nil {
			return true, fmt.Errorf("unmount %s: %w", o.Dir, err)
		}
		return true, nil
	}
}

// unmount takes a mount out of the tree: one that nobody uses, or whoever uses it.
func unmount(dir string, whoever bool) error {
	if root() {
		flags := unix.UMOUNT_NOFOLLOW
		if whoever {
			flags |= unix.MNT_DETACH
		}
		if err := unix.Unmount(dir, flags); !errors.Is(err, unix.EINVAL) {
			return err
		}
		return nil // nothing is mounted there: somebody else unmounted it
	}
	args := []string{"-u", dir}
	if whoever {
		args = []string{"-u", "-z", dir}
	}
	var err error
	for _, program := range []string{"fusermount3", "fusermount"} {
		if _, err = exec.LookPath(program); err == nil {
			return exec.Command(program, args...).Run()
		}
	}
	return err
}

// Check says whether a backup can be shown in a directory, and gives its absolute path without symbolic links.
func Check(dir string) (string, error) {
	abs, err := filepath.Abs(dir)
	if err == nil {
		abs, err = filepath.EvalSymlinks(abs)
	}
	if err != nil {
		return "", notThere(dir, err)
	}
	found, err := os.ReadDir(abs)
	if err != nil {
		return "", notThere(abs, err)
	}
	if len(found) > 0 {
		return "", notEmpty(abs, found[0].Name())
	}
	return abs, checkDevice()
}
