package lab

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"holdfast/internal/auth"
)

// A machine has one wall clock for all its namespaces, and the tests share the machine with others. So a host's clock is
// moved where programs read it: the kernel maps a small library into every process (the vDSO) that answers "what time is it"
// without a system call. JumpClock changes that library in the memory of each process of the host: it then asks the
// kernel and adds an offset to the wall clock. Monotonic clocks are left alone, as by a jump of a real machine's clock. The
// programs need know nothing of it, and every one sees it: agents, keepers, listeners, etcd, PostgreSQL.
//
// A program that starts later is found within some milliseconds and changed likewise; until then it reads the true time.

// clocks are the hosts whose clocks were moved.
type clocks struct {
	mu      sync.Mutex // guards what follows
	offsets map[string]time.Duration
	end     chan struct{} // ends the search for new processes; nil = nobody searches
	done    sync.WaitGroup
}

// searchPace is how often a host whose clock was moved is looked through for processes that began since.
const searchPace = 20 * time.Millisecond

// NeedClocks says why clocks cannot be moved here; in CI that fails.
func NeedClocks(t testing.TB) {
	t.Helper()
	if runtime.GOOS == "linux" && runtime.GOARCH == "amd64" {
		return
	}
	if os.Getenv("CI") != "" {
		t.Fatalf("clocks of processes are moved on linux/amd64 alone, not on %s/%s", runtime.GOOS, runtime.GOARCH)
	}
	t.Skipf("clocks of processes are moved on linux/amd64 alone, not on %s/%s", runtime.GOOS, runtime.GOARCH)
}

// JumpClock puts the wall clock of a host so much beside the true time, at one moment for all that runs there; 0 puts it
// right again.
func (w *World) JumpClock(host string, by time.Duration) {
	w.t.Helper()
	NeedClocks(w.t)
	w.clocks.mu.Lock()
	defer w.clocks.mu.Unlock()
	if w.clocks.end == nil {
		w.clocks.offsets, w.clocks.end = map[string]time.Duration{}, make(chan struct{})
		end := w.clocks.end
		w.clocks.done.Go(func() { w.keepClocks(end) })
		w.t.Cleanup(w.releaseClocks)
	}
	w.clocks.offsets[host] = by
	for deadline := time.Now().Add(clockMax); ; time.Sleep(time.Millisecond) {
		w.Freeze(host)
		err := w.moveClocks(host, by)
		w.Thaw(host)
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			w.t.Fatalf("move the clock of %s: %v", host, err)
		}
	}
}

// clockMax is how long moving a host's clock may take: whoever is just asking for the time is asked again.
const clockMax = 10 * time.Second

// ClockOf is the time by the clock of a host's agent, to the second.
func (w *World) ClockOf(host string) (time.Time, error) {
	cfg, err := auth.ClientTLS(filepath.Join(w.Root, "hosts", host, "tls"), "")
	if err != nil {
		return time.Time{}, err
	}
	transport := &http.Transport{TLSClientConfig: cfg, DialContext: w.Net.Dial(outside), DisableKeepAlives: true}
	client := http.Client{Transport: transport, Timeout: openMax}
	answer, err := client.Get(fmt.Sprintf("https://%s:%d/v1/status", w.Address[host], agentPort))
	if err != nil {
		return time.Time{}, err
	}
	_ = answer.Body.Close() // nothing of it is read
	return http.ParseTime(answer.Header.Get("Date"))
}

// agentPort is where an agent answers, by default.
const agentPort = 7400

// keepClocks moves the clocks of what starts on hosts whose clocks were moved.
func (w *World) keepClocks(end <-chan struct{}) {
	tick := time.NewTicker(searchPace)
	defer tick.Stop()
	for {
		select {
		case <-end:
			return
		case <-tick.C:
		}
		w.clocks.mu.Lock()
		for host, by := range w.clocks.offsets {
			if err := w.moveClocks(host, by); err != nil {
				w.t.Logf("the clock of a process on %s is not moved yet: %v", host, err)
			}
		}
		w.clocks.mu.Unlock()
	}
}

// releaseClocks ends the search. Processes that still run keep what they have: the world ends.
func (w *World) releaseClocks() {
	w.clocks.mu.Lock()
	if w.clocks.end != nil {
		close(w.clocks.end)
		w.clocks.end = nil
	}
	w.clocks.mu.Unlock()
	w.clocks.done.Wait()
}

