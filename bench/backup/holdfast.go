package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"holdfast/internal/backup"
	"holdfast/internal/redact"
	"holdfast/internal/restore"
	"holdfast/internal/vault"
	"holdfast/internal/vault/wal"
)

// runStep does one thing of Holdfast's in a process of its own, so that what it uses can be told.
func runStep(ctx context.Context, o options, out io.Writer) error {
	conf := vault.Config{Name: "bench", URL: "file://" + o.vault, Key: redact.Secret("bench"), Application: "bench", Host: "bench"}
	open := vault.Open
	if o.step == "create" {
		open = vault.Create
	}
	v, err := open(ctx, conf)
	if err != nil {
		return err
	}
	if o.held {
		if err := waitForWord(os.Stdin, out); err != nil {
			return errors.Join(err, v.Close(context.WithoutCancel(ctx)))
		}
	}
	switch o.step {
	case "create", "open":
	case "full":
		err = makeBase(ctx, o, v, "", out)
	case string(backup.Proven), string(backup.Fast):
		err = makeBase(ctx, o, v, backup.Mode(o.step), out)
	case "restore":
		err = bringBase(ctx, o, v)
	case "log":
		err = takeLog(ctx, o, v, out)
	default:
		err = fmt.Errorf("-step %s: not known", o.step)
	}
	return errors.Join(err, v.Close(context.WithoutCancel(ctx)))
}

// ready is said by a process that holds its vault open and waits for the word to go on, which is any line.
const ready = "the vault is open"

func waitForWord(in io.Reader, out io.Writer) error {
	if _, err := fmt.Fprintln(out, ready); err != nil {
		return err
	}
	_, err := bufio.NewReader(in).ReadString('\n')
	return err
}

// makeBase makes one base backup. The log is the source's archive's matter here, as with every other system of the run.
func makeBase(ctx context.Context, o options, v *vault.Vault, mode backup.Mode, out io.Writer) error {
	conn, err := backup.ReadFrom(o.conn)
	if err != nil {
		return err
	}
	res, err := backup.Base(ctx, backup.BaseOptions{
		Conn: conn, DataDir: o.data, Vault: v, Database: "bench", Mode: mode,
		WaitLog: func(context.Context, uint64, uint64, uint32, wal.LSN) error { return nil },
	})
	if err != nil {
		return err
	}
	if mode == backup.Fast && !res.Backup.Took {
		return errors.New("the fast backup read everything")
	}
	_, err = fmt.Fprintf(out, "%s: %v of %s, reused %d of %d bytes\n", res.Backup.ID, res.Wall, res.Took.Round(time.Millisecond), res.Backup.Reused, res.Backup.Bytes)
	return err
}

// bringBase restores the newest base backup, with a server's command for the log.
func bringBase(ctx context.Context, o options, v *vault.Vault) error {
	all, err := v.Backups(ctx, "bench")
	if err != nil {
		return err
	}
	if len(all) == 0 {
		return errors.New("the vault holds no base backup")
	}
	b := all[len(all)-1]
	_, err = restore.Run(ctx, restore.Options{
		Vault: v, Dir: o.to, FetchCommand: o.fetch,
		Choice: restore.Choice{Backup: b, Target: restore.Target{Kind: restore.Consistent}, Timeline: b.Timeline, End: b.Stop},
	})
	return err
}
