package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"runtime/pprof"
	"sync"
	"time"

	"holdfast/internal/backup"
	"holdfast/internal/vault"
	"holdfast/internal/vault/wal"
)

// takeLog streams the server's log into the vault and prints, each time it has moved, how far the vault holds it, until
// its input ends.
func takeLog(ctx context.Context, o options, v *vault.Vault, out io.Writer) error {
	if o.profile != "" {
		to, err := os.Create(o.profile)
		if err != nil {
			return err
		}
		defer func() { _ = to.Close() }() // pprof gives no error of a write either
		if err := pprof.StartCPUProfile(to); err != nil {
			return err
		}
		defer pprof.StopCPUProfile()
	}
	conf, err := backup.StreamFrom(o.conn)
	if err != nil {
		return err
	}
	r, err := backup.NewReceiver(backup.ReceiverOptions{Vault: v, Database: "bench", Spool: o.to, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		return err
	}
	ctx, end := context.WithCancel(ctx)
	defer end()
	var g sync.WaitGroup
	var printed error // set before g is done
	g.Go(func() {
		for {
			err := r.Run(ctx, conf)
			if ctx.Err() != nil {
				return
			}
			fmt.Fprintln(os.Stderr, "the stream is begun anew:", err)
			if !sleepFor(ctx, 100*time.Millisecond) {
				return
			}
		}
	})
	g.Go(func() {
		var last wal.LSN
		for sleepFor(ctx, lookEvery) {
			if at := r.Status().Archived; at != last {
				last = at
				if _, printed = fmt.Fprintln(out, uint64(at)); printed != nil {
					end()
					return
				}
			}
		}
	})
	_, err = io.Copy(io.Discard, os.Stdin) // it ends when the run has seen enough
	end()
	g.Wait()
	return errors.Join(err, printed)
}
