package client

import (
	"fmt"
	"slices"
	"strings"
)

// Verdict compares what the client was told with what the database holds.
type Verdict struct {
	Paths []PathVerdict
}

// PathVerdict is the comparison for one path's rows.
type PathVerdict struct {
	Path           Path
	Acknowledged   int     // rows that the client was told are stored
	Lost           []int64 // acknowledged and not there: must be empty
	Duplicated     []int64 // there more than once: must be empty
	Strangers      []int64 // there and never sent: must be empty
	Doubtful       int     // sent, never acknowledged: may be there or not
	DoubtfulStored int     // those of them that are there
}

// Lost counts acknowledged rows that are gone, over all paths.
func (v Verdict) Lost() int {
	n := 0
	for _, p := range v.Paths {
		n += len(p.Lost)
	}
	return n
}

// Acknowledged counts the rows that were promised, over all paths.
func (v Verdict) Acknowledged() int {
	n := 0
	for _, p := range v.Paths {
		n += p.Acknowledged
	}
	return n
}

// Err is nil when every acknowledged row is there, once, and nothing else is; otherwise it names the first
// offenders. A verdict over no acknowledged row at all is an error too: it would prove nothing.
func (v Verdict) Err() error {
	var wrong []string
	for _, p := range v.Paths {
		for _, w := range []struct {
			what string
			rows []int64
		}{{"lost", p.Lost}, {"duplicated", p.Duplicated}, {"never sent", p.Strangers}} {
			if n := len(w.rows); n > 0 {
				wrong = append(wrong, fmt.Sprintf("%s: %d of %d rows %s, first %v", p.Path, n, p.Acknowledged, w.what, w.rows[:min(n, 5)]))
			}
		}
		if p.Acknowledged == 0 {
			wrong = append(wrong, fmt.Sprintf("%s: no row was ever acknowledged", p.Path))
		}
	}
	if len(v.Paths) == 0 {
		wrong = append(wrong, "no path wrote rows")
	}
	if len(wrong) > 0 {
		return fmt.Errorf("compare acknowledged rows with the database: %s", strings.Join(wrong, "; "))
	}
	return nil
}

// compare judges one path. acknowledged and sentBefore (the highest number sent) are as they stood before
// the rows were read, sentAfter as it stood when they had been: so a client may go on writing meanwhile.
func compare(path Path, acknowledged map[int64]bool, sentBefore, sentAfter int64, stored []int64) PathVerdict {
	v := PathVerdict{Path: path, Acknowledged: len(acknowledged), Doubtful: int(sentBefore) - len(acknowledged)}
	times := make(map[int64]int, len(stored))
	for _, n := range stored {
		times[n]++
	}
	for n := range acknowledged {
		if times[n] == 0 {
			v.Lost = append(v.Lost, n)
		}
	}
	for n, count := range times {
		if count > 1 {
			v.Duplicated = append(v.Duplicated, n)
		}
		if n < 1 || n > sentAfter {
			v.Strangers = append(v.Strangers, n)
		} else if n <= sentBefore && !acknowledged[n] {
			v.DoubtfulStored++
		}
	}
	slices.Sort(v.Lost)
	slices.Sort(v.Duplicated)
	slices.Sort(v.Strangers)
	return v
}
