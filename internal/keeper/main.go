package keeper

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// handoverEnv tells Main that Launch passes the lock (descriptor 3), a pipe for the outcome of the start
// (descriptor 4), and the child's environment (standard input).
const handoverEnv = "HOLDFAST_KEEPER_HANDOVER"

// Main is the body of `holdfast keeper SPECFILE`. It starts the child, obeys its socket, and returns when the
// child's whole process tree is gone and exit.json is on the disk. SIGINT, SIGHUP and SIGTERM do nothing: a
// keeper ends with its child.
func Main(specFile string) error {
	// The child gets SIGKILL when the thread that started it ends (PR_SET_PDEATHSIG), so that thread stays.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()

	// Caught rather than ignored: an ignored signal would stay ignored in the child.
	swallowed := make(chan os.Signal, 1)
	signal.Notify(swallowed, unix.SIGINT, unix.SIGHUP, unix.SIGTERM)
	defer signal.Stop(swallowed)

	h, err := takeHandover()
	if err != nil {
		return err
	}
	k, err := start(specFile, h)
	h.tell(err)
	if err != nil {
		return fmt.Errorf("keep %s: %w", specFile, err)
	}
	debug.FreeOSMemory() // a keeper idles for months; what its start needed goes back
	return k.run()
}

// handover is what Launch passes beside the spec.
type handover struct {
	given bool
	lock  *os.File
	ready *os.File
	env   []string
}

func takeHandover() (*handover, error) {
	if os.Getenv(handoverEnv) != "1" {
		return &handover{}, nil
	}
	if err := os.Unsetenv(handoverEnv); err != nil {
		return nil, fmt.Errorf("take over from the launcher: %w", err)
	}
	unix.CloseOnExec(3)
	unix.CloseOnExec(4)
	h := &handover{given: true, lock: os.NewFile(3, "lock"), ready: os.NewFile(4, "ready")}
	if h.lock == nil || h.ready == nil {
		return nil, errors.New("take over from the launcher: descriptors 3 and 4 are not open")
	}
	if err := json.NewDecoder(os.Stdin).Decode(&h.env); err != nil {
		return nil, fmt.Errorf("take over from the launcher: read the environment: %w", err)
	}
	return h, nil
}

// tell reports how the start went. A launcher that is gone does not matter: the keeper lives on without it.
func (h *handover) tell(err error) {
	if h.ready == nil {
		return
	}
	var r reply
	if err != nil {
		r = refuse(err)
	}
	_ = json.NewEncoder(h.ready).Encode(r)
	_ = h.ready.Close()
}

// takeLock uses the launcher's lock after a look that it is this directory's.
func (h *handover) takeLock(dir string) (*os.File, error) {
	if !h.given {
		return takeLock(dir)
	}
	mine, err := h.lock.Stat()
	if err != nil {
		return nil, fmt.Errorf("take over the lock: %w", err)
	}
	want, err := os.Stat(filepath.Join(dir, lockName))
	if err != nil {
		return nil, fmt.Errorf("take over the lock: %w", err)
	}
	if !os.SameFile(mine, want) {
		return nil, errors.New("take over the lock: descriptor 3 is another file")
	}
	return h.lock, nil
}

// closers undo a start in reverse order.
type closers []func() error

func (c *closers) add(f func() error) { *c = append(*c, f) }

func (c closers) run() error {
	var errs []error
	for i := len(c) - 1; i >= 0; i-- {
		errs = append(errs, c[i]())
	}
	return errors.Join(errs...)
}

// start does everything up to a running child. A failed start leaves nothing behind but the spec.
func start(specFile string, h *handover) (_ *keeping, err error) {
	var undo closers
	defer func() {
		if err != nil {
			err = errors.Join(err, undo.run())
		}
	}()

	spec, err := readSpec(specFile)
	if err != nil {
		return nil, err
	}
	spec.Spec = spec.withDefaults()
	spec.Env = h.env
	if err := spec.check(); err != nil {
		return nil, err
	}
	if spec.Fence != nil && spec.Fence.First > 0 && spec.FenceUntil == 0 {
		spec.FenceUntil = bootClock() + spec.Fence.First
	}
	lock, err := h.takeLock(spec.Dir)
	if err != nil {
		return nil, err
	}
	undo.add(lock.Close)
	for _, old := range []string{recordName, exitName} {
		if err := os.Remove(filepath.Join(spec.Dir, old)); err != nil && !os.IsNotExist(err) {
			return nil, fmt.Errorf("clear the last life: %w", err)
		}
	}
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return nil, fmt.Errorf("become the tree's reaper: %w", err)
	}
	l, err := listen(spec.Dir)
	if err != nil {
		return nil, err
	}
	undo.add(l.Close)
	out, err := openOutput(spec.LogFile, spec.LogMaxBytes, spec.LogKeep)
	if err != nil {
		return nil, err
	}
	k := &keeping{
		spec: spec, lock: lock, listener: l, out: out,
		log:  slog.New(slog.NewTextHandler(os.Stderr, nil)).With("keeper", spec.Name),
		tree: tree{root: os.Getpid()},
	}
	if err := k.startChild(&undo); err != nil {
		return nil, err
	}
	return k, nil
}

