// Package split says where an object is cut into contents. The cuts are kopia's (repo/splitter), so that the same bytes become the
// same contents, whoever stores them.
package split

import (
	"errors"
	"fmt"
	"strings"
)

// ErrUnknown is returned for the name of a splitter that this program does not have.
var ErrUnknown = errors.New("a splitter that this program does not know")

// Splitter cuts the objects that it is given one after the other. It is used by one goroutine.
type Splitter interface {
	// Next takes up p, up to and with the byte behind which the next cut is, and says how many bytes those are, 1 to len(p);
	// -1 means that there is no cut in p, and that all of it was taken up.
	Next(p []byte) int
	// Max is how long a content becomes at most, in bytes.
	Max() int
	// Reset makes ready for another object.
	Reset()
}

// New gives a splitter by kopia's name: FIXED-<size> cuts into equal parts, DYNAMIC-<size>-BUZHASH by what the bytes are, so that what
// is put in or taken out moves the cuts near it alone. Sizes are powers of two from 128K to 8M.
func New(name string) (Splitter, error) {
	switch name { // names of old, which mean
	case "FIXED":
		name = "FIXED-4M"
	case "DYNAMIC":
		name = "DYNAMIC-4M-BUZHASH"
	}
	if size, ok := strings.CutPrefix(name, "FIXED-"); ok {
		if n := sizeBytes(size); n > 0 {
			return &fixed{size: n}, nil
		}
	}
	if size, ok := strings.CutPrefix(name, "DYNAMIC-"); ok {
		if size, ok = strings.CutSuffix(size, "-BUZHASH"); ok && sizeBytes(size) > 0 {
			return newRolling(sizeBytes(size)), nil
		}
	}
	return nil, fmt.Errorf("%w: %q", ErrUnknown, name)
}

// sizeBytes is 0 for a size that no splitter has.
func sizeBytes(s string) int {
	switch s {
	case "128K":
		return 128 << 10
	case "256K":
		return 256 << 10
	case "512K":
		return 512 << 10
	case "1M":
		return 1 << 20
	case "2M":
		return 2 << 20
	case "4M":
		return 4 << 20
	case "8M":
		return 8 << 20
	}
	return 0
}

// fixed cuts into equal parts.
type fixed struct {
	size, taken int // bytes; 0 <= taken < size
}

func (f *fixed) Next(p []byte) int {
	n := f.size - f.taken
	if len(p) < n {
		f.taken += len(p)
		return -1
	}
	f.taken = 0
	return n
}

func (f *fixed) Max() int { return f.size }
func (f *fixed) Reset()   { f.taken = 0 }
