package lab_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"holdfast/internal/api"
	"holdfast/internal/durable"
	"holdfast/lab"
)

// ownDisk is the size of each host's disk: a copy is only made where 1.25 GiB stay free beside it. It is a file with
// holes, so that it takes what is written to it.
const ownDisk = int64(2500 << 20)

// diskStalls lets the disk of the primary stand still. For ten seconds nobody is replaced (or somebody is: that is all the
// same to rule Z); for longer a standby takes over, although the old server can neither end nor say a word to its disk.
func diskStalls(long time.Duration) func(*lab.Round) {
	return func(r *lab.Round) {
		old := r.Was.Primary
		defer r.W.ThawDisk(old) // also where something fails
		r.Fault()
		r.W.FreezeDisk(old)
		now := r.Moved()
		r.Flows("at the new primary")
		if len(now.Because) == 0 || now.Epoch != r.Was.Epoch+1 {
			r.Errorf("epoch %d after %d, because %v", now.Epoch, r.Was.Epoch, now.Because)
		}
		r.Hold(long)
		r.Over()
		r.W.ThawDisk(old)
	}
}

// diskPauses lets the disk of the primary stand still for less than it takes to give it up: writes wait, nothing moves.
func diskPauses(long time.Duration) func(*lab.Round) {
	return func(r *lab.Round) {
		defer r.W.ThawDisk(r.Was.Primary)
		r.Fault()
		r.W.FreezeDisk(r.Was.Primary)
		r.Hold(long)
		r.W.ThawDisk(r.Was.Primary)
		r.Flows("when the disk goes on")
		r.Over()
		r.Unmoved()
	}
}

// diskRefuses lets the disk of the primary refuse every write. That is as a crash: a standby takes over, the words of the
// disk are told, and when a person has mended it the host goes on by itself.
func diskRefuses(refuse func(*lab.World, string)) func(*lab.Round) {
	return func(r *lab.Round) {
		old := r.Was.Primary
		r.Fault()
		refuse(r.W, old)
		now := r.Moved()
		r.Flows("at the new primary")
		if now.Epoch != r.Was.Epoch+1 {
			r.Errorf("epoch %d after %d, because %v", now.Epoch, r.Was.Epoch, now.Because)
		}
		r.W.Await("it is said that the disk refuses", recoverMax, func(st api.Status) bool { return slices.Contains(codes(st), "database.disk-broken") })
		r.Hold(15 * time.Second)
		r.Over()
		r.W.PowerOff(old)
		r.W.MendDisk(old)
		r.W.Net.Heal()
		r.W.PowerOn(old)
	}
}

// diskMended gives the plan a command for a primary in trouble, as an operator would write it, and lets the disk of the
// primary stand still twice. The first time the command mends it and nothing moves; it has one turn in ten minutes, so
// the second time a standby takes over.
func diskMended(r *lab.Round) {
	old := r.Was.Primary
	place := filepath.Dir(r.W.Plan)
	command, told := filepath.Join(place, "on-trouble"), filepath.Join(place, "on-trouble.told")
	script := fmt.Sprintf("#!/bin/sh\nenv | grep ^HOLDFAST_ >> '%s'\nfsfreeze --unfreeze '%s'/hosts/\"$HOLDFAST_HOST\"/db && echo \"thawed $HOLDFAST_DATABASE\"\n", told, r.W.Root)
	if err := errors.Join(os.RemoveAll(command), durable.WriteProgram(command, strings.NewReader(script))); err != nil {
		r.Fatal(err)
	}
	if err := os.RemoveAll(told); err != nil {
		r.Fatal(err)
	}
	undo := applies(r, "    acknowledged_by:", "    on_trouble: { run: "+command+", limit: 20s }\n    acknowledged_by:")
	if out, err := r.W.Run("database", "explain", "records"); err != nil || !strings.Contains(out, "on_trouble: for at most 20s") {
		r.Errorf("explain does not tell of the command: %v\n%s", err, out)
	}
	defer r.W.ThawDisk(old) // also where something fails
	r.Fault()
	r.W.FreezeDisk(old)
	turns := func() int {
		text, _ := os.ReadFile(told) // not there yet
		return strings.Count(string(text), "HOLDFAST_TROUBLE=")
	}
	r.W.Await("the command runs", recoverMax, func(api.Status) bool { return turns() > 0 })
	r.Flows("after the command")
	r.Unmoved()
	text, err := os.ReadFile(told)
	if err != nil {
		r.Fatal(err)
	}
	for _, want := range []string{"HOLDFAST_TROUBLE=hung", "HOLDFAST_DATABASE=records", "HOLDFAST_HOST=" + old, "HOLDFAST_APPLICATION=lab", "HOLDFAST_LIMIT_SECONDS=20", "HOLDFAST_EVIDENCE=", fmt.Sprintf("HOLDFAST_EPOCH=%d", r.Was.Epoch)} {
		if !strings.Contains(string(text), want) {
			r.Errorf("the command was not told %s:\n%s", want, text)
		}
	}
	r.W.Await("the history tells how it ended", recoverMax, func(api.Status) bool {
		out, err := r.W.Run("history")
		return err == nil && strings.Contains(out, "on_trouble has run") && strings.Contains(out, "it ended well") && strings.Contains(out, "thawed records")
	})
	r.W.FreezeDisk(old)
	r.Moved()
	r.Flows("at the new primary")
	if n := turns(); n != 1 {
		r.Errorf("the command ran %d times within ten minutes", n)
	}
	r.Over()
	r.W.ThawDisk(old)
	undo()
}