// startChild writes the record, starts the child, and writes the record again with the child's pid.
func (k *keeping) startChild(undo *closers) error {
	r, w, err := k.outputPipe(undo)
	if err != nil {
		return err
	}
	null, err := os.Open(os.DevNull)
	if err != nil {
		return fmt.Errorf("open the child's input: %w", err)
	}
	defer func() { _ = null.Close() }() // opened for reading alone

	self, err := readStat(os.Getpid())
	if err != nil {
		return fmt.Errorf("read my own start: %w", err)
	}
	boot, err := bootID()
	if err != nil {
		return err
	}
	var pipe unix.Stat_t
	if err := unix.Fstat(w, &pipe); err != nil {
		return fmt.Errorf("look at the output pipe: %w", err)
	}
	k.rec = record{Life: k.spec.Life, Name: k.spec.Name, BootID: boot, Keeper: self.process, PipeNode: pipe.Ino}
	cgroupFD := -1
	if k.spec.Tree == TreeAuto {
		cgroupFD = k.ownCgroup(undo)
		if cgroupFD >= 0 {
			defer func() { _ = unix.Close(cgroupFD) }() // a directory opened for reading
		}
	}
	if err := writeRecord(k.spec.Dir, k.rec); err != nil {
		return err
	}
	undo.add(func() error { return os.Remove(filepath.Join(k.spec.Dir, recordName)) })

	path, err := lookUp(k.spec.Argv[0])
	if err != nil {
		return err
	}
	k.pidfd = -1
	attr := &syscall.ProcAttr{
		Dir: k.spec.WorkDir, Env: k.spec.Env, Files: []uintptr{null.Fd(), uintptr(w), uintptr(w)},
		Sys: &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGKILL, PidFD: &k.pidfd},
	}
	if k.spec.UID != 0 || k.spec.GID != 0 {
		attr.Sys.Credential = &syscall.Credential{Uid: uint32(k.spec.UID), Gid: uint32(k.spec.GID)}
	}
	if cgroupFD >= 0 {
		attr.Sys.UseCgroupFD, attr.Sys.CgroupFD = true, cgroupFD
	}
	pid, err := syscall.ForkExec(path, k.spec.Argv, attr)
	if err != nil {
		return fmt.Errorf("start %s: %w", path, err)
	}
	k.pid = pid
	k.spec.Env = nil // secrets have no business here any more
	k.rec.Started, k.rec.StartedMon = time.Now(), bootClock()
	if st, err := readStat(pid); err == nil { // a zombie still has its start
		k.rec.Child = st.process
	} else {
		k.log.Error("child's start unknown", "pid", pid, "err", err)
	}
	_ = unix.Close(w) // the child has its own; with this one open the pipe would never end
	if err := writeRecord(k.spec.Dir, k.rec); err != nil {
		k.log.Error("record not written, a cleaner would have to find the tree without the child's pid", "err", err)
	}
	k.drained = make(chan struct{})
	go func() { // ends with the pipe; run waits for it
		defer close(k.drained)
		k.out.drain(r)
	}()
	k.pipe = r
	return nil
}

// outputPipe makes the pipe that the child prints into. The child's end blocks, as programs expect of their
// output, and belongs to the child's user, so that opening /dev/stderr works.
func (k *keeping) outputPipe(undo *closers) (*os.File, int, error) {
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_CLOEXEC); err != nil {
		return nil, -1, fmt.Errorf("make the output pipe: %w", err)
	}
	err := unix.SetNonblock(p[0], true)
	if err == nil && (k.spec.UID != 0 || k.spec.GID != 0) {
		err = unix.Fchown(p[1], k.spec.UID, k.spec.GID)
	}
	if err != nil {
		return nil, -1, errors.Join(fmt.Errorf("make the output pipe: %w", err), unix.Close(p[0]), unix.Close(p[1]))
	}
	r := os.NewFile(uintptr(p[0]), "output")
	undo.add(r.Close)
	undo.add(func() error { return unix.Close(p[1]) })
	return r, p[1], nil
}

// ownCgroup gives a descriptor of a new cgroup, or -1 where none can be had: then /proc does.
func (k *keeping) ownCgroup(undo *closers) int {
	cg, err := makeCgroup("holdfast-" + k.spec.Life)
	if err != nil {
		k.log.Info("no cgroup, descendants are followed by /proc", "err", err)
		return -1
	}
	fd, err := cg.open()
	if err != nil {
		k.log.Info("no cgroup, descendants are followed by /proc", "err", errors.Join(err, cg.remove(0)))
		return -1
	}
	undo.add(func() error { return cg.remove(cgroupRemoveWait) })
	k.tree.cg, k.rec.Cgroup = cg, cg.path
	return fd
}

// lookUp finds the program. A name with a slash is taken as it is.
func lookUp(name string) (string, error) {
	if strings.Contains(name, "/") {
		return name, nil
	}
	path, err := exec.LookPath(name)
	if err != nil {
		return "", fmt.Errorf("look up the program: %w", err)
	}
	return path, nil
}

// sendCut tells a gate to cut the clients of an epoch off, and gives it `wait` to say that it did. A gate that has gone on to
// a later epoch leaves that one's clients alone; epoch 0, of a deadline that nobody ever moved, is whatever is now.
func sendCut(socket string, epoch int64, wait time.Duration) error {
	c, err := net.DialTimeout("unix", socket, wait)
	if err != nil {
		return fmt.Errorf("cut clients off: %w", err)
	}
	defer func() { _ = c.Close() }() // the answer is in by then, or too late
	if err := c.SetDeadline(time.Now().Add(wait)); err != nil {
		return fmt.Errorf("cut clients off: %w", err)
	}
	line := "{\"cut\":true}\n"
	if epoch > 0 {
		line = fmt.Sprintf("{\"cut\":true,\"epoch\":%d}\n", epoch)
	}
	if _, err := io.WriteString(c, line); err != nil {
		return fmt.Errorf("cut clients off: %w", err)
	}
	if _, err := c.Read(make([]byte, 1)); err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("cut clients off: await the answer: %w", err)
	}
	return nil
}
