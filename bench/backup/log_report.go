package main

import (
	"crypto/aes"
	"crypto/cipher"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/zeebo/blake3"
)

// The targets of archiving the log, in medians of slices; the lag over all marks of all rounds.
const (
	lagMost    = 5 * time.Second // p99 from a commit until its log is durable in the vault
	lossMost   = 0.05            // of the commits a second that are made with no archive at all
	drainLeast = 2               // times the rate at which log arrives
)

func (b *bench) logsOf(system string) []logged {
	var out []logged
	for _, l := range b.logs {
		if l.system == system {
			out = append(out, l)
		}
	}
	return out
}

func logEach(list []logged, value func(logged) float64) []float64 {
	out := make([]float64, len(list))
	for i, l := range list {
		out[i] = value(l)
	}
	return out
}

func lagsOf(list []logged) []time.Duration {
	var out []time.Duration
	for _, l := range list {
		out = append(out, l.lags...)
	}
	return out
}

// commitsKept gives a system's commits a second against those with no archive, slice by slice: each against the one that
// was measured beside it, for what a machine shared with others can do is another thing every minute.
func (b *bench) commitsKept(system string) []float64 {
	none := map[int]float64{}
	for _, l := range b.logsOf(nobody) {
		none[l.slice] = l.tps
	}
	var out []float64
	for _, l := range b.logsOf(system) {
		if tps, ok := none[l.slice]; ok {
			out = append(out, l.tps/tps)
		}
	}
	return out
}

// drained is how many times as fast as log arrives it is stored after the vault was away.
func (b *bench) drained() float64 {
	list := slices.DeleteFunc(b.logsOf(ours), func(l logged) bool { return l.drain == 0 })
	return median(logEach(list, func(l logged) float64 { return l.drain / l.arrival }))
}

func (b *bench) reportLog(p func(format string, args ...any)) {
	if len(b.logs) == 0 {
		return
	}
	p("\nlog\tcommits/s\tof none\tmiddle half\tus a commit: server + archiver\tMB/s written\tlag p50\tp99\tmost\n")
	for _, name := range []string{nobody, ours, pgBackRest} {
		list := b.logsOf(name)
		if len(list) == 0 {
			continue
		}
		lags := lagsOf(list)
		text := "-\t-\t-"
		if len(lags) > 0 {
			text = fmt.Sprintf("%s\t%s\t%s", quantile(lags, 0.5).Round(time.Millisecond), quantile(lags, 0.99).Round(time.Millisecond), quantile(lags, 1).Round(time.Millisecond))
		}
		kept := b.commitsKept(name)
		p("%s\t%.0f\t%.3f\t%.3f to %.3f\t%.0f + %.1f\t%.1f\t%s\n", name, median(logEach(list, func(l logged) float64 { return l.tps })), median(kept),
			quantile(kept, 0.25), quantile(kept, 0.75), median(logEach(list, func(l logged) float64 { return micros(l.server) })),
			median(logEach(list, func(l logged) float64 { return micros(l.archiver) })), median(logEach(list, func(l logged) float64 { return l.arrival })), text)
	}
	p("The shares of none are medians of %d slices, each against the slice with no archive beside it.\n", len(b.logsOf(nobody)))
	p("%s takes whole segments alone, closed after %s at most. After %s without its vault %s stored the log %.1f times as fast as it came.\n", pgBackRest, pushAfter, b.logAway, ours, b.drained())
}

func micros(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }

// verdictLog names the targets that archiving missed.
func (b *bench) verdictLog() []error {
	var missed []error
	if lag := quantile(lagsOf(b.logsOf(ours)), 0.99); lag > lagMost {
		missed = append(missed, fmt.Errorf("the log is in the vault %s after the commit (p99), the target is %s", lag.Round(time.Millisecond), lagMost))
	}
	if kept := median(b.commitsKept(ours)); kept < 1-lossMost {
		missed = append(missed, fmt.Errorf("archiving leaves %.3f of the commits, the target is %.2f", kept, 1-lossMost))
	}
	if d := b.drained(); d < drainLeast {
		missed = append(missed, fmt.Errorf("log that waited is stored %.2f times as fast as new log comes, the target is %d", d, drainLeast))
	}
	return missed
}

// logLimit is what one core does to this run's own log at most: hash, compress, encrypt, write and sync, segment by segment.
func logLimit(archive, dir string) ([]limit, error) {
	names, err := filepath.Glob(filepath.Join(archive, "0000000[0-9A-F]????????????????"))
	if err != nil || len(names) == 0 {
		return nil, err
	}
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1))
	if err != nil {
		return nil, err
	}
	defer func() { _ = enc.Close() }() // it holds nothing
	block, err := aes.NewCipher(make([]byte, 32))
	if err != nil {
		return nil, err
	}
	gcm, err := cipher.NewGCM(block)
	if err != nil {
		return nil, err
	}
	total := 0
	var took time.Duration
	for _, n := range names[max(0, len(names)-8):] {
		raw, err := os.ReadFile(n)
		if err != nil {
			return nil, err
		}
		began := time.Now()
		_ = blake3.Sum256(raw)
		packed := enc.EncodeAll(raw, nil)
		if _, err := diskRate(dir, gcm.Seal(nil, make([]byte, 12), packed, nil)); err != nil {
			return nil, err
		}
		took += time.Since(began)
		total += len(raw)
	}
	return []limit{{what: "log: hash, zstd, AES, write, fsync", rate: float64(total) / 1e6 / took.Seconds(), note: "one core, segment by segment: a drain's limit"}}, nil
}
