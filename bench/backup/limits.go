package main

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/zeebo/blake3"

	"holdfast/internal/pgdata"
)

// limit is what one core of this machine does to the run's own data, at most: the distance to it is what is left to win.
type limit struct {
	what string
	rate float64 // 10^6 bytes a second, of input
	note string
}

// sampleMax is how much of the data the limits are measured on: enough for seconds, and read into memory first.
const sampleMax = 256 << 20

func measureLimits(ctx context.Context, data, dir string) ([]limit, error) {
	sample, err := readSample(data)
	if err != nil {
		return nil, err
	}
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1))
	if err != nil {
		return nil, err
	}
	block, err := aes.NewCipher(make([]byte, 32))
	if err != nil {
		return nil, err
	}
	gcm, err := cipher.NewGCM(block)
	if err != nil {
		return nil, err
	}
	packed, buf := 0, make([]byte, 0, 2<<20)
	var out []limit
	for _, w := range []struct {
		what string
		do   func(chunk []byte)
	}{
		{"page checksum", func(chunk []byte) {
			for p := range slices.Chunk(chunk, pgdata.PageSize) {
				_ = pgdata.Checksum(p, 0)
			}
		}},
		{"BLAKE3", func(chunk []byte) { _ = blake3.Sum256(chunk) }},
		{"zstd, fastest", func(chunk []byte) { packed += len(enc.EncodeAll(chunk, buf)) }},
		{"AES-256-GCM", func(chunk []byte) { _ = gcm.Seal(buf, make([]byte, 12), chunk, nil) }},
	} {
		began := time.Now()
		for chunk := range slices.Chunk(sample, 1<<20) {
			if err := ctx.Err(); err != nil {
				return nil, err
			}
			w.do(chunk)
		}
		out = append(out, limit{what: w.what, rate: float64(len(sample)) / 1e6 / time.Since(began).Seconds()})
	}
	out[2].note = fmt.Sprintf("makes %.2f of 1", float64(packed)/float64(len(sample)))
	one := 0.0
	for _, l := range out {
		one += 1 / l.rate
	}
	out = append(out, limit{what: "all four, one core", rate: 1 / one, note: "a full backup's limit is this times the cores, without reading and writing"})
	disk, err := diskRate(dir, sample)
	return append(out, limit{what: "write and fsync", rate: disk, note: "all cores alike"}), err
}

// readSample reads relation files, the largest first, whole chunks of them.
func readSample(data string) ([]byte, error) {
	type found struct {
		path string
		size int64
	}
	var files []found
	err := filepath.WalkDir(filepath.Join(data, "base"), func(p string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		fi, err := d.Info()
		files = append(files, found{p, fi.Size()})
		return err
	})
	if err != nil {
		return nil, err
	}
	slices.SortFunc(files, func(a, b found) int { return int(min(max(b.size-a.size, -1), 1)) })
	var sample []byte
	for _, f := range files {
		raw, err := os.ReadFile(f.path)
		if err != nil {
			return nil, err
		}
		if whole := len(raw) >> 20 << 20; whole > 0 && len(sample) < sampleMax {
			sample = append(sample, raw[:min(whole, sampleMax/4)]...) // no single table speaks for all
		}
	}
	if len(sample) == 0 {
		return nil, errors.New("the source has no file of a megabyte")
	}
	return sample, nil
}

func diskRate(dir string, sample []byte) (rate float64, err error) {
	name := filepath.Join(dir, "limit")
	f, err := os.Create(name)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, f.Close(), os.Remove(name)) }()
	began := time.Now()
	if _, err := f.Write(sample); err != nil {
		return 0, err
	}
	if err := f.Sync(); err != nil {
		return 0, err
	}
	return float64(len(sample)) / 1e6 / time.Since(began).Seconds(), nil
}