// moveClocks moves the clock of every process of a host.
func (w *World) moveClocks(host string, by time.Duration) error {
	var bad []error
	for _, pid := range w.Net.Processes(host) {
		if err := moveClock(pid, by); err != nil && !gone(pid) {
			bad = append(bad, fmt.Errorf("process %d: %w", pid, err))
		}
	}
	return errors.Join(bad...)
}

// gone reports whether a process has ended, or is about to: then it reads no clock any more.
func gone(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return true
	}
	rest := strings.TrimSpace(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	return rest == "" || rest[0] == 'Z' || rest[0] == 'X'
}

// moveClock changes one process. One that runs is stopped for that moment, for two bytes are not written at once.
func moveClock(pid int, by time.Duration) error {
	v, err := openClock(pid)
	if v == nil || err != nil {
		return err
	}
	defer func() { _ = v.mem.Close() }() // what was written was checked
	if v.changed {
		return v.offset(by)
	}
	was := stopped(pid)
	if !was {
		if err := stop(func() []int { return []int{pid} }); err != nil {
			return err
		}
		defer func() { _ = syscall.Kill(pid, syscall.SIGCONT) }() // it may have been killed meanwhile
	}
	return v.change(pid, by)
}

// clockPage is the kernel's library in the memory of one process.
type clockPage struct {
	mem      *os.File
	from, to int64 // its addresses
	room     int64 // address of unused bytes at its end, where the code goes
	changed  bool
}

// openClock finds the library; nil = the process has none, because it is ending.
func openClock(pid int) (_ *clockPage, err error) {
	maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		return nil, err
	}
	from, to, found := mapped(string(maps), "[vdso]")
	if !found {
		return nil, nil
	}
	mem, err := os.OpenFile(filepath.Join("/proc", strconv.Itoa(pid), "mem"), os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			_ = mem.Close() // only read
		}
	}()
	code := clockCode().bytes
	room := to - int64(len(code))
	room -= room % 8 // the offset, which comes first, is written at once
	there := make([]byte, to-room)
	if _, err := mem.ReadAt(there, room); err != nil {
		return nil, err
	}
	changed := bytes.Equal(there[8:len(code)], code[8:])
	if !changed && bytes.Count(there, []byte{0}) != len(there) {
		return nil, fmt.Errorf("the kernel's library has no %d unused bytes at its end", len(there))
	}
	return &clockPage{mem: mem, from: from, to: to, room: room, changed: changed}, nil
}

// entries are the addresses of the library's functions, without their prefix.
func (v *clockPage) entries() (map[string]int64, error) {
	image := make([]byte, v.to-v.from)
	if _, err := v.mem.ReadAt(image, v.from); err != nil {
		return nil, err
	}
	file, err := elf.NewFile(bytes.NewReader(image))
	if err != nil {
		return nil, err
	}
	symbols, err := file.DynamicSymbols()
	if err != nil {
		return nil, err
	}
	out := map[string]int64{}
	for _, s := range symbols {
		if name, ok := strings.CutPrefix(s.Name, "__vdso_"); ok {
			out[name] = v.from + int64(s.Value)
		}
	}
	return out, nil
}

// mapped is where a named part of a process's memory lies.
func mapped(maps, name string) (from, to int64, found bool) {
	for line := range strings.Lines(maps) {
		if strings.HasSuffix(strings.TrimSpace(line), name) {
			n, err := fmt.Sscanf(line, "%x-%x", &from, &to)
			return from, to, n == 2 && err == nil
		}
	}
	return 0, 0, false
}

// change writes the code, and has the library's entries lead to it. The process stands still.
func (v *clockPage) change(pid int, by time.Duration) error {
	entries, err := v.entries()
	if err != nil {
		return fmt.Errorf("read the kernel's library: %w", err)
	}
	code := clockCode()
	var jumps [][]byte
	var from []int64
	for name, at := range code.at {
		entry, ok := entries[name]
		if !ok {
			return fmt.Errorf("the kernel's library has no %s", name)
		}
		jump := make([]byte, jumpBytes)
		jump[0] = 0xe9 // jmp, by the distance from its end
		binary.LittleEndian.PutUint32(jump[1:], uint32(int32(v.room+at-entry-jumpBytes)))
		jumps, from = append(jumps, jump), append(from, entry)
	}
	if err := within(pid, from); err != nil {
		return err
	}
	if _, err := v.mem.WriteAt(code.bytes, v.room); err != nil {
		return fmt.Errorf("write into the kernel's library: %w", err)
	}
	if err := v.offset(by); err != nil {
		return err
	}
	for i, jump := range jumps {
		if _, err := v.mem.WriteAt(jump, from[i]); err != nil {
			return fmt.Errorf("write into the kernel's library: %w", err)
		}
	}
	return nil
}