// nearlyFull is so little that a server stops to take writes, and enough for it to go on.
const nearlyFull = 100 << 20

// diskFull fills the disk of the primary: before the server would end in the middle of a commit, new transactions may not
// write; reads go on; with room again writes go on by themselves.
func diskFull(r *lab.Round) {
	full := r.Was.Primary
	defer r.W.EmptyDisk(full)
	r.Fault()
	r.W.FillDisk(full, nearlyFull)
	r.W.Await("it is said that the disk is nearly full", recoverMax, func(st api.Status) bool { return slices.Contains(codes(st), "database.disk-low") })
	for deadline := time.Now().Add(recoverMax); ; time.Sleep(100 * time.Millisecond) {
		err := r.Answer(full, "INSERT INTO lab_acks (writer, id) VALUES ('full', 1) RETURNING id", new(int64))
		var refusal *pgconn.PgError
		if errors.As(err, &refusal) && refusal.Code == "25006" { // read_only_sql_transaction
			break
		}
		if time.Now().After(deadline) {
			r.Fatalf("a new session still writes to a disk that is nearly full: %v", err)
		}
	}
	if err := r.Answer(full, "SELECT count(*) FROM lab_acks", new(int64)); err != nil {
		r.Errorf("reads do not go on: %v", err)
	}
	r.Hold(10 * time.Second)
	r.Over()
	r.W.EmptyDisk(full)
	r.Unmoved()
	r.Flows("with room again")
}

// diskFullMoves fills the disk of a primary that shall hand over then.
func diskFullMoves(r *lab.Round) {
	full := r.Was.Primary
	defer r.W.EmptyDisk(full)
	r.Fault()
	r.W.FillDisk(full, nearlyFull)
	now := r.Moved()
	r.Flows("where there is room")
	if now.Epoch != r.Was.Epoch+1 {
		r.Errorf("epoch %d after %d", now.Epoch, r.Was.Epoch)
	}
	r.Over()
	r.W.EmptyDisk(full)
}

// smallSlots is how much log is kept for a standby that is away, in the worlds of [standbyAwayForLong].
const smallSlots = 64 << 20

// keepLittle makes a plan keep little log for a standby that is away.
func keepLittle(text string) string {
	return strings.Replace(text, "    acknowledged_by:", fmt.Sprintf("    slots: { max: %dMB, after: 1m }\n    acknowledged_by:", smallSlots>>20), 1)
}

// handOver makes a plan hand over from a full disk.
func handOver(text string) string {
	return strings.Replace(text, "    acknowledged_by:", "    disk_full: failover\n    acknowledged_by:", 1)
}

// standbyAwayForLong keeps a standby dead while much more is written than is kept for it: the log is let go, the disk does
// not fill, and when the standby is back it is made anew by itself.
func standbyAwayForLong(r *lab.Round) {
	far := r.Standbys()[0]
	r.Fault()
	r.W.PowerOff(far)
	r.W.Await(far+" does not count", recoverMax, func(st api.Status) bool { return !counts(st, far) })
	conn, err := r.W.Connect(r.Context(), r.Was.Primary)
	if err != nil {
		r.Fatal(err)
	}
	defer func() { _ = conn.Close(r.Context()) }() // done with
	const written, rounds = 1200, 24               // MB of log, and in how many commits
	most := int64(0)
	write := fmt.Sprintf("CREATE TABLE IF NOT EXISTS lab_filler (n int, words text); TRUNCATE lab_filler; INSERT INTO lab_filler SELECT n, repeat(md5(n::text), 30) FROM generate_series(1, %d) n", written*1000/rounds)
	for range rounds {
		if _, err := conn.PgConn().Exec(r.Context(), write).ReadAll(); err != nil {
			r.Fatal(err)
		}
		most = max(most, r.W.LogBytes(r.Was.Primary))
	}
	r.Flows("after much was written")
	// max_wal_size 512 MB or wal_keep_size 256 MB and what was kept, whichever is more; a checkpoint takes its time.
	const bound = 1000 << 20
	r.Logf("at most %d MB of log on the primary while %d MB were written", most>>20, written)
	if most > bound {
		r.Errorf("%d MB of log were kept, more than %d", most>>20, bound>>20)
	}
	before := r.W.Incarnation(far)
	r.Over()
	r.W.Net.Heal()
	r.W.PowerOn(far)
	r.Unmoved()
	if after := r.W.Incarnation(far); after == before {
		r.Errorf("%s was not made anew: it is still %s, although its log was let go", far, before)
	}
	if _, err := conn.Exec(r.Context(), "DROP TABLE lab_filler"); err != nil {
		r.Errorf("remove what was filled in: %v", err)
	}
}
