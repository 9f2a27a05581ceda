package lab_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"holdfast/internal/api"
	"holdfast/lab"
)

// beside opens a session on a host through its own listener; notice is told what the server says besides answers.
func beside(r *lab.Round, host string, notice func(*pgconn.Notice)) (*pgx.Conn, error) {
	pc, err := pgx.ParseConfig(r.W.DSN(host))
	if err != nil {
		return nil, err
	}
	pc.ConnectTimeout = 3 * time.Second
	pc.DialFunc = r.W.Net.Dial(host)
	if notice != nil {
		pc.OnNotice = func(_ *pgconn.PgConn, n *pgconn.Notice) { notice(n) }
	}
	return pgx.ConnectConfig(r.Context(), pc)
}

// cancelledWait gives a commit up while it waits for a standby, and crashes the primary: the client was told that nothing
// is certain, so the row is nobody's promise.
func cancelledWait(r *lab.Round) {
	warned := make(chan string, 8)
	conn, err := beside(r, r.Was.Primary, func(n *pgconn.Notice) { warned <- n.Message })
	if err != nil {
		r.Fatal(err)
	}
	defer func() { _ = conn.Close(context.WithoutCancel(r.Context())) }() // it ends with its server
	r.Fault()
	var stuck []int
	for _, h := range r.Standbys() {
		stuck = append(stuck, r.W.Server(h)...)
	}
	r.W.Pause(stuck...)
	inserted := make(chan error, 1)
	go func() {
		_, err := conn.Exec(r.Context(), "INSERT INTO lab_acks (writer, id) VALUES ('cancelled', 1)")
		inserted <- err
	}()
	time.Sleep(500 * time.Millisecond) // the moment of the fault: the commit waits by then, or the cancelling fails the test
	if err := conn.PgConn().CancelRequest(r.Context()); err != nil {
		r.Fatalf("cancel: %v", err)
	}
	err = <-inserted
	var words []string
	for len(warned) > 0 {
		words = append(words, <-warned)
	}
	if err == nil && len(words) == 0 {
		r.Error("a commit that no standby holds was acknowledged without a warning")
	}
	r.Logf("the client was told: %v %v", err, words)
	crashServer(r)
	r.W.Resume(stuck...)
	r.W.Await("a primary", recoverMax, func(st api.Status) bool { return st.Databases[0].Open && st.Databases[0].Epoch > r.Was.Epoch })
}

// crashAlone crashes a primary that holds a commit which no standby has, while no standby can take over: it comes back by
// itself, and shows the row to nobody before a standby holds it.
func crashAlone(r *lab.Round) {
	standbys := r.Standbys()
	var stuck []int
	for _, h := range standbys {
		stuck = append(stuck, r.W.Running(h, "agent")...)
	}
	conn, err := beside(r, r.Was.Primary, nil)
	if err != nil {
		r.Fatal(err)
	}
	defer func() { _ = conn.Close(context.WithoutCancel(r.Context())) }() // it ends with its server
	r.Fault()
	var servers []int
	for _, h := range standbys {
		servers = append(servers, r.W.Server(h)...)
	}
	r.W.Pause(servers...)
	var writing sync.WaitGroup
	writing.Go(func() {
		if _, err := conn.Exec(r.Context(), "INSERT INTO lab_acks (writer, id) VALUES ('alone', 1)"); err == nil {
			r.Error("a commit that no standby holds was acknowledged")
		}
	})
	time.Sleep(500 * time.Millisecond) // the moment of the fault
	r.W.Pause(stuck...)
	crashServer(r)
	writing.Wait()
	r.Hold(12 * time.Second)
	for _, h := range r.W.Hosts {
		var rows int
		if err := r.Answer(h, "SELECT count(*) FROM lab_acks WHERE writer = 'alone'", &rows); err == nil {
			r.Errorf("through %s a client sees %d rows that no standby holds", h, rows)
		}
	}
	r.W.Resume(stuck...)
	r.W.Resume(servers...)
	r.W.Await("a primary", recoverMax, func(st api.Status) bool { return st.Databases[0].Open && st.Databases[0].Epoch > r.Was.Epoch })
}

