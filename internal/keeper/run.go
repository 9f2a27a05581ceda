package keeper

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	cutWait          = 100 * time.Millisecond // a gate that does not answer must not hold the fence up
	fenceLook        = 100 * time.Millisecond // timers stand still while the host is suspended, bootClock does not
	killRoundMin     = 5 * time.Millisecond
	killRoundMax     = 200 * time.Millisecond
	recordEvery      = 2 * time.Second // how often descendants are noted when there is no cgroup
	cgroupRemoveWait = time.Second
	drainWait        = time.Second // a process outside the tree may have been given the pipe
	farewellWait     = time.Second // for clients to take their last answer
)

// keeping is one life. Everything in it belongs to the goroutine of run, except where noted.
type keeping struct {
	spec     specFile
	log      *slog.Logger
	lock     *os.File
	listener *net.UnixListener
	out      *output
	pipe     *os.File
	drained  chan struct{}
	tree     tree
	rec      record
	pid      int
	pidfd    int // of the child; stays valid after the child was reaped

	phase    Phase
	frozen   bool
	dl       deadline
	stopAt   time.Duration // Stopping: when grace ends (bootClock)
	nextKill time.Duration // Killing: next round
	killGap  time.Duration
	nextNote time.Duration // next look at the descendants
	exited   bool          // the child itself
	allGone  bool          // no descendant is left
	exit     Exit
	killErr  string // last fault of a kill round, to log each once

	watchers []chan Exit
	waiters  []chan reply // of stop and kill
	orders   chan order
	ended    chan struct{} // closed when orders are taken no more
}

// order is one request on its way to run.
type order struct {
	request
	answer  chan reply // has room for one
	watch   chan Exit  // op watch: has room for every Exit; closed after the last
	unwatch bool
}

// reaped is one message of the reaper: the child's own exit, or (last) that no descendant is left.
type reaped struct {
	gone   bool
	status syscall.WaitStatus
}

// run is the keeper's loop; see Main.
func (k *keeping) run() error {
	k.phase = Running
	k.exit = Exit{
		Name: k.spec.Name, Life: k.spec.Life, KeeperPID: os.Getpid(), PID: k.pid, Code: -1,
		Started: k.rec.Started, StartedMono: k.rec.StartedMon,
	}
	k.dl = deadline{allowed: k.spec.Fence != nil}
	if k.spec.FenceUntil > 0 {
		k.dl.armed, k.dl.until = true, k.spec.FenceUntil
	}
	k.orders = make(chan order)
	k.ended = make(chan struct{})
	srv := serve(k.listener, k.orders, k.ended)
	reaper := make(chan reaped, 2)
	go reap(k.pid, reaper) // ends when no descendant is left, which is what this loop waits for

	timer := time.NewTimer(0)
	defer timer.Stop()
	for k.phase != Ended {
		select {
		case r := <-reaper:
			k.onReaped(r)
		case o := <-k.orders:
			k.obey(o)
		case <-timer.C:
		}
		k.advance()
		timer.Reset(k.pause())
	}
	return k.end(srv)
}

// reap waits for every descendant that becomes this process's child, which a subreaper's orphans all do. No
// child left therefore means no descendant left.
func reap(child int, out chan<- reaped) {
	for {
		var ws syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &ws, 0, nil)
		switch {
		case errors.Is(err, syscall.EINTR):
		case err != nil: // ECHILD
			out <- reaped{gone: true}
			return
		case pid == child && (ws.Exited() || ws.Signaled()):
			out <- reaped{status: ws}
		}
	}
}

func (k *keeping) onReaped(r reaped) {
	if r.gone {
		k.allGone = true
		return
	}
	k.exited = true
	k.exit.Ended, k.exit.EndedMono = time.Now(), bootClock()
	how := ""
	if r.status.Signaled() {
		k.exit.Signal = r.status.Signal()
		how = "signal: " + r.status.Signal().String()
	} else {
		k.exit.Code = r.status.ExitStatus()
		how = fmt.Sprintf("exit status %d", k.exit.Code)
	}
	if k.exit.Reason == "" {
		k.exit.Reason = "ended by itself"
	}
	k.exit.Reason += "; " + how
	k.tellWatchers() // before the rest of the tree is gone, so that nobody waits for that to hear of the exit
}

