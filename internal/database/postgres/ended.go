package postgres

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"regexp"
	"strings"
	"syscall"
	"time"

	"holdfast/internal/database"
	"holdfast/internal/keeper"
)

// wordsMax is how much of the end of a server's log is searched for its last words, in bytes.
const wordsMax = 256 << 10

// lastWords are what the server itself said of its end; nil when it was ended by somebody, or said nothing. They are
// found once for each life.
func (s *Server) lastWords(e *keeper.Exit) *database.LastWords {
	if e == nil || e.Fenced || e.KeeperLost || e.Signal == syscall.SIGKILL || !strings.HasPrefix(e.Reason, "ended by itself") {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.now.endedLife == e.Life {
		return s.now.ended
	}
	log, err := readTail(s.at.output, wordsMax)
	if err != nil {
		s.log.Warn("the server's last words cannot be read", "err", err)
		return nil
	}
	s.now.endedLife, s.now.ended = e.Life, nil
	if sign, text := wordsOf(log); sign != "" {
		s.now.ended = &database.LastWords{Life: e.Life, Sign: sign, Text: text, At: e.Ended.UTC().Format(time.RFC3339), Own: ofOwnDisk(text)}
	}
	return s.now.ended
}

// ofOwnDisk reports whether last words tell of a disk that refused, as the C library words it: read-only, or with errors. A
// full disk is another matter, for what filled it may fill the next one.
func ofOwnDisk(text string) bool {
	return strings.HasSuffix(text, ": Read-only file system") || strings.HasSuffix(text, ": Input/output error")
}

// readTail is the end of a file; one that is not there is empty.
func readTail(path string, most int64) (_ string, err error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	info, err := f.Stat()
	if err != nil {
		return "", err
	}
	from := max(0, info.Size()-most)
	b, err := io.ReadAll(io.NewSectionReader(f, from, most))
	if err != nil {
		return "", fmt.Errorf("read the end of %s: %w", path, err)
	}
	return string(b), nil
}

// The forms of PostgreSQL's own lines, as log_line_prefix makes them (settings.go). What a client wrote stands behind
// the severity, and lines that go on begin with a tab, so no statement can look like one of these.
var (
	logLine   = regexp.MustCompile(`^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d+ \S+ \[\d+\] (\S+@\S* )?([A-Z]+):  (.*)$`)
	signalled = regexp.MustCompile(`^(.+) \(PID \d+\) was terminated by signal (\d+): (.+)$`)
	failed    = regexp.MustCompile(`^(startup process|checkpointer process|WAL writer process|background writer process) \(PID \d+\) exited with exit code \d+$`)
	quotedRE  = regexp.MustCompile(`"[^"]*"`)
	numbers   = regexp.MustCompile(`[0-9A-F]*[0-9][0-9A-F]*`)
)

// wordsOf finds in a log why its last life ended: the first panic; else the crash of one of its processes, unless
// somebody killed that; else the error that a process of the server's own could not go on from. sign = "" when there is
// nothing of that kind.
func wordsOf(log string) (sign, text string) {
	if i := strings.LastIndex(log, "LOG:  starting PostgreSQL "); i >= 0 {
		log = log[i:]
	}
	fatal := ""
	for line := range strings.SplitSeq(log, "\n") {
		m := logLine.FindStringSubmatch(line)
		if m == nil {
			continue
		}
		client, severity, said := m[1] != "", m[2], m[3]
		switch {
		case severity == "PANIC":
			return signOf("PANIC: " + said), "PANIC: " + said
		case severity == "FATAL" && !client:
			fatal = "FATAL: " + said
		case severity != "LOG" || client:
		case failed.MatchString(said) && fatal != "":
			return signOf(fatal), fatal
		default:
			if x := signalled.FindStringSubmatch(said); x != nil && x[2] != "9" && x[2] != "15" && x[2] != "3" {
				text = fmt.Sprintf("%s was terminated by signal %s: %s", x[1], x[2], x[3])
				return text, text
			}
		}
	}
	return "", ""
}

// signOf is what ends of one cause have in common.
func signOf(text string) string {
	text = numbers.ReplaceAllString(quotedRE.ReplaceAllString(text, `"..."`), "#")
	const most = 200
	return text[:min(len(text), most)]
}
