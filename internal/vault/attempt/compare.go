package attempt

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"

	"holdfast/internal/vault/store"
)

// Compare holds what is stored under name against what was offered, all of it. What vanished meanwhile may be stored
// again.
func (u Upload) Compare(ctx context.Context, s store.Store, name string) error {
	there := sha256.New()
	size := &counted{to: there}
	err := s.Get(ctx, name, 0, -1, size)
	switch {
	case errors.Is(err, store.ErrNotFound):
		return ErrUnread
	case err != nil:
		return Final{err}
	case string(there.Sum(nil)) != string(u.SHA):
		return fmt.Errorf("%w (%d bytes there, %d offered)", store.ErrDiffers, size.n, u.Size())
	}
	return nil
}

type counted struct {
	to io.Writer
	n  int64
}

func (c *counted) Write(p []byte) (int, error) {
	n, err := c.to.Write(p)
	c.n += int64(n)
	return n, err
}
