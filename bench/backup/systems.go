package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"syscall"
)

// system is one way to make a backup. Its commands run as the server's user.
type system struct {
	name    string
	missing string // why it cannot be measured; "" = it can
	repo    string // its repository, made anew before each round
	prepare func(ctx context.Context) error
	full    func() []string
	again   func() []string // incremental; nil = it has none
	restore func(to string) []string
	below   func(to string) string // where the data directory lies in what was restored; nil = it is that
	between bool                   // it copies files alone: the bench tells the server where the backup begins and ends
	label   string                 // with between: the file that keeps the backup's label
	led     bool                   // what it restores knows where its log is
	accepts func(error) bool       // exits that are no failure; nil = 0 alone
	open    func() []string        // opens the repository and nothing else; nil = that is not measured by itself
}

// Names that targets are stated about.
const (
	ours       = "holdfast"
	oursProven = "holdfast-proven"
	pgBackRest = "pgbackrest"
)

func allSystems(b *bench) []system {
	return []system{
		b.holdfast(ours, "fast"), b.holdfast(oursProven, "proven"), b.pgBasebackup(), b.pgBackRest(), b.restic(), b.kopiaProgram(),
	}
}

// fresh empties a system's repository.
func (b *bench) fresh(ctx context.Context, s system) error {
	if err := b.server.freshDir(s.repo); err != nil {
		return err
	}
	if s.prepare == nil {
		return nil
	}
	return s.prepare(ctx)
}

func (b *bench) holdfast(name, again string) system {
	repo := filepath.Join(b.dir, "repo-"+name)
	step := func(step string, more ...string) []string {
		return append([]string{b.program, "-step", step, "-vault", repo}, more...)
	}
	// A backup is made by an agent that holds its vault open while it archives the log; a restore opens it.
	from := []string{"-conn", b.server.dsn(), "-data", b.server.data, "-held"}
	return system{
		name: name, repo: repo, led: true,
		prepare: func(ctx context.Context) error { return b.server.do(ctx, step("create")...) },
		full:    func() []string { return step("full", from...) },
		again:   func() []string { return step(again, from...) },
		open:    func() []string { return step("open") },
		restore: func(to string) []string { return step("restore", "-to", to, "-fetch", b.server.fetch()) },
	}
}

func lacks(programs ...string) string {
	for _, p := range programs {
		if _, err := exec.LookPath(p); err != nil {
			return p + " is not installed"
		}
	}
	return ""
}

// pgBasebackup compresses where the client is and encrypts nothing.
func (b *bench) pgBasebackup() system {
	repo := filepath.Join(b.dir, "repo-pg_basebackup")
	return system{
		name: "pg_basebackup", repo: repo, missing: lacks("zstd", "tar"),
		full: func() []string {
			return []string{filepath.Join(b.server.bin, "pg_basebackup"), "-d", b.server.dsn(), "-Ft", "-X", "none", "-c", "fast", "-Z",
				"client-zstd:level=1,workers=" + strconv.Itoa(runtime.NumCPU()), "-D", repo}
		},
		restore: func(to string) []string {
			return []string{"sh", "-c", fmt.Sprintf("zstd -dc %s/base.tar.zst | tar -x -C %s", repo, to)}
		},
	}
}

// pgBackRest runs with encryption, zstd's level 1 and small files bundled: the nearest to what Holdfast does.
func (b *bench) pgBackRest() system {
	repo, conf := filepath.Join(b.dir, "repo-pgbackrest"), filepath.Join(b.dir, "pgbackrest.conf")
	call := func(args ...string) []string {
		return append([]string{"pgbackrest", "--config=" + conf, "--stanza=main"}, args...)
	}
	return system{
		name: pgBackRest, repo: repo, missing: lacks("pgbackrest"),
		prepare: func(ctx context.Context) error {
			text := fmt.Sprintf(`[global]
repo1-path=%[1]s
log-path=%[2]s
lock-path=%[2]s
process-max=%[3]d
compress-type=zst
compress-level=1
repo1-bundle=y
repo1-cipher-type=aes-256-cbc
repo1-cipher-pass=0123456789abcdef0123456789abcdef
repo1-retention-full=9
start-fast=y
archive-check=n
log-level-console=warn
log-level-file=off
[main]
pg1-path=%[4]s
pg1-port=%[5]s
pg1-socket-path=%[2]s
pg1-user=postgres
pg1-database=bench
`, repo, b.server.home, runtime.NumCPU(), b.server.data, b.server.port)
			if err := os.WriteFile(conf, []byte(text), 0o644); err != nil {
				return err
			}
			return b.server.do(ctx, call("stanza-create")...)
		},
		full:    func() []string { return call("--type=full", "backup") },
		again:   func() []string { return call("--type=incr", "backup") },
		restore: func(to string) []string { return call("--pg1-path="+to, "--type=none", "restore") },
	}
}

