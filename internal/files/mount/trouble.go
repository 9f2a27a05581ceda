package mount

import (
	"sync"
	"sync/atomic"
)

// trouble tells that reads fail once, and once that they succeed again: a program that reads a tree fails by the thousand.
type trouble struct {
	failed func(error) // the first failure of a row; nil = nobody asks
	again  func(int)   // the first success behind a row of so many; nil = nobody asks

	now atomic.Bool // a row of failures goes on
	mu  sync.Mutex  // guards what follows
	row int
	all int
}

func (t *trouble) bad(err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.row++
	t.all++
	if !t.now.Swap(true) && t.failed != nil {
		t.failed(err)
	}
}

func (t *trouble) good() {
	if !t.now.Load() {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.now.Swap(false) {
		if t.again != nil {
			t.again(t.row)
		}
		t.row = 0
	}
}

func (t *trouble) total() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.all
}
