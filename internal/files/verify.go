package files

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"runtime"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"holdfast/internal/vault"
)

// VerifyOptions say which directory is held against which backup.
type VerifyOptions struct {
	Tree     *vault.Tree
	Dir      string
	Workers  int            // files read at once; 0 = two for each core, at most 8
	Progress func(Verified) // nil = nobody asks; called from one goroutine at a time
}

// Verified is what came of it.
type Verified struct {
	Names int         `json:"names"` // looked at
	Files int         `json:"files"`
	Bytes int64       `json:"bytes"` // read from the directory and compared
	Wrong vault.Names `json:"wrong,omitzero"`
}

// verifying is one comparison under way.
type verifying struct {
	o    VerifyOptions
	root *os.File

	mu    sync.Mutex // guards what follows
	out   Verified
	steps int
}

// Verify reads every file that a backup's list names from a directory, and compares each byte with what the vault has under
// the hash that the list gives. What is missing, of another kind or of other content is in Wrong; an error says that it was
// not found out. Owners, modes and times are not compared, for not everybody can restore them; what the directory has
// besides is not looked at.
func Verify(ctx context.Context, o VerifyOptions) (Verified, error) {
	if o.Workers <= 0 {
		o.Workers = min(8, 2*runtime.NumCPU())
	}
	root, err := openRoot(o.Dir)
	if err != nil {
		return Verified{}, fmt.Errorf("compare %s with backup %s: %w", o.Dir, o.Tree.Backup.ID, err)
	}
	defer func() { _ = root.Close() }() // opened for reading alone
	v := &verifying{o: o, root: root}
	if err := v.run(ctx); err != nil {
		return v.out, fmt.Errorf("compare %s with backup %s: %w", o.Dir, o.Tree.Backup.ID, o.Tree.Unreadable(err))
	}
	return v.out, nil
}

func (v *verifying) run(ctx context.Context) error {
	work := make(chan vault.Node, window)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		defer close(work)
		return v.o.Tree.Each(ctx, func(n vault.Node) error {
			if n.Path == "." {
				return nil
			}
			select {
			case work <- n:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		})
	})
	for range v.o.Workers {
		g.Go(func() error {
			ours, theirs := make([]byte, 256<<10), make([]byte, 256<<10)
			for n := range work {
				why, read, err := v.one(ctx, n, ours, theirs)
				if err != nil {
					return err
				}
				v.count(n, read, why)
			}
			return nil
		})
	}
	return g.Wait()
}

// one compares one name; why says what is wrong with it, "" = nothing.
func (v *verifying) one(ctx context.Context, n vault.Node, ours, theirs []byte) (why string, read int64, err error) {
	if err := ctx.Err(); err != nil {
		return "", 0, err
	}
	dir, name := path.Split(n.RealPath())
	at, err := openDirBelow(v.root, strings.TrimSuffix(dir, "/"))
	if err != nil {
		return "its directory cannot be entered: " + err.Error(), 0, nil
	}
	defer func() { _ = at.Close() }() // opened for reading alone
	st, err := lstatAt(at, name)
	switch {
	case errors.Is(err, unix.ENOENT):
		return "it is not there", 0, nil
	case err != nil:
		return err.Error(), 0, nil
	case vault.KindOf(st.Mode) != n.Kind:
		return "it is of another kind", 0, nil
	case n.Kind == vault.KindSymlink:
		return linkDiffers(at, name, n), 0, nil
	case n.Kind != vault.KindFile:
		return "", 0, nil
	case st.Size != n.Size:
		return fmt.Sprintf("it has %d bytes, %d were stored", st.Size, n.Size), 0, nil
	}
	f, err := openToRead(at, name, 0)
	if err != nil {
		return err.Error(), 0, nil
	}
	defer func() { _ = f.Close() }() // opened for reading alone
	return v.compare(ctx, f, n, ours, theirs)
}

func linkDiffers(at *os.File, name string, n vault.Node) string {
	to := make([]byte, 64<<10) // longer than any target may be
	got, err := unix.Readlinkat(int(at.Fd()), name, to)
	if err != nil {
		return err.Error()
	}
	if !bytes.Equal(to[:got], n.Target) {
		return "it leads elsewhere"
	}
	return ""
}

// compare reads a file and what was stored side by side. What the file's side refuses is wrong with the file; what the
// vault's side refuses is an error.
func (v *verifying) compare(ctx context.Context, f *os.File, n vault.Node, ours, theirs []byte) (why string, read int64, err error) {
	stored, err := v.o.Tree.Open(ctx, n)
	if err != nil {
		return "", 0, err
	}
	defer func() { _ = stored.Close() }() // opened for reading alone
	for read < n.Size {
		if err := ctx.Err(); err != nil {
			return "", read, err
		}
		piece := min(int64(len(theirs)), n.Size-read)
		if _, err := io.ReadFull(stored, theirs[:piece]); err != nil {
			return "", read, fmt.Errorf("read %q from the vault: %w", n.Path, err)
		}
		if _, err := io.ReadFull(f, ours[:piece]); err != nil {
			return "it cannot be read: " + err.Error(), read, nil
		}
		if !bytes.Equal(ours[:piece], theirs[:piece]) {
			return fmt.Sprintf("its content is another from byte %d on", read+differsAt(ours[:piece], theirs[:piece])), read, nil
		}
		read += piece
	}
	return "", read, nil
}

func differsAt(a, b []byte) int64 {
	for i := range a {
		if a[i] != b[i] {
			return int64(i)
		}
	}
	return int64(len(a))
}

// count adds one name.
func (v *verifying) count(n vault.Node, read int64, why string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.out.Names++
	if n.Kind == vault.KindFile {
		v.out.Files++
	}
	v.out.Bytes += read
	if why != "" {
		v.out.Wrong.Add(n.Path + ": " + why)
	}
	if v.steps++; v.o.Progress != nil && v.steps%progressStep == 0 {
		v.o.Progress(v.out) // under the lock: one at a time
	}
}
