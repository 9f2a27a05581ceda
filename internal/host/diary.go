package host

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"holdfast/internal/event"
)

// diaryKeep is how many events a host shows; the file keeps all of them.
const diaryKeep = 1000

// diary is what happened on this host, in memory for the API and in a file of JSON lines for later.
type diary struct {
	host string
	log  *slog.Logger

	mu     sync.Mutex // guards what follows
	file   *os.File
	recent []event.Event
}

func openDiary(dir, host string, log *slog.Logger) (*diary, error) {
	f, err := os.OpenFile(filepath.Join(dir, "diary.jsonl"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open the diary: %w", err)
	}
	return &diary{host: host, log: log, file: f}, nil
}

// Note implements agent.Diary.
func (d *diary) Note(room, subject, what string, because []string, took time.Duration) {
	e := event.Event{At: time.Now(), Host: d.host, Room: room, Subject: subject, What: what, Because: because, Took: event.Duration(took)}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.recent = append(d.recent, e)
	if len(d.recent) > diaryKeep {
		d.recent = append([]event.Event(nil), d.recent[len(d.recent)-diaryKeep:]...)
	}
	line, err := json.Marshal(e)
	if err == nil {
		_, err = d.file.Write(append(line, '\n'))
	}
	if err != nil {
		d.log.Warn("diary not written", "err", err)
	}
}

// Recent lists the newest events, oldest first.
func (d *diary) Recent() []event.Event {
	d.mu.Lock()
	defer d.mu.Unlock()
	return append([]event.Event(nil), d.recent...)
}

// Close closes the file.
func (d *diary) Close() error { return d.file.Close() }
