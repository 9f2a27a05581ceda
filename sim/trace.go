package sim

import (
	"fmt"
	"hash"
	"io"
)

// traceKept is how many of the last lines a failure shows.
const traceKept = 250

// trace is what happened, in words. Its hash stands for all of it.
type trace struct {
	hash hash.Hash64
	last []string
	out  io.Writer
}

func (w *World) note(host, format string, args ...any) {
	line := fmt.Sprintf("%9.3f %-4s %s", w.now.Seconds(), host, fmt.Sprintf(format, args...))
	t := &w.trace
	t.hash.Write([]byte(line)) // a hash takes everything
	if t.out != nil {
		fmt.Fprintln(t.out, line)
	}
	if len(t.last) >= 2*traceKept {
		t.last = append(t.last[:0], t.last[traceKept:]...)
	}
	t.last = append(t.last, line)
}
