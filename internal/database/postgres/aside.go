package postgres

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"holdfast/internal/database"
	"holdfast/internal/database/postgres/walscan"
	"holdfast/internal/durable"
	"holdfast/internal/pgcontrol"
	"holdfast/internal/problem"
)

// diverged is what was read of a diverged server's log.
type diverged struct {
	control pgcontrol.Control
	from    walscan.LSN // what is kept of it begins in the segment with this; 0 = with the oldest there is
	end     walscan.End
	commits []walscan.Transaction
	nextXID uint32
	unread  int // what the list may lack
}

// list reads the log of the data that are here, which nobody runs. A copy of it that was put aside earlier may reach
// further back than what the server has kept.
func (s *Server) list(aside string, parted database.Parting) (diverged, error) {
	c, err := pgcontrol.Read(s.at.data)
	if err != nil {
		return diverged{}, err
	}
	l, err := listIn(s.at.wal(), c, parted.LSN)
	if aside == "" || err == nil && l.unread == 0 {
		return l, err
	}
	if other, otherErr := listIn(filepath.Join(s.at.preserved, aside), c, parted.LSN); otherErr == nil && (err != nil || other.unread < l.unread) {
		return other, nil
	}
	return l, err
}

// listIn lists what was committed behind a parting, by the log files of a folder. It begins at the last checkpoint
// before, where the log reaches back to one, so that transactions that were under way are counted whole.
func listIn(dir string, c pgcontrol.Control, parted database.LSN) (diverged, error) {
	tli, err := walscan.Newest(dir, c.Timeline, c.SegSize)
	if err != nil {
		return diverged{}, err
	}
	in := walscan.Input{Dir: dir, Timeline: tli, SegSize: c.SegSize, SystemID: c.SystemID}
	segments, err := walscan.Segments(dir, c.SegSize)
	if err != nil {
		return diverged{}, err
	}
	in.Start = readFrom(in, segments, c.Redo, parted)
	found, err := walscan.Commits(in, walscan.LSN(parted))
	lacks := 0
	if redo := walscan.LSN(c.Redo); err == nil && found.End.LSN < redo {
		// The log of the parting is gone or has a hole, and the server's own log goes on behind it: what is left is
		// listed, and that something may be missing is said.
		lacks = 1
		in.Start = oldest(in, segments, uint64(redo)/c.SegSize, redo)
		found, err = walscan.Commits(in, walscan.LSN(parted))
	}
	if err != nil {
		return diverged{}, err
	}
	l := diverged{control: c, from: walscan.LSN(c.Redo), end: found.End, commits: found.Transactions, nextXID: found.NextXID, unread: found.Unknown + lacks}
	if c.Redo > parted { // the newest checkpoint is behind the parting
		l.from = max(in.Start, found.Redo)
	}
	return l, nil
}

// readFrom is where to begin to read: at the redo position if that is early enough; else as far back as the log files
// go, or at the parting itself.
func readFrom(in walscan.Input, segments []walscan.Segment, redo, parted database.LSN) walscan.LSN {
	if redo <= parted {
		return walscan.LSN(redo)
	}
	if start := oldest(in, segments, uint64(parted)/in.SegSize, walscan.LSN(parted)); start < walscan.LSN(parted) {
		return start
	}
	return walscan.LSN(parted) // what cannot be counted is marked so
}

// oldest is the first record of the segments that lead to one without a hole, or otherwise where those cannot be read.
func oldest(in walscan.Input, segments []walscan.Segment, to uint64, otherwise walscan.LSN) walscan.LSN {
	for to > 0 && slices.ContainsFunc(segments, func(x walscan.Segment) bool { return x.Number == to-1 }) {
		to--
	}
	start, err := walscan.FirstRecord(in, to)
	if err != nil {
		return otherwise
	}
	return start
}

// keepWhole puts aside all the log there is, where nobody said what of it is common. A rewind that is repeated finds
// data that may be changed already: what was put aside stays.
func (s *Server) keepWhole(epoch int64) error {
	incarnation, err := readIncarnation(s.at.data)
	if err != nil {
		return err
	}
	if done, err := s.preservedOf(incarnation); err != nil || done != "" {
		return err
	}
	end, err := s.scan(0)
	if err != nil {
		return err
	}
	c, err := pgcontrol.Read(s.at.data)
	if err != nil {
		return err
	}
	_, err = s.putAside("", epoch, incarnation, diverged{control: c, end: end})
	return err
}

