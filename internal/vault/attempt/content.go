package attempt

import (
	"crypto/md5"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"sync"

	"holdfast/internal/vault/store"
)

// Upload is content with what a server checks it by.
type Upload struct {
	Data     store.Data
	SHA, MD5 []byte
}

// Digest reads content once for its sums.
func Digest(data store.Data) (Upload, error) {
	sha, sum := sha256.New(), md5.New() // not for safety: a store that checks no SHA-256 checks this
	in := data.Reader()
	n, err := io.Copy(io.MultiWriter(sha, sum), in)
	err = errors.Join(err, in.Close())
	if err == nil && n != int64(data.Length()) {
		err = fmt.Errorf("%d bytes were announced, %d came", data.Length(), n)
	}
	if err != nil {
		return Upload{}, fmt.Errorf("read what is to be stored: %w", err)
	}
	return Upload{Data: data, SHA: sha.Sum(nil), MD5: sum.Sum(nil)}, nil
}

// Size is the content's length in bytes.
func (u Upload) Size() int64 { return int64(u.Data.Length()) }

// Body is content on its way. A server that answers early leaves an HTTP library's connection reading on behind our
// back, while the content's owner may use its memory for something else: after Close nobody reads any more.
type Body struct {
	mu    sync.Mutex // guards both, and is held while the content is read
	in    io.ReadSeekCloser
	ended bool
}

// Body begins an upload's content anew.
func (u Upload) Body() *Body { return &Body{in: u.Data.Reader()} }

var errEnded = errors.New("the request has ended")

// Read implements [io.Reader].
func (b *Body) Read(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ended {
		return 0, errEnded
	}
	return b.in.Read(p)
}

// Seek implements [io.Seeker].
func (b *Body) Seek(offset int64, whence int) (int64, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ended {
		return 0, errEnded
	}
	return b.in.Seek(offset, whence)
}

// Close implements [io.Closer].
func (b *Body) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ended {
		return nil
	}
	b.ended = true
	return b.in.Close()
}
