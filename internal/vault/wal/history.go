package wal

import (
	"bufio"
	"bytes"
	"fmt"
	"strconv"
	"strings"
)

// Stretch is one timeline's part of a history: the log from Begin up to End is read from Timeline's files.
type Stretch struct {
	Timeline uint32
	Begin    LSN // where its parent left off; 0 for the first
	End      LSN // where its child begins; 0 = still growing
}

// History is the way from the first timeline to one of its descendants, oldest first.
type History []Stretch

// ParseHistory reads a timeline history file: a line for each ancestor with the position where the next one
// begins. Timeline 1 has no file: pass nil.
func ParseHistory(timeline uint32, content []byte) (History, error) {
	var h History
	var begin LSN
	sc := bufio.NewScanner(bytes.NewReader(content))
	for sc.Scan() {
		line := strings.TrimSpace(sc.Text())
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		f := strings.Fields(line)
		if len(f) < 2 {
			return nil, fmt.Errorf("read history of timeline %d: line %q has no switch position", timeline, line)
		}
		t, err := strconv.ParseUint(f[0], 10, 32)
		if err != nil {
			return nil, fmt.Errorf("read history of timeline %d: %w", timeline, err)
		}
		end, err := ParseLSN(f[1])
		if err != nil {
			return nil, fmt.Errorf("read history of timeline %d: %w", timeline, err)
		}
		if n := len(h); n > 0 && uint32(t) <= h[n-1].Timeline || uint32(t) >= timeline {
			return nil, fmt.Errorf("read history of timeline %d: ancestor %d is out of order", timeline, t)
		}
		h = append(h, Stretch{Timeline: uint32(t), Begin: begin, End: end})
		begin = end
	}
	if err := sc.Err(); err != nil {
		return nil, fmt.Errorf("read history of timeline %d: %w", timeline, err)
	}
	return append(h, Stretch{Timeline: timeline, Begin: begin}), nil
}

// At is the timeline whose files hold position l, or false when h ends before it.
func (h History) At(l LSN) (uint32, bool) {
	for _, s := range h {
		if s.End == 0 || l < s.End {
			return s.Timeline, true
		}
	}
	return 0, false
}

// Holds reports whether position l on timeline t lies on this history: whether a server that reached (t, l)
// can go on to h's last timeline.
func (h History) Holds(t uint32, l LSN) bool {
	for _, s := range h {
		if s.Timeline == t {
			return s.End == 0 || l <= s.End
		}
	}
	return false
}
