package host

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"holdfast/internal/durable"
)

// diaryMax is how large a diary's file becomes, in bytes. Then it is the former one, of which there is one.
const diaryMax = 1 << 20

func diaryPath(dir string) string       { return filepath.Join(dir, "diary.jsonl") }
func formerDiaryPath(dir string) string { return filepath.Join(dir, "diary.former.jsonl") }

// diaryFile is the file that lines are added to. It is not synced: a dead agent loses nothing of it, a host without power
// may lose what it wrote last.
type diaryFile struct {
	dir  string
	f    *os.File
	size int64
	torn bool // the last line has no end
}

func openDiaryFile(dir string) (*diaryFile, error) {
	f, err := os.OpenFile(diaryPath(dir), os.O_CREATE|os.O_APPEND|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open the diary: %w", err)
	}
	out := &diaryFile{dir: dir, f: f}
	if info, err := f.Stat(); err == nil && info.Size() > 0 {
		var last [1]byte
		_, err := f.ReadAt(last[:], info.Size()-1)
		out.size, out.torn = info.Size(), err != nil || last[0] != '\n'
	}
	return out, nil
}

// add writes a line, in a new file where it would not fit into this one.
func (d *diaryFile) add(line []byte) error {
	if d.size > 0 && d.size+int64(len(line)) > diaryMax {
		if err := d.turn(); err != nil {
			return fmt.Errorf("begin a new diary: %w", err)
		}
	}
	text := make([]byte, 0, len(line)+2)
	if d.torn {
		text = append(text, '\n')
	}
	text = append(append(text, line...), '\n')
	n, err := d.f.Write(text)
	d.size += int64(n)
	d.torn = d.torn && n == 0 || n > 0 && n < len(text)
	return err
}

// turn makes the file the former one and begins an empty one. A crash between the two leaves no file of the name, which the
// next start makes.
func (d *diaryFile) turn() error {
	if err := os.Rename(diaryPath(d.dir), formerDiaryPath(d.dir)); err != nil && !errors.Is(err, fs.ErrNotExist) { // gone: turned before, and not begun
		return err
	}
	next, err := openDiaryFile(d.dir)
	if err != nil {
		return err
	}
	_ = d.f.Close() // nothing of it waits in memory
	*d = *next
	return nil
}

// cutDiary leaves of a file beyond the bound its newest lines. One of a version that ended no file would be the former one as a
// whole, until the next has filled up, perhaps for years. The first line that does not fit begins an empty file, as ever.
func cutDiary(dir string) error {
	var errs []error
	for _, path := range []string{formerDiaryPath(dir), diaryPath(dir)} {
		info, err := os.Stat(path)
		if err != nil || info.Size() <= diaryMax {
			continue // what cannot be looked at, reading says
		}
		text, err := lastLines(path, diaryMax)
		if err == nil {
			err = durable.WriteFile(path, text, 0o600)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

func (d *diaryFile) close() error { return d.f.Close() }

// readDiary gives the newest lines of the diary in dir, oldest first, with what could not be read as the error.
func readDiary(dir string) ([][]byte, error) {
	var lines [][]byte
	var errs []error
	for _, path := range []string{formerDiaryPath(dir), diaryPath(dir)} {
		text, err := lastLines(path, diaryMax)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
		for line := range bytes.SplitSeq(text, []byte{'\n'}) {
			if len(line) > 0 {
				lines = append(lines, line)
			}
		}
	}
	return lines, errors.Join(errs...)
}

// lastLines reads whole lines from the end of a file, most bytes of them.
func lastLines(path string, most int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // opened for reading alone
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	from := max(0, info.Size()-most)
	text, err := io.ReadAll(io.NewSectionReader(f, from, most))
	if from > 0 {
		_, text, _ = bytes.Cut(text, []byte{'\n'})
	}
	return text, err
}
