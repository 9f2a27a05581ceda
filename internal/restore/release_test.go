package restore_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"holdfast/internal/restore"
	"holdfast/internal/restore/pgtest"
)

// add puts text behind what a file of a server's data directory holds.
func add(t *testing.T, dir, name, text string) {
	t.Helper()
	f, err := os.OpenFile(filepath.Join(dir, name), os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString(text); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}

// Everything is gone but the vault: the certificates of the old host are, too, and so are its standbys and its full disk. What was
// restored starts all the same, and takes commits.
func TestAReleasedServerStartsWhereItsOldHostIsGone(t *testing.T) {
	s := pgtest.New(t)
	s.Kill()
	gone := filepath.Join(t.TempDir(), "tls")
	add(t, s.Dir, "postgresql.conf", "ssl = 'on'\nssl_ca_file = '"+gone+"/ca.crt'\nssl_cert_file = '"+gone+"/host.crt'\nssl_key_file = '"+gone+"/host.key'\n")
	add(t, s.Dir, "pg_hba.conf", "hostssl all postgres 127.0.0.0/8 cert map=holdfast-peers\n")
	text := "# Written by Holdfast. ALTER SYSTEM is seen, reported, and undone by the next write.\n" +
		"synchronous_standby_names = 'ANY 1 (\"h1\", \"h2\")'\nprimary_conninfo = 'host=127.0.0.9'\nprimary_slot_name = 'hf_h2'\ndefault_transaction_read_only = 'on'\n"
	if err := os.WriteFile(filepath.Join(s.Dir, "postgresql.auto.conf"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	r, err := restore.Release(s.Dir)
	if err != nil {
		t.Fatal(err)
	}
	if r.Missing != gone+"/host.crt" {
		t.Errorf("what is missing for TLS: %q", r.Missing)
	}
	s.Start()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute) // a commit that waits for standbys waits for ever
	defer cancel()
	if _, err := s.Conn("postgres").Exec(ctx, "create table works (id int)"); err != nil {
		t.Errorf("it takes no commits: %v", err)
	}
}

// TLS is as its owner set it wherever its files are.
func TestAReleaseLeavesTLSAloneThatWorks(t *testing.T) {
	for name, c := range map[string]struct {
		conf, auto string
		off        bool
	}{
		"the usual files beside the data":         {conf: "ssl = on # since spring\n"},
		"no TLS at all":                           {conf: "#ssl = on\nssl_cert_file = '/gone/x.crt'\n"},
		"the last word on it is no":               {conf: "ssl on\nssl_cert_file = '/gone/x.crt'\n", auto: "ssl = 'off'\n"},
		"its authorities are gone":                {conf: "SSL=yes\nssl_ca_file='/gone/it''s.crt'\n", off: true},
		"named no more by what ALTER SYSTEM says": {conf: "ssl=1\nssl_key_file='/gone/x.key'\n", auto: "ssl_key_file = 'server.key'\n"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			for file, text := range map[string]string{"postgresql.conf": c.conf, "postgresql.auto.conf": c.auto, "server.crt": "", "server.key": ""} {
				if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			r, err := restore.Release(dir)
			if err != nil {
				t.Fatal(err)
			}
			raw, err := os.ReadFile(filepath.Join(dir, "postgresql.auto.conf"))
			if err != nil {
				t.Fatal(err)
			}
			_, block, _ := strings.Cut(string(raw), "# holdfast restore: begin")
			if set := strings.Contains(block, "ssl = 'off'"); set != c.off || (r.Missing != "") != c.off {
				t.Errorf("TLS was turned off: %v, missing %q, to be off: %v", set, r.Missing, c.off)
			}
		})
	}
}
