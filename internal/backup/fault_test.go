package backup

import (
	"context"
	"errors"
	"net"
	"testing"
	"time"

	"holdfast/internal/plan"
	"holdfast/internal/restore"
)

// deaf is a server whose sessions end without a word, and whose log tells why when it has been read a few times.
type deaf struct {
	address string
	why     error
	after   int
}

func (d *deaf) ConnString(string) string {
	host, port, _ := net.SplitHostPort(d.address)
	return "host=" + host + " port=" + port + " user=postgres sslmode=disable"
}

func (d *deaf) HostFault() error {
	if d.after--; d.after >= 0 {
		return nil
	}
	return d.why
}

func TestAProbeWhoseSessionThisHostEndedSaysNothingOfTheBackup(t *testing.T) {
	l, err := net.Listen("tcp", "127.77.3.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }() // only asked
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_ = c.Close() // that is what the client is to see
		}
	}()
	killed := &restore.HostFaultError{Line: "server process (PID 7) was terminated by signal 9: Killed"}
	probes := []plan.Probe{{SQL: "select 1", Equals: "1"}}
	bad, _, err := runProbes(t.Context(), probes, "postgres", &deaf{address: l.Addr().String(), why: killed, after: 3}, time.Now())
	if !errors.Is(err, killed) || len(bad) > 0 || !ours(err) {
		t.Errorf("killed by this host: bad %q, %v", bad, err)
	}
	// One that ended for another reason, a damaged page that its server cannot stand say, is the backup's.
	if bad, _, err := runProbes(t.Context(), probes, "postgres", &deaf{address: l.Addr().String()}, time.Now()); err != nil || len(bad) != 1 {
		t.Errorf("ended for another reason: bad %q, %v", bad, err)
	}
	// Cut off, nothing is found out.
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, err := runProbes(ctx, probes, "postgres", &deaf{address: l.Addr().String()}, time.Now()); !errors.Is(err, context.Canceled) {
		t.Errorf("cut off: %v", err)
	}
	// What is answered is not waited for.
	began := &deaf{why: nil}
	if err := hostFault(t.Context(), began, shapeError{rows: 2, columns: 1}); err != nil || began.after != -1 {
		t.Errorf("an answer of another shape: %v, the log was read %d times", err, -began.after)
	}
}