// advance does what is due now.
func (k *keeping) advance() {
	now := bootClock()
	if (k.phase == Running || k.phase == Stopping) && k.dl.expired(now) && !k.exited {
		k.fence(now)
	}
	if k.phase == Stopping && now >= k.stopAt && !k.exited {
		k.exit.Reason = "stopped as asked; its grace passed"
		k.beginKill(k.exit.Reason)
	}
	if k.exited && k.phase != Killing {
		k.beginKill("") // whatever the child leaves behind goes with it
	}
	if k.phase == Killing && k.allGone && k.cgroupEmpty() {
		k.phase = Ended
		return
	}
	if k.phase == Killing && now >= k.nextKill {
		k.killRound(now)
	}
	if k.tree.cg == nil && k.phase != Killing && now >= k.nextNote {
		k.noteDescendants()
		k.nextNote = now + recordEvery
	}
}

func (k *keeping) cgroupEmpty() bool {
	if k.tree.cg == nil {
		return true
	}
	populated, err := k.tree.cg.populated()
	if err != nil {
		k.logKill(err)
		return false
	}
	return !populated
}

// pause is the time until something is due.
func (k *keeping) pause() time.Duration {
	now := bootClock()
	d := time.Hour
	if k.phase == Killing {
		d = min(d, k.nextKill-now)
	} else {
		if k.dl.armed {
			d = min(d, k.dl.left(now), fenceLook)
		}
		if k.phase == Stopping {
			d = min(d, k.stopAt-now)
		}
		if k.tree.cg == nil {
			d = min(d, k.nextNote-now)
		}
	}
	return max(d, 0)
}

// fence ends the child because nobody extended its deadline: cut, freeze, kill. Never gracefully: a server that
// shuts down in order may serve stale answers meanwhile.
func (k *keeping) fence(now time.Duration) {
	k.exit.Fenced = true
	k.exit.Reason = fmt.Sprintf("fenced: deadline passed %v ago, last extended in epoch %d", now-k.dl.until, k.dl.epoch)
	k.log.Warn("deadline passed, fencing", "epoch", k.dl.epoch, "late", now-k.dl.until)
	if k.spec.Fence.Cut != "" {
		if err := sendCut(k.spec.Fence.Cut, k.dl.epoch, cutWait); err != nil {
			k.log.Warn("clients not cut off by the gate", "err", err)
		}
	}
	if err := k.tree.freeze(); err != nil {
		k.log.Warn("tree not frozen before the kill", "err", err)
	}
	k.beginKill(k.exit.Reason)
}

// beginKill starts killing the tree; the first reason stays.
func (k *keeping) beginKill(reason string) {
	if k.exit.Reason == "" {
		k.exit.Reason = reason
	}
	if k.phase != Killing {
		k.phase = Killing
		k.killGap = killRoundMin
		k.nextKill = bootClock()
		if k.exited {
			k.nextKill += killRoundMin // most children leave nothing: let the reaper say so first
		}
	}
}

func (k *keeping) killRound(now time.Duration) {
	if err := k.tree.kill(); err != nil {
		k.logKill(err)
	}
	k.nextKill = now + k.killGap
	k.killGap = min(2*k.killGap, killRoundMax)
}

func (k *keeping) logKill(err error) {
	if s := err.Error(); s != k.killErr {
		k.killErr = s
		k.log.Error("tree not killed yet", "err", err)
	}
}

// noteDescendants keeps the record's list fresh for a cleaner that comes after this keeper died.
func (k *keeping) noteDescendants() {
	ps, err := k.tree.below()
	if err != nil {
		k.log.Warn("descendants not noted", "err", err)
		return
	}
	pids := make([]process, 0, len(ps))
	for _, p := range ps {
		pids = append(pids, p.process)
	}
	slices.SortFunc(pids, func(a, b process) int { return a.PID - b.PID })
	if slices.Equal(pids, k.rec.Pids) {
		return
	}
	k.rec.Pids = pids
	if err := writeRecord(k.spec.Dir, k.rec); err != nil {
		k.log.Warn("descendants not noted", "err", err)
	}
}