// putAside copies the log from l.from to its end, every history and pg_control beside the data, for salvage: what was
// committed here and nowhere else is in them. Links would not do, for PostgreSQL writes recycled files in place. What an
// earlier copy lacks is added to it. It gives the folder's name.
func (s *Server) putAside(id string, epoch int64, incarnation string, l diverged) (string, error) {
	if id != "" {
		return id, s.addAside(filepath.Join(s.at.preserved, id), l)
	}
	id = fmt.Sprintf("epoch-%d-%s", epoch, incarnation)
	making := filepath.Join(s.at.preserved, "."+id)
	halves, err := filepath.Glob(filepath.Join(s.at.preserved, ".epoch-*-"+incarnation)) // also of an epoch in which it was cut short
	if err != nil {
		return "", err
	}
	for _, half := range halves {
		if err := os.RemoveAll(half); err != nil {
			return "", err
		}
	}
	files, need, err := s.ownLog(l)
	if err != nil {
		return "", err
	}
	if err := s.roomToPreserve(need); err != nil {
		return "", err
	}
	if err := os.MkdirAll(making, 0o700); err != nil {
		return "", err
	}
	for _, name := range files {
		if err := copyFile(filepath.Join(s.at.wal(), name), filepath.Join(making, name)); err != nil {
			return "", err
		}
	}
	if err := copyFile(filepath.Join(s.at.data, "global", "pg_control"), filepath.Join(making, "pg_control")); err != nil {
		return "", err
	}
	about, err := json.MarshalIndent(map[string]any{
		"incarnation": incarnation, "before_epoch": epoch, "system_id": l.control.SystemID, "timeline": l.end.Timeline,
		"from": l.from.String(), "end": l.end.LSN.String(), "redo": l.control.Redo.String(),
	}, "", "  ")
	if err != nil {
		return "", err
	}
	if err := durable.WriteFile(filepath.Join(making, "about.json"), append(about, '\n'), 0o600); err != nil {
		return "", err
	}
	if err := os.Rename(making, filepath.Join(s.at.preserved, id)); err != nil {
		return "", err
	}
	return id, durable.SyncDir(s.at.preserved)
}

// partSuffix marks a file of the log that is on its way.
const partSuffix = ".part"

// addAside brings what an earlier copy lacks: a later failover may have given up what was common until then.
func (s *Server) addAside(dir string, l diverged) error {
	files, _, err := s.ownLog(l)
	if err != nil {
		return err
	}
	var lacking []string
	var need int64
	for _, name := range files {
		if there, err := exists(filepath.Join(dir, name)); err != nil {
			return err
		} else if there {
			continue
		}
		info, err := os.Stat(filepath.Join(s.at.wal(), name))
		if err != nil {
			return err
		}
		lacking, need = append(lacking, name), need+info.Size()
	}
	if len(lacking) == 0 {
		return nil
	}
	if err := s.roomToPreserve(need); err != nil {
		return err
	}
	for _, name := range lacking {
		part := filepath.Join(dir, name+partSuffix)
		if err := os.Remove(part); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if err := copyFile(filepath.Join(s.at.wal(), name), part); err != nil {
			return err
		}
		if err := os.Rename(part, filepath.Join(dir, name)); err != nil {
			return err
		}
	}
	return durable.SyncDir(dir)
}

// ownLog lists the files of the log from l.from to its end, and how many bytes they are.
func (s *Server) ownLog(l diverged) (files []string, bytes int64, err error) {
	entries, err := os.ReadDir(s.at.wal())
	if err != nil {
		return nil, 0, err
	}
	for _, e := range entries {
		if !wantedAside(e.Name(), l.control.SegSize, l.from, l.end.LSN) {
			continue
		}
		info, err := e.Info()
		if err != nil {
			return nil, 0, err
		}
		files, bytes = append(files, e.Name()), bytes+info.Size()
	}
	return files, bytes, nil
}

// wantedAside reports whether a reader of the log between two positions needs a file. Of a segment in which a timeline
// ended there is one file for each timeline, and all of them are needed. Pure.
func wantedAside(name string, segSize uint64, from, end walscan.LSN) bool {
	seg, isSegment := walscan.ParseName(name, segSize)
	if !isSegment {
		return strings.HasSuffix(name, ".history")
	}
	return seg.Number >= uint64(from)/segSize && seg.Number <= uint64(end)/segSize
}

// preserveMargin stays free beside a log that is put aside: for the list of its commits, and because a disk that is as
// good as full stops every other server on it.
const preserveMargin = 64 << 20

// roomToPreserve refuses to put a log aside where the disk cannot hold it a second time. It is a copy and no link: the
// server goes on to overwrite its own files.
func (s *Server) roomToPreserve(need int64) error {
	free, err := s.cfg.Free(s.at.dir)
	if err != nil {
		return err
	}
	if need += preserveMargin; free >= need {
		return nil
	}
	return &problem.Problem{
		Code: "database.no-space-to-preserve", Subject: s.cfg.Database, Severity: problem.Degraded,
		Title:   fmt.Sprintf("to put its own log aside %s needs %s, and %s are free", s.cfg.Host, bytesText(need), bytesText(free)),
		Meaning: "What only this server holds is put aside before it is made a copy of the primary again. Nothing was touched, and the server waits.",
		Remedy:  "free or add space where " + s.at.dir + " lies; Holdfast looks again by itself",
	}
}
