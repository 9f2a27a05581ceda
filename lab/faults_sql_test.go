package lab_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
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

// promotedByHand promotes a standby's server behind Holdfast's back: it can acknowledge nothing, is found out, ended and
// made a standby again.
func promotedByHand(r *lab.Round) {
	far := r.Standbys()[0]
	r.Fault()
	postmaster := r.W.PID(far, "db/records/pgdata/postmaster.pid")
	if err := promoteByHand(r, far, postmaster); err != nil {
		r.Fatal(err)
	}
	for len(r.W.Server(far)) > 0 && slices.Contains(r.W.Server(far), postmaster) {
		if r.Since() > foundMax {
			r.Fatalf("a server that was promoted by hand is not found out within %s", foundMax)
		}
		time.Sleep(10 * time.Millisecond) // how fine it is looked
	}
	r.Logf("the server was ended %.2f s after it had been promoted by hand", r.Since().Seconds())
	r.Over()
	r.Unmoved()
}

// foundMax is how long a server that was promoted by hand may live, on a busy machine.
const foundMax = 30 * time.Second

// promoteByHand does what an operator would, with the program that came with the server: one of another version
// does not understand its files.
func promoteByHand(r *lab.Round, host string, postmaster int) error {
	program, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", postmaster))
	if err != nil {
		return err
	}
	data := fmt.Sprintf("%s/hosts/%s/db/records/pgdata", r.W.Root, host)
	owner, err := exec.Command("stat", "-c", "%U", data).Output()
	if err != nil {
		return err
	}
	cmd := exec.Command("runuser", "-u", strings.TrimSpace(string(owner)), "--", filepath.Join(filepath.Dir(program), "pg_ctl"), "promote", "-W", "-D", data)
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
// Sometimes its log has not gone another way, or it is through before it is hit: then all of it happens once more.
func rewindCut(r *lab.Round) {
	const tries = 6
	r.Fault()
	for range tries {
		old := r.W.Await("well", recoverMax, lab.Well).Databases[0]
		r.W.Net.Isolate(old.Primary)
		r.W.Await("another primary", recoverMax, movedFrom(old))
		r.Flows("at the new primary")
		r.W.Net.Heal()
		if cutWhileRemade(r, old.Primary) {
			r.Over()
			r.W.Net.Heal()
			r.W.PowerOn(old.Primary)
			return
		}
	}
	r.Fatalf("in %d tries no former primary was hit while it became a copy", tries)
}

// cutWhileRemade takes a host's power as soon as its data are being remade; false = they were never seen so, or whole
// again by then.
func cutWhileRemade(r *lab.Round, host string) bool {
	ctx, cancel := context.WithTimeout(r.Context(), recoverMax)
	well := make(chan struct{})
	go func() { // beside the look at the disk, which must not wait for an answer
		defer close(well)
		for st, err := r.W.Status(); ctx.Err() == nil && (err != nil || !lab.Well(st)); {
			st, err = r.W.Status()
		}
	}()
	defer func() { cancel(); <-well }()
	for !r.W.Remaking(host) {
		select {
		case <-well:
			if ctx.Err() != nil {
				r.Fatalf("%s does not come back", host)
			}
			r.Logf("%s needed neither a rewind nor a copy, or was through at once", host)
			return false
		case <-time.After(time.Millisecond):
		}
	}
	r.W.PowerOff(host)
	if r.W.Remaking(host) {
		r.Logf("the power of %s was taken while its data were being remade", host)
		return true
	}
	r.W.Net.Heal()
	r.W.PowerOn(host)
	return false
}
