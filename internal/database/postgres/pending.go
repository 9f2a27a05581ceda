package postgres

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"holdfast/internal/database"
	"holdfast/internal/pgcontrol"
)

// pendingEvery is how often a server is asked what waits for a restart, while nothing points to a change.
const pendingEvery = 2 * time.Second

// waiting is what was last learnt of settings and programs.
type waiting struct {
	at      time.Time
	key     waitingKey
	version string
	pending []database.Pending
	stands  bool

	read     time.Time // when the server had last read its settings
	unread   bool      // and its file is newer
	programs release
}

// waitingKey is what pending was learnt for: whatever of it changes has it asked again.
type waitingKey struct{ life, want, held, settings, programs string }

// release is what the programs on the disk call themselves; they are asked again when their file has changed.
type release struct {
	path    string
	size    int64
	changed time.Time
	text    string
}

// observeSettings tells which settings are not in the file yet, and what the next start would change.
func (s *Server) observeSettings(ctx context.Context, conn *pgx.Conn, l *database.Local, now memory) error {
	c, err := pgcontrol.Read(s.at.data)
	if err != nil {
		return err
	}
	file, err := os.ReadFile(staticConf(s.at.data))
	if err != nil {
		return fmt.Errorf("read the settings: %w", err)
	}
	standby := l.Role == database.Standby
	want := s.static(leastOf(c, standby))
	if want == now.refusedText {
		l.Refused = now.refused
	}
	w := &s.watch.waiting
	key := waitingKey{l.Life, want, string(file), now.settings, s.programRelease()}
	if key != w.key || w.unread || s.clock.Now().Sub(w.at) >= pendingEvery {
		read, err := s.askPending(ctx, conn, c, standby, key.programs)
		if err != nil {
			return err
		}
		s.reread(w, key, read)
		w.at, w.key = s.clock.Now(), key
	}
	l.Settings = now.settings // only here: a look that did not come so far says nothing of what waits
	l.Unapplied = want != now.refusedText && (want != key.held || w.unread)
	l.Version, l.Pending, l.Stands = w.version, w.pending, w.stands
	return nil
}

// reread judges by when the server last read its settings whether it has read the file as it is now. Who wrote the file may
// have died before the server was told; after that only a change of this moment counts, whatever clocks say.
func (s *Server) reread(w *waiting, key waitingKey, read time.Time) {
	switch {
	case key.life != w.key.life: // a process that we see for the first time
		info, err := os.Stat(staticConf(s.at.data))
		w.unread = err == nil && info.ModTime().After(read)
	case key.held != w.key.held:
		w.unread = read.Equal(w.read)
	case !read.Equal(w.read):
		w.unread = false
	}
	w.read = read
}

// setting is a row of pg_settings.
type setting struct {
	name, value string
	pending     bool
}

// askPending asks the server which settings wait for a start, and adds what it cannot know: the release on the disk,
// and settings that come down, which a standby gets only after its primary. It returns when the server last read its
// settings.
func (s *Server) askPending(ctx context.Context, conn *pgx.Conn, c pgcontrol.Control, standby bool, on string) (read time.Time, err error) {
	w := &s.watch.waiting
	var limits []string
	for _, x := range c.Limits {
		limits = append(limits, x.Name)
	}
	rows, err := conn.Query(ctx, `SELECT name, coalesce(current_setting(name, true), ''), pending_restart, pg_conf_load_time()
 FROM pg_settings WHERE pending_restart OR name = ANY($1) OR name = 'server_version' ORDER BY name`, limits)
	if err != nil {
		return read, fmt.Errorf("ask which settings wait for a restart: %w", err)
	}
	all, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (setting, error) {
		var x setting
		err := row.Scan(&x.name, &x.value, &x.pending, &read)
		return x, err
	})
	if err != nil {
		return read, fmt.Errorf("ask which settings wait for a restart: %w", err)
	}
	w.pending, w.stands = nil, false
	for _, x := range all {
		limit := 0
		if i := slices.IndexFunc(c.Limits, func(l pgcontrol.Setting) bool { return l.Name == x.name }); i >= 0 {
			limit = int(c.Limits[i].Value)
			w.stands = w.stands || standby && number(x.value) < limit
		}
		to := s.wanted(x.name, limit > 0)
		lower := limit > 0 && number(to) < limit
		if x.pending || lower && number(x.value) > number(to) {
			w.pending = append(w.pending, database.Pending{Name: x.name, From: x.value, To: to, Lower: lower})
		}
		if x.name == "server_version" {
			w.version, _, _ = strings.Cut(x.value, " ")
		}
	}
	if on != "" && w.version != "" {
		from, to := s.runsFrom(), filepath.Clean(s.bin())
		switch {
		case on != w.version:
			w.pending = append(w.pending, database.Pending{Name: database.Programs, From: w.version, To: on})
		case from != "" && from != to:
			w.pending = append(w.pending, database.Pending{Name: database.Programs, From: w.version + " of " + from, To: on + " of " + to})
		}
	}
	return read, nil
}

// runsFrom is the folder whose programs the running server was started from; "" when that cannot be learnt.
func (s *Server) runsFrom() string {
	p, err := s.postmaster()
	if err != nil || p.pid == 0 {
		return ""
	}
	line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", p.pid))
	program, _, _ := strings.Cut(string(line), "\x00")
	if err != nil || !filepath.IsAbs(program) {
		return ""
	}
	return filepath.Dir(program)
}

// wanted is what the plan, or else we, or else PostgreSQL want of a setting.
func (s *Server) wanted(name string, limit bool) string {
	all := s.planned(nil)
	if i := slices.IndexFunc(all, func(p Parameter) bool { return p.Name == name }); i >= 0 {
		return all[i].Value
	}
	if limit {
		return strconv.Itoa(builtIn(name))
	}
	return "its default"
}

// programRelease is what the programs on the disk call themselves; "" when they do not say.
func (s *Server) programRelease() string {
	p := &s.watch.waiting.programs
	path := filepath.Join(s.bin(), "postgres")
	info, err := os.Stat(path)
	if err != nil {
		return "" // being replaced, say
	}
	if path == p.path && info.Size() == p.size && info.ModTime().Equal(p.changed) {
		return p.text
	}
	out, err := output(path, "--version")
	if err != nil {
		s.log.Warn("PostgreSQL's programs do not say their release", "err", err)
		return ""
	}
	_, rest, _ := strings.Cut(out, "(PostgreSQL) ")
	text, _, _ := strings.Cut(strings.TrimSpace(rest), " ")
	*p = release{path: path, size: info.Size(), changed: info.ModTime(), text: text}
	return text
}
