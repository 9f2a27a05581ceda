package postgres

import (
	"bytes"
	"fmt"
	"net/netip"
	"os"
	"os/user"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"holdfast/internal/database"
	"holdfast/internal/durable"
)

// Who writes what:
//
//   - postgresql.conf: all that stays for the life of a server process, written whole at each start.
//   - postgresql.auto.conf: the settings that change while it runs. PostgreSQL reads it last and ALTER SYSTEM
//     writes it too; Holdfast writes it whole each time, so that a hand's ALTER SYSTEM is seen
//     (Local.NamesOK) and lasts until the next write.
//   - the command line: what safety rests on, for nothing in a file beats it.

var settingName = regexp.MustCompile(`^[a-z_][a-z0-9_.]*$`)

// reserved settings are decided by Holdfast alone; see also the settings that define them below.
var reserved = []string{
	"allow_alter_system", "archive_cleanup_command", "archive_command", "archive_library", "archive_mode", "cluster_name",
	"config_file", "data_directory", "external_pid_file", "fsync", "full_page_writes", "hba_file", "hot_standby",
	"ident_file", "include", "include_dir", "include_if_exists", "listen_addresses", "log_destination", "logging_collector",
	"port", "primary_conninfo", "primary_slot_name", "promote_trigger_file", "recovery_end_command", "recovery_min_apply_delay",
	"recovery_target", "recovery_target_action", "recovery_target_inclusive", "recovery_target_lsn", "recovery_target_name",
	"recovery_target_time", "recovery_target_timeline", "recovery_target_xid", "restart_after_crash", "restore_command",
	"ssl", "ssl_ca_file", "ssl_cert_file", "ssl_crl_dir", "ssl_crl_file", "ssl_key_file", "ssl_passphrase_command",
	"synchronous_commit", "synchronous_standby_names", "unix_socket_directories", "unix_socket_group",
	"unix_socket_permissions", "update_process_title", "wal_receiver_timeout", "wal_retrieve_retry_interval",
	"wal_sender_timeout", "zero_damaged_pages", "ignore_invalid_pages", "data_sync_retry",
}

// defaults may be overridden by the plan.
func defaults() []Parameter {
	return []Parameter{
		{"wal_level", "replica"},
		{"max_connections", "100"},
		{"superuser_reserved_connections", "5"},
		{"shared_buffers", "64MB"},
		{"max_wal_senders", "20"},
		{"max_replication_slots", "20"},
		{"wal_keep_size", "256MB"},
		{"max_slot_wal_keep_size", "8GB"}, // an archive that is away must not fill the primary's disk
		{"max_wal_size", "512MB"},
		{"checkpoint_timeout", "5min"},
		{"checkpoint_completion_target", "0.9"},
		{"tcp_keepalives_idle", "5"},
		{"tcp_keepalives_interval", "2"},
		{"tcp_keepalives_count", "3"},
		{"password_encryption", "scram-sha-256"},
		{"ssl_min_protocol_version", "TLSv1.2"},
		{"log_checkpoints", "on"},
		{"log_line_prefix", "%m [%p] %q%u@%d "},
		{"max_standby_streaming_delay", "5s"},
		{"hot_standby_feedback", "off"},
	}
}

// static is postgresql.conf.
func (s *Server) static(least floor) string {
	var b strings.Builder
	b.WriteString("# Written by Holdfast; changes made here are lost. The plan's databases.NAME.parameters is the place.\n")
	set := func(name, value string) { fmt.Fprintf(&b, "%s = %s\n", name, quoteSetting(value)) }
	for _, p := range s.planned(least) {
		set(p.Name, p.Value)
	}
	set("ssl", "on")
	set("ssl_ca_file", filepath.Join(s.at.tls, caFile))
	set("ssl_cert_file", filepath.Join(s.at.tls, certFile))
	set("ssl_key_file", filepath.Join(s.at.tls, keyFile))
	set("cluster_name", s.cfg.Database)
	set("wal_sender_timeout", "5s")
	set("wal_receiver_timeout", "5s")
	set("wal_receiver_status_interval", "1s")
	set("wal_retrieve_retry_interval", "100ms")
	set("update_process_title", "on")
	return b.String()
}

