package mount

import (
	"bufio"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
)

// spool keeps the list of a backup on the local disk for as long as it is mounted, so that looking for names needs neither
// memory nor the vault. Names tell something too: the file has no name, and its key is in memory alone.
type spool struct {
	file *os.File
	key  cipher.Block
	out  *bufio.Writer
	size int64 // bytes written
}

// spoolDir is where it lies: /tmp is memory on many machines.
func spoolDir() string {
	const wide = "/var/tmp"
	if st, err := os.Stat(wide); os.Getenv("TMPDIR") == "" && err == nil && st.IsDir() {
		return wide
	}
	return os.TempDir()
}

func newSpool() (*spool, error) {
	f, err := os.CreateTemp(spoolDir(), "holdfast-mount-*")
	if err != nil {
		return nil, fmt.Errorf("keep the list of the backup: %w", err)
	}
	if err := os.Remove(f.Name()); err != nil {
		return nil, errors.Join(fmt.Errorf("keep the list of the backup: %w", err), f.Close())
	}
	var secret [32]byte
	_, _ = rand.Read(secret[:]) // never fails (crypto/rand)
	key, err := aes.NewCipher(secret[:])
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	s := &spool{file: f, key: key}
	s.out = bufio.NewWriterSize(cipher.StreamWriter{S: s.stream(0), W: f}, 256<<10)
	return s, nil
}

// stream enciphers or deciphers what lies from an offset on. The key is used for this one file, so the counter alone is
// never used twice.
func (s *spool) stream(at int64) cipher.Stream {
	var counter [aes.BlockSize]byte
	binary.BigEndian.PutUint64(counter[8:], uint64(at/aes.BlockSize))
	c := cipher.NewCTR(s.key, counter[:])
	var before [aes.BlockSize]byte
	c.XORKeyStream(before[:at%aes.BlockSize], before[:at%aes.BlockSize])
	return c
}

func (s *spool) write(line []byte) error {
	n, err := s.out.Write(line)
	s.size += int64(n)
	if err != nil {
		return fmt.Errorf("keep the list of the backup in %s: %w", spoolDir(), err)
	}
	return nil
}

func (s *spool) flush() error {
	if err := s.out.Flush(); err != nil {
		return fmt.Errorf("keep the list of the backup in %s: %w", spoolDir(), err)
	}
	return nil
}

// read gives what lies between two offsets.
func (s *spool) read(from, to int64) ([]byte, error) {
	buf := make([]byte, to-from)
	if _, err := s.file.ReadAt(buf, from); err != nil {
		return nil, fmt.Errorf("read the list of the backup: %w", err)
	}
	s.stream(from).XORKeyStream(buf, buf)
	return buf, nil
}

func (s *spool) close() { _ = s.file.Close() } // what it held goes with it
