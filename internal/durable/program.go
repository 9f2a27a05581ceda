package durable

import (
	"fmt"
	"io"
	"os"
	"syscall"
)

// WriteProgram makes path a program with this content, that can be started as soon as it returns. A process that somebody
// else here begins while the file is open for writing would hold it open until it has become another program, and the
// kernel starts no program that anybody may still write (ETXTBSY): so none begins meanwhile. It is not synced.
func WriteProgram(path string, content io.Reader) error {
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o755)
	if err != nil {
		return fmt.Errorf("write the program: %w", err)
	}
	if _, err := io.Copy(f, content); err != nil {
		_ = f.Close() // what failed is told already
		return fmt.Errorf("write the program %s: %w", path, err)
	}
	if err := f.Close(); err != nil {
		return fmt.Errorf("write the program %s: %w", path, err)
	}
	return nil
}
