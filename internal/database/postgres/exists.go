package postgres

import (
	"errors"
	"io/fs"
	"os"
)

// exists reports whether a path is there; an unreadable one is an error, never "absent".
func exists(path string) (bool, error) {
	_, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}
