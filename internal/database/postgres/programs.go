package postgres

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"holdfast/internal/problem"
)

// Major versions that pg_control, the WAL and the settings are known for.
const (
	oldestMajor = 14
	newestMajor = 18
)

// programs that must be there; found together or not at all.
var programs = []string{"postgres", "initdb"}

// findBinaries gives the folder that holds the programs of a major version.
func findBinaries(database string, major int, given string) (string, error) {
	places := []string{given}
	if given == "" {
		places = []string{
			fmt.Sprintf("/usr/lib/postgresql/%d/bin", major), // Debian, Ubuntu
			fmt.Sprintf("/usr/pgsql-%d/bin", major),          // PGDG on Red Hat
			fmt.Sprintf("/usr/lib/postgresql%d/bin", major),  // SUSE, Alpine
			fmt.Sprintf("/usr/local/pgsql-%d/bin", major),    // put there by hand
		}
		if dir, err := askPgConfig(); err == nil {
			places = append(places, dir)
		}
	}
	if found, other := otherMajor(given, major); other {
		return "", &problem.Problem{
			Code: "database.other-major", Subject: database, Severity: problem.Critical,
			Title:   fmt.Sprintf("%s holds PostgreSQL %d, and the database is one of PostgreSQL %d", given, found, major),
			Meaning: fmt.Sprintf("Data of version %d cannot be run by version %d; what runs goes on with the programs that it has.", major, found),
			Remedy:  fmt.Sprintf("name a folder with another release of %d as bin_dir, or leave bin_dir out; a change of the major version is not available in this version", major),
		}
	}
	var looked []string
	for _, dir := range places {
		why := judgeBinaries(dir, major)
		if why == nil {
			return dir, nil
		}
		looked = append(looked, fmt.Sprintf("%s (%v)", dir, why))
	}
	if given == "" {
		looked = append(looked, "pg_config on PATH")
	}
	return "", &problem.Problem{
		Code: "database.no-postgres", Subject: database, Severity: problem.Critical,
		Title:   fmt.Sprintf("PostgreSQL %d was not found on this host", major),
		Meaning: "The database cannot run here. Looked at: " + strings.Join(looked, "; ") + ".",
		Remedy:  fmt.Sprintf("install it (apt install postgresql-%d, or dnf install postgresql%d-server), or name its folder in the plan as bin_dir", major, major),
	}
}

// otherMajor reports whether a folder that was named holds another major version.
func otherMajor(given string, major int) (found int, other bool) {
	if given == "" {
		return 0, false
	}
	out, err := output(filepath.Join(given, "postgres"), "--version")
	if err != nil {
		return 0, false
	}
	found, _, err = parseVersion(out)
	return found, err == nil && found != major
}

// CheckPrograms refuses a folder in which the programs of a database are not, with a *problem.Problem; "" = the usual
// places.
func CheckPrograms(database string, major int, given string) error {
	_, err := findBinaries(database, major, given)
	return err
}

func askPgConfig() (string, error) {
	path, err := exec.LookPath("pg_config")
	if err != nil {
		return "", err
	}
	out, err := output(path, "--bindir")
	return strings.TrimSpace(out), err
}

// judgeBinaries says why a folder will not do; nil = it will.
func judgeBinaries(dir string, major int) error {
	for _, name := range programs {
		info, err := os.Stat(filepath.Join(dir, name))
		if errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("no %s there", name)
		}
		if err != nil {
			return err
		}
		if info.IsDir() || info.Mode()&0o111 == 0 {
			return fmt.Errorf("%s there is no program", name)
		}
	}
	out, err := output(filepath.Join(dir, "postgres"), "--version")
	if err != nil {
		return err
	}
	found, minor, err := parseVersion(out)
	if err != nil {
		return err
	}
	if found != major {
		return fmt.Errorf("that is version %d", found)
	}
	if least := leastMinor(major); minor < least {
		return fmt.Errorf("that is %d.%d; before %d.%d a new primary may acknowledge a commit that no standby has", major, minor, major, least)
	}
	return nil
}

// leastMinor is the first release of a major version in which a server that has just started waits for its
// standbys from the first commit on (DATABASE.md, A1).
func leastMinor(major int) int {
	switch major {
	case 14:
		return 18
	case 15:
		return 13
	case 16:
		return 9
	case 17:
		return 5
	}
	return 0
}

// parseVersion reads `postgres (PostgreSQL) 15.20 (Debian ...)`; a version under development has no minor.
func parseVersion(text string) (major, minor int, err error) {
	_, rest, ok := strings.Cut(text, "(PostgreSQL) ")
	number, _, _ := strings.Cut(strings.TrimSpace(rest), " ")
	first, second, dotted := strings.Cut(number, ".")
	if !dotted { // 18beta1, 19devel
		first = strings.TrimRightFunc(first, func(r rune) bool { return r < '0' || r > '9' })
		first, _, _ = strings.Cut(first, "beta")
		first, _, _ = strings.Cut(first, "rc")
		second = "0"
	}
	major, errMajor := strconv.Atoi(first)
	minor, errMinor := strconv.Atoi(second)
	if !ok || errMajor != nil || errMinor != nil {
		return 0, 0, fmt.Errorf("%q is no version of PostgreSQL", strings.TrimSpace(text))
	}
	return major, minor, nil
}

func output(path string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, args...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("run %s: %w: %s", filepath.Base(path), err, strings.TrimSpace(stderr.String()))
	}
	return string(out), nil
}

// run carries out one PostgreSQL program as the server's user and ends its whole process group when ctx ends.
// follow sees its output as it comes; what it said last is part of the error.
func (s *Server) run(ctx context.Context, follow func(string), name string, args ...string) error {
	cmd := exec.CommandContext(ctx, filepath.Join(s.bin(), name), args...)
	cmd.SysProcAttr = s.owner.attributes()
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = 5 * time.Second
	cmd.Dir = "/"
	cmd.Env = s.environment()
	said := &tail{follow: follow}
	cmd.Stdout, cmd.Stderr = said, said
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return fmt.Errorf("run %s: %w: %s", name, err, said.last())
	}
	return nil
}

// environment is what every PostgreSQL program gets: nothing of ours leads it elsewhere.
func (s *Server) environment() []string {
	return []string{"PATH=" + s.bin() + ":/usr/bin:/bin", "LC_ALL=C", "TZ=UTC", "HOME=/nonexistent"}
}

// tail keeps the end of a program's output.
type tail struct {
	follow func(string)
	kept   []byte
}

const tailMax = 2000 // bytes of output that an error shows

func (t *tail) Write(p []byte) (int, error) {
	if t.follow != nil {
		t.follow(string(p))
	}
	t.kept = append(t.kept, p...)
	if over := len(t.kept) - tailMax; over > 0 {
		t.kept = t.kept[over:]
	}
	return len(p), nil
}

func (t *tail) last() string {
	lines := strings.FieldsFunc(string(t.kept), func(r rune) bool { return r == '\n' || r == '\r' })
	if len(lines) > 8 {
		lines = lines[len(lines)-8:]
	}
	return strings.Join(lines, "; ")
}