// offset says how far the clock is moved from now on.
func (v *clockPage) offset(by time.Duration) error {
	if _, err := v.mem.WriteAt(binary.LittleEndian.AppendUint64(nil, uint64(int64(by/time.Second))), v.room); err != nil {
		return fmt.Errorf("write into the kernel's library: %w", err)
	}
	return nil
}

// jumpBytes is the length of a jump.
const jumpBytes = 5

// within refuses while a thread of a process that stands still is just in bytes that will be overwritten; it is tried
// again.
func within(pid int, entries []int64) error {
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/syscall", pid))
	if err != nil {
		return err
	}
	for _, task := range tasks {
		text, err := os.ReadFile(task)
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ESRCH) {
			continue // the thread has ended
		}
		if err != nil {
			return err
		}
		words := strings.Fields(string(text)) // the last one is where the thread goes on
		if len(words) < 3 {
			return fmt.Errorf("a thread does not stand still: %q", text)
		}
		at, err := strconv.ParseUint(strings.TrimPrefix(words[len(words)-1], "0x"), 16, 64)
		if err != nil {
			return err
		}
		for _, entry := range entries {
			if int64(at) > entry && int64(at) < entry+jumpBytes {
				return errors.New("a thread just asks for the time")
			}
		}
	}
	return nil
}

// patch is machine code, and where the code for each entry begins in it.
type patch struct {
	bytes []byte
	at    map[string]int64
}

// clockCode is the code for amd64: it asks the kernel itself, and adds the eight bytes before it to the seconds. rdi and
// rsi outlive a system call.
func clockCode() patch {
	p := patch{bytes: make([]byte, 8), at: map[string]int64{}}
	entry := func(name string) {
		for len(p.bytes)%8 != 0 {
			p.bytes = append(p.bytes, 0xcc) // int3: nobody comes here
		}
		p.at[name] = int64(len(p.bytes))
	}
	put := func(code ...byte) { p.bytes = append(p.bytes, code...) }
	offset := func() { // the distance from the end of the instruction to the offset
		put(binary.LittleEndian.AppendUint32(nil, uint32(int32(-(len(p.bytes) + 4))))...)
	}
	entry("clock_gettime")
	put(0xb8, 228, 0, 0, 0, 0x0f, 0x05) // mov $SYS_clock_gettime, %eax; syscall
	put(0x85, 0xc0, 0x75, 20)           // test %eax, %eax; jne end
	put(0x83, 0xff, 0x00, 0x74, 0x05)   // cmp $CLOCK_REALTIME, %edi; je add
	put(0x83, 0xff, 0x05, 0x75, 10)     // cmp $CLOCK_REALTIME_COARSE, %edi; jne end
	put(0x48, 0x8b, 0x0d)               // add: mov offset(%rip), %rcx
	offset()
	put(0x48, 0x01, 0x0e, 0xc3) // add %rcx, (%rsi); end: ret
	entry("gettimeofday")
	put(0xb8, 96, 0, 0, 0, 0x0f, 0x05) // mov $SYS_gettimeofday, %eax; syscall
	put(0x85, 0xc0, 0x75, 15)          // test %eax, %eax; jne end
	put(0x48, 0x85, 0xff, 0x74, 10)    // test %rdi, %rdi; je end
	put(0x48, 0x8b, 0x0d)              // mov offset(%rip), %rcx
	offset()
	put(0x48, 0x01, 0x0f, 0xc3) // add %rcx, (%rdi); end: ret
	entry("time")
	put(0xb8, 201, 0, 0, 0, 0x0f, 0x05) // mov $SYS_time, %eax; syscall
	put(0x48, 0x03, 0x05)               // add offset(%rip), %rax
	offset()
	put(0x48, 0x85, 0xff, 0x74, 0x03) // test %rdi, %rdi; je end
	put(0x48, 0x89, 0x07, 0xc3)       // mov %rax, (%rdi); end: ret
	return p
}
