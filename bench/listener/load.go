package main

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
)

// workload is one way of using a database.
type workload struct {
	name string
	args string // pgbench's
}

// loads: short statements, where a listener costs most; transactions that wait for the disk; and sessions of one
// statement each, as an application without a pool makes them.
var loads = []workload{
	{"select-only 8", "-S -c 8 -j 2"},
	{"select-only 32", "-S -c 32 -j 2"},
	{"tpc-b 8", "-b tpcb-like -c 8 -j 2"},
	{"tpc-b 32", "-b tpcb-like -c 32 -j 2"},
	{"connections 8", "-S -C -c 8 -j 2"},
}

var tpsLine = regexp.MustCompile(`(?m)^tps = ([0-9.]+)`)

// pgbench runs one load against addr, and says how many transactions a second it saw.
func (b *bench) pgbench(ctx context.Context, addr string, l workload) (float64, error) {
	args := append(connect(addr), "-n", "-T", strconv.Itoa(b.seconds))
	args = append(args, strings.Fields(l.args)...)
	cmd := exec.CommandContext(ctx, filepath.Join(b.server.bin, "pgbench"), append(args, "postgres")...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	out, err := cmd.CombinedOutput()
	if err != nil {
		return 0, fmt.Errorf("run pgbench: %w: %s", err, out)
	}
	return parseTPS(out)
}

// parseTPS reads pgbench's own count; a run in which anything failed is none.
func parseTPS(out []byte) (float64, error) {
	if strings.Contains(string(out), "aborted") {
		return 0, fmt.Errorf("pgbench did not finish: %s", out)
	}
	m := tpsLine.FindSubmatch(out)
	if m == nil {
		return 0, fmt.Errorf("pgbench says no rate: %s", out)
	}
	tps, err := strconv.ParseFloat(string(m[1]), 64)
	if err == nil && tps <= 0 {
		err = fmt.Errorf("pgbench did nothing: %s", out)
	}
	return tps, err
}