// commandLine are the settings that nobody may change while the server runs.
func (s *Server) commandLine(hot bool) []string {
	args := []string{filepath.Join(s.bin(), "postgres"), "-D", s.at.data}
	for _, p := range []Parameter{
		{"restart_after_crash", "off"}, // or it would come back as a primary by itself (DATABASE.md, A6)
		{"hot_standby", onOff(hot)},
		{"fsync", "on"},
		{"full_page_writes", "on"},
		{"archive_mode", "off"},
		{"listen_addresses", s.cfg.Address},
		{"port", strconv.Itoa(s.cfg.Port)},
		{"unix_socket_directories", s.at.run},
		{"unix_socket_permissions", "0700"},
		{"hba_file", filepath.Join(s.at.data, "pg_hba.conf")},
		{"ident_file", filepath.Join(s.at.data, "pg_ident.conf")},
		{"logging_collector", "off"},
		{"log_destination", "stderr"},
	} {
		args = append(args, "-c", p.Name+"="+p.Value)
	}
	return args
}

// dynamic are the settings of postgresql.auto.conf.
type dynamic struct {
	names    string // synchronous_standby_names
	conninfo string // primary_conninfo; "" = cut
	readOnly bool   // default_transaction_read_only, for a disk that is nearly full
}

func (d dynamic) text() string {
	var b strings.Builder
	b.WriteString("# Written by Holdfast. ALTER SYSTEM is seen, reported, and undone by the next write.\n")
	for _, p := range []Parameter{
		{"synchronous_standby_names", d.names},
		{"primary_conninfo", d.conninfo},
		{"primary_slot_name", slotOf(d.conninfo)},
		{"restore_command", ""},
		{"recovery_target_timeline", "latest"},
		{"synchronous_commit", "on"},
		{readOnlySetting, onOff(d.readOnly)},
	} {
		if p.Name == readOnlySetting && !d.readOnly {
			continue // the plan's own value counts
		}
		fmt.Fprintf(&b, "%s = %s\n", p.Name, quoteSetting(p.Value))
	}
	return b.String()
}

