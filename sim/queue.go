package sim

import "time"

// event is one thing to happen. Those of a host end with the host, and those of an agent with its life; while it is
// paused they wait.
type event struct {
	at     time.Duration
	serial uint64
	host   *host
	life   *agentLife
	boot   int
	f      func()
}

func (e *event) run() {
	if e.life != nil {
		e.life.hold(e.f)
		return
	}
	e.f()
}

// before is the order in which events happen: at one instant, those that were asked for first.
func (e *event) before(x *event) bool { return e.at < x.at || e.at == x.at && e.serial < x.serial }

// queue holds what is still to happen. It is a heap with four children a node, of values: container/heap takes its
// elements as interfaces, and a world pushes some thousands of them in each of its seconds.
type queue []event

const children = 4

func (q *queue) push(e event) {
	*q = append(*q, e)
	h := *q
	i := len(h) - 1
	for i > 0 {
		parent := (i - 1) / children
		if !e.before(&h[parent]) {
			break
		}
		h[i] = h[parent]
		i = parent
	}
	h[i] = e
}

// pop takes the next event out. The queue must not be empty.
func (q *queue) pop() event {
	h := *q
	first, n := h[0], len(h)-1
	last := h[n]
	h[n] = event{} // what it holds can go
	h = h[:n]
	*q = h
	i := 0
	for {
		child := i*children + 1
		if child >= n {
			break
		}
		next := child
		for c := child + 1; c < min(child+children, n); c++ {
			if h[c].before(&h[next]) {
				next = c
			}
		}
		if !h[next].before(&last) {
			break
		}
		h[i] = h[next]
		i = next
	}
	if n > 0 {
		h[i] = last
	}
	return first
}

// delay moves the events of one life of a host, up to the last that was asked for by then.
func (q *queue) delay(h *host, boot int, by time.Duration, last uint64) {
	all := *q
	*q = nil
	for _, e := range all {
		if e.host == h && e.boot == boot && e.serial <= last {
			e.at += by
		}
		q.push(e)
	}
}
