package lab_test

import (
	"time"

	"holdfast/internal/api"
	"holdfast/lab"
)

// crash kills the postmaster of the primary.
func crash(r *lab.Round) {
	r.Fault()
	r.W.Kill(r.W.PID(r.Was.Primary, "db/records/pgdata/postmaster.pid"))
	r.Moved()
}

// powerOff takes the power from the primary's host, and gives it back when writes flow again.
func powerOff(r *lab.Round) {
	r.Fault()
	r.W.PowerOff(r.Was.Primary)
	r.Moved()
	r.Flows("without the host")
	r.Over()
	r.W.Net.Heal()
	r.W.PowerOn(r.Was.Primary)
}

// cutOff cuts the primary's host off, with the clients on it.
func cutOff(r *lab.Round) {
	r.Fault()
	r.W.Net.Isolate(r.Was.Primary)
	r.Moved()
	r.Flows("without the host")
	r.Hold(8 * time.Second)
	r.Over()
	r.W.Net.Heal()
}

// switchover moves the primary on purpose.
func switchover(r *lab.Round) {
	to := r.Standbys()[0]
	r.Fault()
	if out, err := r.W.Run("database", "switchover", "records", "--to", to, "--yes"); err != nil {
		r.Fatalf("switchover: %v\n%s", err, out)
	}
	now := r.W.Await(to+" is the primary", recoverMax, func(st api.Status) bool {
		d := st.Databases[0]
		return d.Open && d.Primary == to
	})
	if got := now.Databases[0].Epoch; got != r.Was.Epoch+1 {
		r.Errorf("epoch %d after %d", got, r.Was.Epoch)
	}
}