// parseDynamic reads what is in postgresql.auto.conf now, whoever wrote it. The last of equal names counts.
func parseDynamic(text string) (d dynamic, err error) {
	seen := 0
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		name, value, ok := strings.Cut(line, "=")
		value = strings.TrimSpace(value)
		if !ok || len(value) < 2 || value[0] != '\'' || value[len(value)-1] != '\'' {
			return dynamic{}, fmt.Errorf("line %q of postgresql.auto.conf cannot be read", line)
		}
		value = strings.ReplaceAll(strings.ReplaceAll(value[1:len(value)-1], "''", "'"), `\\`, `\`)
		switch strings.TrimSpace(name) {
		case "synchronous_standby_names":
			d.names, seen = value, seen|1
		case "primary_conninfo":
			d.conninfo, seen = value, seen|2
		case readOnlySetting:
			d.readOnly = value == "on"
		}
	}
	if seen != 3 {
		return dynamic{}, fmt.Errorf("postgresql.auto.conf lacks settings that Holdfast always writes")
	}
	return d, nil
}

const readOnlySetting = "default_transaction_read_only"

func onOff(b bool) string {
	if b {
		return "on"
	}
	return "off"
}

func quoteSetting(v string) string {
	return "'" + strings.ReplaceAll(strings.ReplaceAll(v, `\`, `\\`), "'", "''") + "'"
}

func closedDynamic() dynamic { return dynamic{names: database.Closed().String()} }

func autoConf(data string) string { return filepath.Join(data, "postgresql.auto.conf") }

// readDynamic reads postgresql.auto.conf of a data directory.
func readDynamic(data string) (dynamic, error) {
	b, err := os.ReadFile(autoConf(data))
	if err != nil {
		return dynamic{}, fmt.Errorf("read the settings: %w", err)
	}
	return parseDynamic(string(b))
}

// writeDynamic replaces postgresql.auto.conf durably and reads it back.
func (s *Server) writeDynamic(data string, d dynamic) error {
	if err := s.give(autoConf(data), []byte(d.text())); err != nil {
		return err
	}
	got, err := readDynamic(data)
	if err != nil {
		return err
	}
	if got != d {
		return fmt.Errorf("write the settings: %s does not hold what was written", autoConf(data))
	}
	return nil
}

// give writes a file of PostgreSQL's, durably. Its folder is 0700, so reading rights do not matter; they let
// the server read it even when we are ended before it changes hands.
func (s *Server) give(path string, content []byte) error {
	if err := durable.WriteFile(path, content, 0o644); err != nil {
		return err
	}
	return s.owner.own(path)
}

// access is pg_hba.conf. Order matters: the first line that matches decides.
func (s *Server) access(clients bool) string {
	var b strings.Builder
	b.WriteString("# Written by Holdfast; changes made here are lost.\n")
	line := func(fields ...string) { b.WriteString(strings.Join(fields, "  ") + "\n") }
	line("local", "all,replication", Superuser, "peer map="+localMap)
	line("local", "all,replication", "all", "reject")
	for _, from := range s.peerNetworks() {
		line("hostssl", "all,replication", Superuser, from, "cert map="+peerMap)
	}
	line("host", "all,replication", Superuser, "all", "reject")
	line("host", "replication", "all", "all", "reject")
	if clients {
		line("hostssl", "all", "all", "all", "scram-sha-256")
	}
	line("host", "all", "all", "all", "reject")
	return b.String()
}

const (
	localMap = "holdfast-local" // who may be Superuser over the private socket
	peerMap  = "holdfast-peers" // whose certificate may be Superuser over the network
)

// admitsClients reads from pg_hba.conf whether clients are let in.
func admitsClients(hba []byte) bool { return bytes.Contains(hba, []byte("scram-sha-256")) }

// peerNetworks are the addresses that peers come from. Between loopback addresses Linux chooses the source
// itself, so there any loopback address will do; the certificate decides anyway.
func (s *Server) peerNetworks() []string {
	var out []string
	for _, p := range s.cfg.Peers {
		a, err := netip.ParseAddr(p.Address) // checked by Open
		if err != nil {
			continue
		}
		network := netip.PrefixFrom(a, a.BitLen())
		if a.IsLoopback() && a.Is4() {
			network = netip.MustParsePrefix("127.0.0.0/8")
		}
		if !slices.Contains(out, network.String()) {
			out = append(out, network.String())
		}
	}
	return out
}

// identities is pg_ident.conf.
func (s *Server) identities() (string, error) {
	var b strings.Builder
	b.WriteString("# Written by Holdfast; changes made here are lost.\n")
	me, err := user.Current()
	if err != nil {
		return "", fmt.Errorf("look up our own user: %w", err)
	}
	locals := []string{me.Username}
	if s.owner.name != me.Username {
		locals = append(locals, s.owner.name)
	}
	for _, name := range locals {
		fmt.Fprintf(&b, "%s \"%s\" %s\n", localMap, name, Superuser)
	}
	fmt.Fprintf(&b, "%s \"%s\" %s\n", peerMap, s.cfg.Host, Superuser)
	for _, p := range s.cfg.Peers {
		fmt.Fprintf(&b, "%s \"%s\" %s\n", peerMap, p.Host, Superuser)
	}
	return b.String(), nil
}

// furnish writes every file of ours into a data directory so that whatever starts on it is a standby, closed,
// cut, with clients shut out; and reads back what that rests on.
func (s *Server) furnish(data, static string) error {
	ident, err := s.identities()
	if err != nil {
		return err
	}
	in := func(name string) string { return filepath.Join(data, name) }
	if err := s.writeDynamic(data, closedDynamic()); err != nil {
		return err
	}
	for name, text := range map[string]string{
		"postgresql.conf": static, "pg_hba.conf": s.access(false), "pg_ident.conf": ident, "standby.signal": "",
	} {
		if err := s.give(in(name), []byte(text)); err != nil {
			return err
		}
		back, err := os.ReadFile(in(name))
		if err != nil {
			return fmt.Errorf("read back %s: %w", in(name), err)
		}
		if string(back) != text {
			return fmt.Errorf("write %s: it does not hold what was written", in(name))
		}
	}
	for _, name := range []string{"recovery.signal", "promote"} {
		if err := os.Remove(in(name)); err != nil && !os.IsNotExist(err) {
			return fmt.Errorf("remove %s: %w", in(name), err)
		}
	}
	return durable.SyncDir(data)
}
