package restore

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// The block that a restore adds to postgresql.auto.conf, where the last word on a setting wins.
const (
	blockBegin = "# holdfast restore: begin. A restored server stays to itself until this block is removed (holdfast restore release DIR).\n"
	blockEnd   = "# holdfast restore: end\n"
	autoConf   = "postgresql.auto.conf"
)

type setting struct{ name, value string }

// isolation keeps a restored server from touching the world its original lives in.
func isolation() []setting {
	return []setting{
		{"listen_addresses", ""},
		{"archive_mode", "off"},
		{"archive_command", ""},
		{"primary_conninfo", ""},
		{"primary_slot_name", ""},
		{"synchronous_standby_names", ""},
		{"max_logical_replication_workers", "0"}, // a subscription would take its original's place at the publisher
		{"ssl", "off"},
		{"cluster_name", "restored"},
	}
}

// recovery leads the server to the target and no further.
func recovery(c Choice, action Action, fetch string) []setting {
	if fetch == "" {
		fetch = "false" // everything needed lies in pg_wal; the server insists on a command
	}
	s := []setting{
		{"restore_command", fetch},
		{"recovery_target_timeline", fmt.Sprint(c.Timeline)},
		{"recovery_target_action", string(action)},
		{"recovery_target_inclusive", onOff(!c.Target.Exclusive)},
		{"recovery_end_command", ""},
		{"archive_cleanup_command", ""},
		{"recovery_target", ""}, {"recovery_target_time", ""}, {"recovery_target_lsn", ""}, {"recovery_target_xid", ""}, {"recovery_target_name", ""},
	}
	switch c.Target.Kind {
	case AtTime:
		s = append(s, setting{"recovery_target_time", c.Target.Time.UTC().Format("2006-01-02 15:04:05.999999+00")})
	case AtLSN:
		s = append(s, setting{"recovery_target_lsn", c.Target.LSN.String()})
	case AtXID:
		s = append(s, setting{"recovery_target_xid", fmt.Sprint(c.Target.XID)})
	case Consistent:
		s = append(s, setting{"recovery_target", "immediate"})
	case AtName:
		s = append(s, setting{"recovery_target_name", c.Target.Name})
	}
	return s
}

func onOff(b bool) string {
	if b {
		return "on"
	}
	return "off"
}

// settings writes the block and the signal file, and the two files without which no server starts when the
// original kept them outside its data directory.
func (r *run) settings() error {
	if err := writeBlock(r.o.Dir, append(isolation(), recovery(r.o.Choice, r.o.Action, r.o.FetchCommand)...)); err != nil {
		return err
	}
	if err := r.own(autoConf); err != nil {
		return err
	}
	for name, content := range map[string]string{
		"recovery.signal": "",
		"postgresql.conf": "# The original's configuration lay outside its data directory.\n",
		"pg_hba.conf":     "# The original's access rules lay outside its data directory.\nlocal all all peer\n",
		"pg_ident.conf":   "",
	} {
		if _, err := r.root.Stat(name); err == nil {
			continue
		}
		err := r.write(name, 0o600, func(f *os.File) error {
			_, err := f.WriteString(content)
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// writeBlock replaces the block in a data directory's postgresql.auto.conf. An empty block is removed.
func writeBlock(dir string, settings []setting) error {
	p := filepath.Join(dir, autoConf)
	old, err := os.ReadFile(p)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	text := withoutBlock(string(old))
	if len(settings) > 0 {
		if text != "" && !strings.HasSuffix(text, "\n") {
			text += "\n"
		}
		var b strings.Builder
		for _, s := range settings {
			fmt.Fprintf(&b, "%s = '%s'\n", s.name, strings.ReplaceAll(s.value, "'", "''"))
		}
		text += blockBegin + b.String() + blockEnd
	}
	f, err := os.OpenFile(p, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("write %s: %w", p, err)
	}
	return nil
}

func withoutBlock(text string) string {
	before, rest, ok := strings.Cut(text, blockBegin)
	if !ok {
		return text
	}
	_, after, _ := strings.Cut(rest, blockEnd)
	return before + after
}
