package keeper

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"sync"
)

// output keeps what the child prints, in files of a bounded size and number. It never holds the child up: what
// cannot be written (a full disk) is dropped and counted.
type output struct {
	path string
	max  int64
	keep int

	f    *os.File // only the drain goroutine touches it
	size int64

	mu      sync.Mutex // guards what follows
	dropped int64
	fault   string
}

func openOutput(path string, maxBytes int64, keep int) (*output, error) {
	o := &output{path: path, max: maxBytes, keep: keep}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fmt.Errorf("open the log: %w", err)
	}
	if err := o.reopen(); err != nil {
		return nil, err
	}
	return o, nil
}

func (o *output) reopen() error {
	f, err := os.OpenFile(o.path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return fmt.Errorf("open the log: %w", err)
	}
	info, err := f.Stat()
	if err != nil {
		return errors.Join(fmt.Errorf("open the log: %w", err), f.Close())
	}
	o.f, o.size = f, info.Size()
	return nil
}

// drain copies until the last process that holds the pipe's other end has ended.
func (o *output) drain(r io.Reader) {
	buf := make([]byte, min(32<<10, o.max)) // never more than one file holds
	for {
		n, err := r.Read(buf)
		if n > 0 {
			o.write(buf[:n])
		}
		if err != nil {
			break
		}
	}
	if o.f != nil {
		_ = o.f.Close() // the child is gone; there is nobody left to tell
	}
}

func (o *output) write(b []byte) {
	if o.f == nil { // the last rotation failed half-way
		if err := o.reopen(); err != nil {
			o.drop(len(b), err)
			return
		}
	}
	if o.size > 0 && o.size+int64(len(b)) > o.max {
		if err := o.rotate(); err != nil {
			o.drop(len(b), err)
			return
		}
	}
	n, err := o.f.Write(b)
	o.size += int64(n)
	if err != nil {
		o.drop(len(b)-n, err)
	}
}

func (o *output) drop(n int, err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.dropped += int64(n)
	o.fault = err.Error()
}

// lost tells how many bytes were dropped, and why last.
func (o *output) lost() (int64, string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.dropped, o.fault
}

// rotate renames path to path.1, path.1 to path.2 and so on; what was path.keep is overwritten.
func (o *output) rotate() error {
	err := o.f.Close()
	o.f = nil
	if err != nil {
		return fmt.Errorf("rotate the log: %w", err)
	}
	for i := o.keep; i > 0; i-- {
		from := o.path
		if i > 1 {
			from += "." + strconv.Itoa(i-1)
		}
		if err := os.Rename(from, o.path+"."+strconv.Itoa(i)); err != nil && !os.IsNotExist(err) {
			return fmt.Errorf("rotate the log: %w", err)
		}
	}
	return o.reopen()
}
