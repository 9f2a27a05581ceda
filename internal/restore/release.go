package restore

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// Released is what is worth knowing of a released directory before a server starts on it.
type Released struct {
	Holdfasts bool   // its access rules are those that Holdfast wrote on the original's host
	Missing   string // a file without which it could not speak TLS, which is off therefore; "" = TLS is as it was
}

// Release takes what keeps a restored server away from the world out of its data directory, so that a server on it
// listens and archives as its configuration says. It stays a server of its own: it waits for no standby and
// follows nobody. The server must not run, and its recovery must be over.
func Release(dir string) (Released, error) {
	if _, err := os.Stat(filepath.Join(dir, markerFile)); err == nil {
		return Released{}, fmt.Errorf("release %s: the restore there was not finished", dir)
	}
	if _, err := os.Stat(filepath.Join(dir, "recovery.signal")); err == nil {
		return Released{}, fmt.Errorf("release %s: its recovery is not over (recovery.signal is there)", dir)
	}
	if _, err := os.Stat(filepath.Join(dir, "postmaster.pid")); err == nil {
		return Released{}, fmt.Errorf("release %s: a server runs on it, or was killed there (postmaster.pid is there)", dir)
	}
	var text [3]string
	for i, name := range []string{"postgresql.conf", autoConf, "pg_hba.conf"} {
		raw, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return Released{}, fmt.Errorf("release %s: %w", dir, err)
		}
		text[i] = string(raw)
	}
	out := Released{Holdfasts: strings.HasPrefix(text[2], writtenByHoldfast)}
	conf, auto := settingsIn(text[0]), settingsIn(withoutBlock(text[1]))
	set := alone()
	if own, ok := auto[readOnly]; ok && own == "on" && strings.HasPrefix(text[1], writtenByHoldfast) {
		// That was for the full disk of the original's host; what the plan says stands in postgresql.conf.
		set = append(set, setting{readOnly, onOff(conf[readOnly] == "on")})
	}
	for name, value := range auto {
		conf[name] = value
	}
	if out.Missing = missingForTLS(dir, conf); out.Missing != "" {
		set = append(set, setting{"ssl", "off"})
	}
	return out, writeBlock(dir, set)
}

// writtenByHoldfast begins each file of settings that the agent writes into a server's data directory.
const writtenByHoldfast = "# Written by Holdfast"

const readOnly = "default_transaction_read_only"

// alone are the settings of a server that belongs to no group of servers any more: left as they were, its commits
// would wait for standbys that it does not have, and it would know where its original's primary is.
func alone() []setting {
	return []setting{{"synchronous_standby_names", ""}, {"primary_conninfo", ""}, {"primary_slot_name", ""}}
}

// missingForTLS is the first file that a server needs for TLS and that is not there; "" = none, or it speaks no TLS. The
// certificates of a Holdfast database lie outside its data directory, on the host that had it: no backup holds them.
func missingForTLS(dir string, conf map[string]string) string {
	if on := strings.ToLower(conf["ssl"]); on == "" || on == "0" || strings.HasPrefix("off", on) || strings.HasPrefix("false", on) || strings.HasPrefix("no", on) {
		return ""
	}
	for _, f := range []struct{ name, usual string }{{"ssl_cert_file", "server.crt"}, {"ssl_key_file", "server.key"}, {"ssl_ca_file", ""}, {"ssl_crl_file", ""}} {
		p, ok := conf[f.name]
		if !ok {
			p = f.usual
		}
		if p == "" {
			continue
		}
		if !filepath.IsAbs(p) {
			p = filepath.Join(dir, p)
		}
		if _, err := os.Stat(p); errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
			return p
		}
	}
	return ""
}

// settingsIn reads a file of settings (PostgreSQL manual, "Parameter Interaction via the Configuration File"): the last of
// equal names counts. What it includes is not followed: nothing that Holdfast writes includes anything.
func settingsIn(text string) map[string]string {
	out := map[string]string{}
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		end := strings.IndexAny(line, " \t=")
		if end <= 0 {
			continue
		}
		value := strings.TrimSpace(line[end:])
		value = strings.TrimSpace(strings.TrimPrefix(value, "="))
		out[strings.ToLower(line[:end])] = settingValue(value)
	}
	return out
}

// settingValue is a value without its quotes, and without a comment behind it.
func settingValue(s string) string {
	if !strings.HasPrefix(s, "'") {
		if end := strings.IndexAny(s, " \t#"); end >= 0 {
			s = s[:end]
		}
		return s
	}
	var b strings.Builder
	for i := 1; i < len(s); i++ {
		switch {
		case s[i] == '\'' && i+1 < len(s) && s[i+1] == '\'', s[i] == '\\' && i+1 < len(s):
			i++
		case s[i] == '\'':
			return b.String()
		}
		b.WriteByte(s[i])
	}
	return b.String()
}