func (b *bench) restic() system {
	repo := filepath.Join(b.dir, "repo-restic")
	call := func(args ...string) []string {
		return append([]string{"restic", "-q", "--no-cache", "-r", repo}, args...)
	}
	backup := func() []string {
		return call("backup", "--compression=auto", "--exclude="+b.server.data+"/pg_wal/0*", b.server.data)
	}
	return system{
		name: "restic", repo: repo, missing: lacks("restic"), between: true, label: filepath.Join(b.server.home, "restic.label"),
		prepare: func(ctx context.Context) error { return b.server.do(ctx, call("init")...) },
		full:    backup, again: backup,
		restore: func(to string) []string { return call("restore", "latest", "--target", to) },
		below:   func(to string) string { return filepath.Join(to, b.server.data) },
		accepts: func(err error) bool { // 3: a file vanished or changed while it was read, which the log repeats
			e, ok := errors.AsType[*exec.ExitError](err)
			return ok && e.ExitCode() == 3
		},
	}
}

func (b *bench) kopiaProgram() system {
	repo, conf := filepath.Join(b.dir, "repo-kopia"), filepath.Join(b.dir, "server", "kopia.config")
	program, err := exec.LookPath(b.kopia)
	missing := ""
	if err != nil {
		missing = "the program kopia is not installed"
	}
	if abs, err := filepath.Abs(program); err == nil && missing == "" {
		program = abs
	}
	call := func(args ...string) []string {
		return append([]string{program, "--config-file=" + conf, "--log-level=error", "--file-log-level=error", "--log-dir=" + b.server.home}, args...)
	}
	backup := func() []string {
		return call("snapshot", "create", b.server.data, "--parallel="+strconv.Itoa(runtime.NumCPU()), "--no-progress")
	}
	return system{
		name: "kopia", repo: repo, missing: missing, between: true, label: filepath.Join(b.server.home, "kopia.label"),
		prepare: func(ctx context.Context) error {
			if err := os.RemoveAll(conf); err != nil {
				return err
			}
			err := b.server.do(ctx, call("repository", "create", "filesystem", "--path="+repo, "--cache-directory="+filepath.Join(b.server.home, "kopia.cache"))...)
			if err != nil {
				return err
			}
			return b.server.do(ctx, call("policy", "set", "--global", "--compression=zstd-fastest", "--add-ignore=/pg_wal/0*", "--ignore-file-errors=true")...)
		},
		full: backup, again: backup,
		restore: func(to string) []string {
			find := call("snapshot", "list", "--json", b.server.data)
			bring := call("snapshot", "restore", "$id", to, "--parallel="+strconv.Itoa(runtime.NumCPU()), "--no-progress", "--skip-owners")
			return []string{"sh", "-c", fmt.Sprintf(`id=$(%s | tr ',' '\n' | sed -n 's/.*"id":"\([0-9a-f]*\)".*/\1/p' | sed -n '$p') && %s`, shell(find), shell(bring))}
		},
	}
}

func shell(argv []string) string {
	line := ""
	for _, a := range argv {
		if a == "$id" {
			line += ` "$id"`
			continue
		}
		line += " '" + a + "'"
	}
	return line
}

// attr makes a command run as the server's user.
func (s *server) attr() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Credential: s.cred, Setpgid: true}
}
