package gate

import (
	"errors"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The loops' reads and writes never wait, so they do not tell the Go runtime that they might: that saved a tenth of
// the listener's processor time for a short query.

// read is recv(2); n < 0 says that there is nothing now.
func read(fd int, b []byte) (n int, err error) {
	r, _, errno := unix.RawSyscall6(unix.SYS_RECVFROM, uintptr(fd), uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)), 0, 0, 0)
	return outcome(r, errno, -1)
}

// write is send(2); n is what the socket takes now.
func write(fd int, b []byte) (n int, err error) {
	r, _, errno := unix.RawSyscall6(unix.SYS_SENDTO, uintptr(fd), uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)), unix.MSG_NOSIGNAL, 0, 0)
	return outcome(r, errno, 0)
}

// epollWait is epoll_pwait(2) for at most ms.
func epollWait(epoll int, events []unix.EpollEvent, ms int) (n int, err error) {
	r, _, errno := unix.RawSyscall6(unix.SYS_EPOLL_PWAIT, uintptr(epoll), uintptr(unsafe.Pointer(&events[0])), uintptr(len(events)), uintptr(ms), 0, 0)
	return outcome(r, errno, 0)
}

func outcome(r uintptr, errno unix.Errno, later int) (int, error) {
	switch {
	case errno == 0:
		return int(r), nil
	case errors.Is(errno, unix.EAGAIN), errors.Is(errno, unix.EINTR):
		return later, nil
	}
	return 0, errno
}

// abort is connect(2) to no address: it sends RST and leaves the descriptor in place, which close(2) would free for
// another connection while the loop may be about to use it.
func abort(fd int) {
	nowhere := unix.RawSockaddr{Family: unix.AF_UNSPEC}
	// It fails only on a socket that is disconnected already.
	_, _, _ = unix.RawSyscall(unix.SYS_CONNECT, uintptr(fd), uintptr(unsafe.Pointer(&nowhere)), unsafe.Sizeof(nowhere))
}

// gather has this thread scheduled as a batch job (sched(7)): a message that arrives no longer drives out whoever
// computes on the thread's processor, so several messages are found together once the thread's turn comes, which is as
// soon as somebody waits. Its share of the processor (nice) stays the same. With 32 clients of short queries on two cores the
// listener got 0.65 of direct so, and 0.60 as an ordinary thread; HAProxy got 0.65 in the same runs.
func gather() {
	// A system that forbids it (a container's filter of system calls) has an ordinary thread: slower when it is busy.
	_ = unix.SchedSetAttr(0, &unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_BATCH, Flags: unix.SCHED_FLAG_KEEP_PARAMS}, 0)
}
