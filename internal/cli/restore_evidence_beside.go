package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"

	"golang.org/x/sys/unix"

	"holdfast/internal/receipt"
)

// What lies beside a target may be anybody's: the default is /var/tmp. So only what this user or root has written is read there, and
// what it says is signed with a key for which nobody vouches: it is told as such.

const (
	besideMax     = 1 << 20 // bytes of one receipt
	booksMax      = 64      // books that are looked into
	besideReadMax = 512     // receipts of one chain that are read to prove it
)

// receiptsBeside reads the newest receipts that restores and drills without a plan kept below a directory, in it or in one of
// those that lie there. A chain whose receipts do not prove each other is passed over.
func receiptsBeside(ctx context.Context, dir string) ([]receipt.Receipt, error) {
	if dir == "" {
		return nil, nil
	}
	var chains []string
	for _, pattern := range []string{"*.receipt", filepath.Join("*", "*.receipt")} {
		books, err := filepath.Glob(filepath.Join(dir, pattern))
		if err != nil {
			return nil, err
		}
		books = slices.DeleteFunc(books, func(b string) bool { return !oursDir(b) })
		for _, b := range books[:min(len(books), booksMax)] {
			found, err := filepath.Glob(filepath.Join(b, "*", "*"))
			if err != nil {
				return nil, err
			}
			chains = append(chains, slices.DeleteFunc(found, func(c string) bool { return !oursDir(c) })...)
		}
	}
	var all []receipt.Receipt
	for _, c := range chains {
		if ctx.Err() != nil {
			return all, ctx.Err()
		}
		all = append(all, chainBeside(c)...)
	}
	slices.SortFunc(all, func(a, b receipt.Receipt) int { return cmp.Or(b.At.Compare(a.At), cmp.Compare(a.Name, b.Name)) })
	return all[:min(len(all), receiptsHeard)], nil
}

// chainBeside reads one chain; nothing when it is not whole, or its signatures do not fit.
func chainBeside(dir string) []receipt.Receipt {
	names, err := filepath.Glob(filepath.Join(dir, "*.json"))
	if err != nil {
		return nil
	}
	slices.Sort(names) // by their sequence
	alone := len(names) > besideReadMax
	if alone {
		names = names[len(names)-besideReadMax:]
	}
	var all []receipt.Receipt
	for _, n := range names {
		raw, err := readOurs(n)
		if err != nil {
			continue
		}
		if r, err := receipt.Read(raw); err == nil {
			all = append(all, r)
		}
	}
	if len(all) == 0 || !receipt.Verify(all, receipt.Trust{}, alone).OK {
		return nil
	}
	return all
}

// oursDir reports whether a directory, and no link to one, is this user's or root's.
func oursDir(dir string) bool {
	fi, err := os.Lstat(dir)
	return err == nil && fi.IsDir() && ours(fi)
}

func ours(fi fs.FileInfo) bool {
	st, ok := fi.Sys().(*syscall.Stat_t)
	return ok && (int(st.Uid) == os.Geteuid() || st.Uid == 0)
}

// readOurs reads a small file that this user or root has written. What was opened is what is judged: a name may lead elsewhere in
// the next moment.
func readOurs(name string) ([]byte, error) {
	f, err := os.OpenFile(name, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // only read
	fi, err := f.Stat()
	switch {
	case err != nil:
		return nil, err
	case !fi.Mode().IsRegular() || !ours(fi):
		return nil, fmt.Errorf("read %s: it is another user's, or no file", name)
	case fi.Size() > besideMax:
		return nil, fmt.Errorf("read %s: %d bytes are no receipt", name, fi.Size())
	}
	raw, err := io.ReadAll(io.LimitReader(f, besideMax+1))
	if err == nil && len(raw) > besideMax {
		err = errors.New("read " + name + ": it grows")
	}
	return raw, err
}
