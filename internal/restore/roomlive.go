package restore

import (
	"context"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"

	"holdfast/internal/problem"
)

// Member is a standby of the live cluster. It takes whatever the primary takes, when it replays the log of it.
type Member struct {
	Host  string
	Dir   string // where its data lie on this machine; "" = it runs elsewhere
	Known bool   // elsewhere: its agent has told of its disk
	Free  int64  // with Known: bytes free on the disk of its log; 0 = it is full
}

// roomFor refuses what does not fit on the disks of the primary and of each standby, with a fifth to spare for the log that
// loading writes. The primary's files lie on this machine, as its socket does; of a standby elsewhere only the disk of its
// data is known. One of which nothing is known is noted in Unknown.
func (n *Into) roomFor(ctx context.Context, bytes int64) error {
	live, err := pgx.Connect(ctx, n.o.Live("postgres"))
	if err != nil {
		return fmt.Errorf("reach the live database: %w", err)
	}
	defer func() { _ = live.Close(ctx) }() // only asked
	var dir string
	if err := live.QueryRow(ctx, "select current_setting('data_directory')").Scan(&dir); err != nil {
		return fmt.Errorf("ask where the live data lie: %w", err)
	}
	all, unknown, err := liveNeeds(dir, n.o.Members, bytes-n.inSpaces()+bytes/5, roomAt)
	if err != nil {
		return err
	}
	n.Unknown = unknown
	spaces, err := n.spaceNeeds(ctx, live, dir)
	if err != nil {
		return err
	}
	return cramped(n.o.Database, append(all, spaces...))
}

// LiveRoom refuses so many bytes that are to come into the live cluster, as a restore in place itself does, before anything is
// restored for it. unknown are the standbys of whose room nobody has told.
func LiveRoom(ctx context.Context, database string, live func(string) string, members []Member, bytes int64) (unknown []string, err error) {
	n := Into{o: IntoOptions{Database: database, Live: live, Members: members}}
	err = n.roomFor(ctx, bytes)
	return n.Unknown, err
}

// liveNeeds is the room that each server of the live cluster takes for so many bytes. Those of one disk share its room, which
// is known of servers on this machine alone. unknown are the standbys of which nobody has told.
func liveNeeds(primary string, members []Member, bytes int64, at func(dir string) (free int64, disk uint64, err error)) (all []need, unknown []string, err error) {
	free, disk, err := at(primary)
	if err != nil {
		return nil, nil, err
	}
	all = append(all, need{dir: "the primary", bytes: bytes, free: free, disk: disk})
	for i, m := range members {
		x := need{dir: "standby " + m.Host, bytes: bytes, free: m.Free, disk: ^uint64(i)} // no disk here has such a number
		if m.Dir != "" {
			if x.free, x.disk, err = at(m.Dir); err != nil {
				return nil, nil, err
			}
		} else if !m.Known {
			unknown = append(unknown, m.Host)
			continue
		}
		all = append(all, x)
	}
	return all, unknown, nil
}

// cramped refuses what does not fit, with the bytes that the disk needs and who is on it.
func cramped(subject string, all []need) error {
	short := lacks(all)
	if short == nil {
		return nil
	}
	var who []string
	for _, x := range all {
		if x.disk == short.disk {
			who = append(who, x.dir)
		}
	}
	return &problem.Problem{Code: "restore.no-space", Subject: subject, Severity: problem.Critical,
		Title:   fmt.Sprintf("the disk of %s has %d MB free, %d MB are needed", strings.Join(who, " and "), short.free>>20, short.bytes>>20),
		Meaning: "Nothing was changed in the live cluster. A standby whose disk fills stops, and the primary may wait for it.",
		Remedy:  "make room there, or restore beside: holdfast restore database " + subject + " --as NAME"}
}
