package host

import (
	"encoding/json"
	"log/slog"
	"slices"
	"sync"
	"time"

	"holdfast/internal/event"
)

const (
	// eventTextMax bounds one text of an event, and all its reasons together, in bytes.
	eventTextMax = 8 << 10
	// diaryShown bounds what a host shows of its diary, in bytes of its file: what two full files hold.
	diaryShown = 2 * diaryMax
)

// diary is what happened on this host: the newest of it in memory for the API, and the same in files of JSON lines, which
// the next life of the agent reads back.
type diary struct {
	host string
	log  *slog.Logger
	now  func() time.Time

	mu      sync.Mutex // guards what follows
	file    *diaryFile
	repeats repeats
	recent  []event.Event // oldest first
	sizes   []int         // bytes of each of them
	bytes   int           // sum of sizes
}

// openDiary goes on with the diary in dir. What of it cannot be read is left out, and said in the log: a host runs without its
// past.
func openDiary(dir, host string, log *slog.Logger) (*diary, error) {
	d := &diary{host: host, log: log, now: time.Now, repeats: repeats{}}
	if err := cutDiary(dir); err != nil {
		log.Warn("diary of before not shortened", "err", err)
	}
	lines, err := readDiary(dir)
	if err != nil {
		log.Warn("diary of before not read", "err", err)
	}
	for _, line := range lines {
		var e event.Event
		if json.Unmarshal(line, &e) == nil && !e.At.IsZero() { // a crash may have torn one, and a disk may have lost another
			d.keep(e, len(line))
		}
	}
	if d.file, err = openDiaryFile(dir); err != nil {
		return nil, err
	}
	return d, nil
}

// Note implements agent.Diary.
func (d *diary) Note(room, subject, what string, because []string, took time.Duration) {
	d.Record(event.Event{Room: room, Subject: subject, What: what, Because: because, Took: event.Duration(took)})
}

// Record notes what happens now on this host.
func (d *diary) Record(e event.Event) {
	e = shortened(e)
	d.mu.Lock()
	defer d.mu.Unlock()
	e.At, e.Host = d.now(), d.host
	before, write := d.repeats.take(&e)
	for _, x := range before {
		d.write(x)
	}
	line, _ := json.Marshal(e) // texts and times: it cannot fail
	d.keep(e, len(line))
	if write {
		d.write(e)
	}
}

// write adds a line to the file. Callers hold mu.
func (d *diary) write(e event.Event) {
	line, err := json.Marshal(e)
	if err == nil {
		err = d.file.add(line)
	}
	if err != nil {
		d.log.Warn("diary not written", "err", err)
	}
}

// keep remembers an event, instead of the one that said less of the same repeats, and forgets the oldest beyond the bound.
// Callers hold mu.
func (d *diary) keep(e event.Event, size int) {
	if e.Times > 0 {
		i := slices.IndexFunc(d.recent, func(x event.Event) bool {
			return x.Times > 0 && x.Room == e.Room && x.Subject == e.Subject && x.Since.Equal(e.Since)
		})
		if i >= 0 {
			d.forget(i, i+1)
		}
	}
	d.recent, d.sizes, d.bytes = append(d.recent, e), append(d.sizes, size), d.bytes+size
	n, left := 0, d.bytes
	for ; left > diaryShown; n++ {
		left -= d.sizes[n]
	}
	d.forget(0, n)
}

func (d *diary) forget(from, to int) {
	for _, size := range d.sizes[from:to] {
		d.bytes -= size
	}
	d.recent, d.sizes = slices.Delete(d.recent, from, to), slices.Delete(d.sizes, from, to)
}

// Recent lists the newest events, those of earlier lives of the agent too, oldest first.
func (d *diary) Recent() []event.Event {
	d.mu.Lock()
	defer d.mu.Unlock()
	return append([]event.Event(nil), d.recent...)
}

// Close writes what only memory knows of repeats, and closes the file.
func (d *diary) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, x := range d.repeats.end() {
		d.write(x)
	}
	return d.file.close()
}

// shortened bounds what one event may take: the words of an error or of a command are as long as somebody else likes.
func shortened(e event.Event) event.Event {
	cut := func(s string, most int) string {
		if len(s) <= most {
			return s
		}
		return s[:most] + "..."
	}
	e.What = cut(e.What, eventTextMax)
	left := eventTextMax
	var because []string
	for _, why := range e.Because {
		if left <= 0 {
			because = append(because, "...")
			break
		}
		because = append(because, cut(why, left))
		left -= len(why) + 1
	}
	e.Because = because
	return e
}