// pgbenchSwitchover moves the primary under eight sessions of pgbench, which may lose only what was on its way.
func pgbenchSwitchover(r *lab.Round) {
	bench := func(args ...string) *exec.Cmd {
		return exec.CommandContext(r.Context(), "pgbench", append(args, r.W.DSN(r.Was.Primary))...)
	}
	inside := func(cmd *exec.Cmd) (string, error) {
		var out strings.Builder
		cmd.Stdout, cmd.Stderr = &out, &out
		if err := r.W.Net.Inside(r.Standbys()[0], cmd.Start); err != nil {
			return "", err
		}
		err := cmd.Wait()
		return out.String(), err
	}
	if out, err := inside(bench("-i", "-q", "-s", "1")); err != nil {
		r.Fatalf("fill pgbench's tables: %v\n%s", err, out)
	}
	var out string
	var err error
	var running sync.WaitGroup
	running.Go(func() { out, err = inside(bench("-c", "8", "-j", "1", "-T", "6", "-n")) })
	r.Flows("under pgbench")
	switchover(r)
	running.Wait()
	if !strings.Contains(out, "number of transactions actually processed") {
		r.Errorf("pgbench: %v\n%s", err, out)
	}
	r.Over()
	for _, line := range strings.Split(out, "\n") {
		if strings.Contains(line, "ERROR") || strings.Contains(line, "FATAL") {
			r.Logf("pgbench: %s", line)
		}
	}
}

// promotedByHand promotes a standby's server behind Holdfast's back: it can acknowledge nothing, is found out, ended and
// made a standby again.
func promotedByHand(r *lab.Round) {
	far := r.Standbys()[0]
	r.Fault()
	postmaster := r.W.PID(far, "db/records/pgdata/postmaster.pid")
	if err := promoteByHand(r, far); err != nil {
		r.Fatal(err)
	}
	r.W.Await(far+" has another server, or counts no more", recoverMax, func(st api.Status) bool {
		return !counts(st, far) || len(r.W.Server(far)) == 0 || r.W.PID(far, "db/records/pgdata/postmaster.pid") != postmaster
	})
	r.Over()
	r.Unmoved()
}

func promoteByHand(r *lab.Round, host string) error {
	data := fmt.Sprintf("%s/hosts/%s/db/records/pgdata", r.W.Root, host)
	owner, err := exec.Command("stat", "-c", "%U", data).Output()
	if err != nil {
		return err
	}
	cmd := exec.Command("runuser", "-u", strings.TrimSpace(string(owner)), "--", "pg_ctl", "promote", "-W", "-D", data)
	if strings.TrimSpace(string(owner)) == "root" {
		return errors.New("the server's data belong to root")
	}
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("promote by hand: %w: %s", err, out)
	}
	return nil
}

// rewindCut lets a former primary come back with records of its own, and takes its power while it becomes a copy again.
func rewindCut(r *lab.Round) {
	old := r.Was.Primary
	r.Fault()
	r.W.Net.Isolate(old)
	r.Moved()
	r.Flows("at the new primary")
	r.Over()
	r.W.Net.Heal()
	for deadline := time.Now().Add(recoverMax); ; time.Sleep(time.Millisecond) {
		if program := becomingACopy(r, old); program != "" {
			r.Logf("its power is taken during %s", program)
			r.W.PowerOff(old)
			break
		}
		st, err := r.W.Status()
		if err == nil && lab.Well(st) {
			r.Log("it needed neither a rewind nor a clone this time: its log had not gone another way")
			return
		}
		if time.Now().After(deadline) {
			r.Fatal("the former primary does not come back")
		}
	}
	r.W.Net.Heal()
	r.W.PowerOn(old)
}

// becomingACopy names the program that rewinds or copies on a host now; "" = none.
func becomingACopy(r *lab.Round, host string) string {
	for _, pid := range r.W.Net.Processes(host) {
		line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		for _, program := range []string{"pg_rewind", "pg_basebackup"} {
			if err == nil && strings.Contains(string(line), program+"\x00") {
				return program
			}
		}
	}
	return ""
}