// obey carries out one order and answers it; stop and kill are answered when the tree is gone.
func (k *keeping) obey(o order) {
	now := bootClock()
	switch o.Op {
	case "status":
		o.answer <- reply{Status: k.status(now)}
	case "extend":
		err := k.dl.extend(now, o.Epoch, o.Until)
		if err == nil && (k.exited || k.phase == Killing) {
			err = ErrEnding
		}
		answer(o, err)
	case "signal":
		answer(o, k.signal(o.Signal))
	case "freeze":
		answer(o, k.freeze())
	case "thaw":
		answer(o, k.thaw())
	case "stop":
		k.waiters = append(k.waiters, o.answer)
		k.stop(now, o.Grace)
	case "kill":
		k.waiters = append(k.waiters, o.answer)
		k.beginKill("killed as asked")
	case "watch":
		if o.unwatch {
			k.watchers = slices.DeleteFunc(k.watchers, func(c chan Exit) bool { return c == o.watch })
			return
		}
		k.watchers = append(k.watchers, o.watch)
		if k.exited {
			o.watch <- k.exit
		}
	default:
		answer(o, fmt.Errorf("obey %q: no such order", o.Op))
	}
}

func answer(o order, err error) {
	if err != nil {
		o.answer <- refuse(err)
		return
	}
	o.answer <- reply{}
}

func (k *keeping) status(now time.Duration) *Status {
	s := &Status{
		Name: k.spec.Name, Life: k.spec.Life, Phase: k.phase, KeeperPID: os.Getpid(), PID: k.pid,
		Started: k.rec.Started, Age: now - k.rec.StartedMon, Frozen: k.frozen,
		Armed: k.dl.armed, Epoch: k.dl.epoch, Cgroup: k.rec.Cgroup,
	}
	if k.dl.armed {
		s.FenceIn = k.dl.left(now)
	}
	s.LogDropped, s.LogFault = k.out.lost()
	return s
}

func (k *keeping) signal(sig syscall.Signal) error {
	if k.exited {
		return ErrEnding
	}
	if err := unix.PidfdSendSignal(k.pidfd, sig, nil, 0); err != nil {
		if errors.Is(err, unix.ESRCH) {
			return ErrEnding // ended, and about to be reaped
		}
		return fmt.Errorf("send %v: %w", sig, err)
	}
	return nil
}

func (k *keeping) freeze() error {
	if k.exited || k.phase == Killing {
		return ErrEnding
	}
	k.frozen = true
	return k.tree.freeze()
}

func (k *keeping) thaw() error {
	if k.exited || k.phase == Killing {
		return ErrEnding // what was fenced never runs again
	}
	k.frozen = false
	return k.tree.thaw()
}

// stop asks the child to end. A second stop can only make the grace shorter.
func (k *keeping) stop(now, grace time.Duration) {
	switch k.phase {
	case Running:
		k.phase, k.stopAt = Stopping, now+grace
		k.exit.Reason = "stopped as asked"
		if k.frozen { // a frozen child could not end in order
			if err := k.thaw(); err != nil {
				k.log.Warn("child not thawed before its stop", "err", err)
			}
		}
		if err := k.signal(k.spec.StopSignal); err != nil && !errors.Is(err, ErrEnding) {
			k.log.Error("child not asked to stop, it will be killed after its grace", "err", err)
		}
	case Stopping:
		k.stopAt = min(k.stopAt, now+grace)
	}
}

// tellWatchers never blocks: each channel has room for every Exit of a life.
func (k *keeping) tellWatchers() {
	for _, w := range k.watchers {
		w <- k.exit
	}
}

// end tells everybody, writes exit.json, and leaves. Telling comes first, for a stalled disk must not delay a
// failover; should this process die before the file is written, [KillTree] finds nothing and writes it.
func (k *keeping) end(srv *server) error {
	k.exit.TreeGone = true
	k.exit.Ended, k.exit.EndedMono = time.Now(), bootClock()
	k.tellWatchers()
	for _, w := range k.watchers {
		close(w)
	}
	for _, w := range k.waiters {
		w <- reply{Exit: &k.exit}
	}
	close(k.ended)

	timer := time.NewTimer(drainWait)
	defer timer.Stop()
	select {
	case <-k.drained:
	case <-timer.C:
		k.log.Warn("output pipe is still held by a process outside the tree")
	}
	errs := []error{writeExit(k.spec.Dir, k.exit)}
	errs = append(errs, srv.close(farewellWait), k.pipe.Close())
	<-k.drained
	errs = append(errs, unix.Close(k.pidfd))
	if k.tree.cg != nil {
		errs = append(errs, k.tree.cg.remove(cgroupRemoveWait))
	}
	if err := os.Remove(filepath.Join(k.spec.Dir, socketName)); err != nil && !os.IsNotExist(err) {
		errs = append(errs, err)
	}
	errs = append(errs, k.lock.Close()) // last: a free lock says that all of this is done
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("end the keeping of %s: %w", k.spec.Name, err)
	}
	return nil
}
