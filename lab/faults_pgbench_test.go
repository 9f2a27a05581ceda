package lab_test

import (
	"fmt"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"

	"holdfast/lab"
)

// benchSessions is how many sessions of pgbench run at once.
const benchSessions = 8

// benched is what one session of pgbench did: pgbench ends with the first session that it loses, so it is run again.
type benched struct {
	processed int // transactions that it was told are committed
	lost      int // sessions that ended in the middle of a transaction
	other     []string
}

// Words of pgbench 14 to 18.
var (
	benchCount = regexp.MustCompile(`number of transactions actually processed: (\d+)`)
	benchLost  = regexp.MustCompile(`client 0 (script 0 )?aborted in command|perhaps the backend died while processing`)
	benchError = regexp.MustCompile(`ERROR|FATAL|PANIC|error:`)
	benchEnded = regexp.MustCompile(`terminating connection|server closed the connection|SSL connection has been closed|SSL SYSCALL|SSL error: unexpected eof|Run was aborted|connection not open|could not receive data`)
)

// pgbenchSwitchover moves the primary under eight sessions of pgbench. Each may lose the transaction that it was in, once;
// new sessions wait until the new primary is there; and every transaction that pgbench counted is there.
func pgbenchSwitchover(r *lab.Round) {
	bench := func(args ...string) (string, error) {
		cmd := exec.CommandContext(r.Context(), "pgbench", append(args, r.W.DSN(r.Was.Primary))...)
		var out strings.Builder
		cmd.Stdout, cmd.Stderr = &out, &out
		if err := r.W.Net.Inside(r.Standbys()[0], cmd.Start); err != nil {
			return "", err
		}
		err := cmd.Wait()
		return out.String(), err
	}
	if out, err := bench("-i", "-q", "-s", "1"); err != nil {
		r.Fatalf("fill pgbench's tables: %v\n%s", err, out)
	}
	stop := make(chan struct{})
	var running sync.WaitGroup
	sessions := make([]benched, benchSessions)
	for i := range sessions {
		running.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				out, err := bench("-c", "1", "-j", "1", "-T", "3", "-n")
				sessions[i].add(out, err)
			}
		})
	}
	r.Flows("under pgbench")
	switchover(r)
	r.Flows("under pgbench at the new primary")
	r.Over()
	close(stop)
	running.Wait()
	all := benched{}
	for i, s := range sessions {
		all.processed, all.lost = all.processed+s.processed, all.lost+s.lost
		if s.lost > 1 {
			r.Errorf("session %d of pgbench was lost %d times in one switchover", i+1, s.lost)
		}
		for _, what := range s.other {
			r.Errorf("session %d of pgbench lost more than what was on its way: %s", i+1, what)
		}
	}
	var rows int
	if err := r.Answer(r.W.Hosts[0], "SELECT count(*) FROM pgbench_history", &rows); err != nil {
		r.Fatalf("count pgbench's transactions: %v", err)
	}
	r.Logf("pgbench was told of %d transactions and lost %d sessions; %d are there", all.processed, all.lost, rows)
	if all.processed == 0 || rows < all.processed || rows > all.processed+all.lost {
		r.Errorf("pgbench was told of %d transactions, %d may be either way, and %d are there", all.processed, all.lost, rows)
	}
}

// add takes in the words of one run.
func (b *benched) add(out string, err error) {
	if m := benchCount.FindStringSubmatch(out); m != nil {
		n, _ := strconv.Atoi(m[1]) // digits
		b.processed += n
	}
	if err == nil {
		return
	}
	if !benchLost.MatchString(out) {
		b.other = append(b.other, fmt.Sprintf("%s %v: %s", time.Now().UTC().Format("15:04:05.000"), err, strings.TrimSpace(out)))
		return
	}
	b.lost++
	for line := range strings.Lines(out) {
		if benchError.MatchString(line) && !benchEnded.MatchString(line) && !benchLost.MatchString(line) {
			b.other = append(b.other, strings.TrimSpace(line))
		}
	}
}
