package restore

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"holdfast/internal/durable"
	"holdfast/internal/restore/forecast"
	"holdfast/internal/vault"
	"holdfast/internal/vault/wal"
)

// SampleLimit bounds a sample.
type SampleLimit struct {
	Bytes int64 // most that its parts (large files, small ones, log) read and write together
	// Time is when all of it ends, until it is durable; only a write that the disk itself holds up may outlast it. Where nothing is
	// slow it takes half of that at most.
	Time time.Duration
}

// SampleOf is how much of a restore is tried before: an eighth of it, at least 64 MiB and at most 256 MiB.
func SampleOf(c Choice) SampleLimit {
	w := Work(c, false)
	return SampleLimit{Bytes: min(max((w.Data+w.Log)/8, 64<<20), 256<<20), Time: 20 * time.Second}
}

// Sample reads a part of what Run would read, and writes it as Run would to the disk of o.Dir, which need not be there. It
// is evenly spread over the backup, and durable when its time is taken, unless o.Throwaway. Nothing of it is left: it lies in a
// directory of its own, beside the first one above o.Dir that exists, which is removed, after a kill by the next one. Where that
// disk would be left with less than [Spare], nothing is written, and the error is a *TightError.
func Sample(ctx context.Context, o Options, limit SampleLimit) (s forecast.Sample, err error) {
	began := time.Now()
	parent, err := existing(filepath.Dir(o.Dir))
	if err != nil {
		return nil, err
	}
	t, err := openTrial(ctx, parent, ForSample, o.Choice.Backup.ID)
	if err != nil {
		return nil, fmt.Errorf("try the disk at %s: %w", parent, err)
	}
	defer func() { err = errors.Join(err, t.Remove(context.WithoutCancel(ctx))) }()
	if err := spared(parent, limit.Bytes); err != nil { // what one that was killed had left is gone by now
		return nil, err
	}
	if o.Workers <= 0 {
		o.Workers = 2 * runtime.GOMAXPROCS(0)
	}
	o.Dir, o.Log = t.Data(), slog.New(slog.DiscardHandler)
	r := &sampling{run: &run{o: o, began: began}, limit: limit}
	if s, err = r.take(ctx); err != nil {
		return nil, fmt.Errorf("read %s on trial: %w", o.Choice.Backup.ID, err)
	}
	return s, nil
}

// existing is the nearest directory at or above a path that is there.
func existing(dir string) (string, error) {
	for {
		_, err := os.Stat(dir)
		if err == nil || !errors.Is(err, fs.ErrNotExist) || dir == filepath.Dir(dir) {
			return dir, err
		}
		dir = filepath.Dir(dir)
	}
}

// sampling is a run that writes a part, under names of its own.
type sampling struct {
	*run
	limit  SampleLimit
	reader *vault.Reader
}

// sampledSmall is the size up to which files are read whole, and count by their number: most of their time is not their bytes'.
const sampledSmall = vault.ChunkSize

func (s *sampling) take(ctx context.Context) (forecast.Sample, error) {
	if err := os.Mkdir(s.o.Dir, 0o700); err != nil {
		return nil, err
	}
	var err error
	if s.root, err = os.OpenRoot(s.o.Dir); err != nil {
		return nil, err
	}
	defer func() { _ = s.root.Close() }() // each file was closed with its own error
	opening, cancel := context.WithDeadline(ctx, s.ends(sampleThirds))
	defer cancel()
	if s.reader, err = s.o.Vault.OpenBackup(opening, s.o.Choice.Backup.ID); err != nil {
		return nil, err
	}
	var files []vault.Entry
	for _, e := range s.reader.Entries() {
		if strings.HasPrefix(e.Path, vault.DataDir+"/") && !e.Dir {
			files = append(files, e)
		}
	}
	p := pickSample(s.o.Choice, files, s.o.Workers, s.limit.Bytes)
	var out forecast.Sample
	for _, kind := range []func(context.Context, picked) (forecast.Part, error){s.large, s.small, s.log} {
		part, err := kind(ctx, p)
		if err != nil {
			return nil, err
		}
		out = append(out, part)
	}
	return out, nil
}

// ends is when so many of the three parts must be done, by the time of all.
func (s *sampling) ends(thirds int) time.Time {
	return s.began.Add(s.limit.Time * time.Duration(thirds) / sampleThirds)
}

const (
	sampleThirds = 3 // parts of a sample
	// sampleBegin is the part of the time in which a part of a sample begins what it does. It ends much later, for a vault may be
	// behind a thin line.
	sampleBegin = 10
)

// timed does jobs with the run's workers and makes durable what they wrote, and says how long that took. No job begins after its part
// of the time is up, and those that have begun are ended: what they do counts with all of its time. The last of them leave workers
// idle, which in a whole restore is nothing: so it is the workers' own time that counts.
func (s *sampling) timed(ctx context.Context, third int, jobs []func(context.Context) error) (time.Duration, error) {
	began := time.Now()
	inTime, cancel := context.WithDeadline(ctx, s.ends(third))
	defer cancel()
	g, running := errgroup.WithContext(inTime)
	g.SetLimit(s.o.Workers)
	var busy atomic.Int64
	for _, job := range jobs {
		g.Go(func() error {
			if time.Since(began) > s.limit.Time/sampleBegin || running.Err() != nil {
				return nil
			}
			at := time.Now()
			defer func() { busy.Add(int64(time.Since(at))) }()
			return job(running)
		})
	}
	err := g.Wait()
	if inTime.Err() != nil {
		err = ctx.Err() // cut off: what it had done counts
	}
	if err = errors.Join(err, ctx.Err()); err != nil {
		return 0, err
	}
	synced, err := s.settle(ctx, s.ends(third))
	return time.Duration(busy.Load()/int64(max(min(s.o.Workers, len(jobs)), 1))) + synced, err
}

// settle makes durable what was written, and says how long that takes: when the time is up, by that part of the files which was
// come to, at least one for each worker.
func (s *sampling) settle(ctx context.Context, until time.Time) (time.Duration, error) {
	began, files := time.Now(), s.unsynced
	s.unsynced = nil
	if s.o.Throwaway || len(files) == 0 {
		return 0, nil
	}
	done := 0
	for some := range slices.Chunk(files, s.o.Workers) {
		g, _ := errgroup.WithContext(ctx)
		for _, rel := range some {
			g.Go(func() error { return s.syncFile(rel) })
		}
		if err := errors.Join(g.Wait(), ctx.Err()); err != nil {
			return 0, err
		}
		if done += len(some); time.Now().After(until) {
			break
		}
	}
	if done == len(files) {
		if err := durable.SyncDir(s.o.Dir); err != nil {
			return 0, err
		}
	}
	return time.Duration(float64(time.Since(began)) * float64(len(files)) / float64(done)), nil
}

// picked is what a sample reads. Together it is no longer than what was allowed.
type picked struct {
	stretches []stretch
	small     []vault.Entry
	pieces    []wal.Held
	ofLarge   int64 // bytes from which was picked
	ofSmall   int   // files
}

// pickSample chooses from the files of a backup and the log behind it, evenly, in all at most so many bytes. Each kind gets its
// share of them, for what is fetched longest is tried longest; and of log a piece for each worker, of files a quarter, as far as there
// is room. Log of which no piece has room is left out. Pure.
func pickSample(c Choice, files []vault.Entry, workers int, most int64) picked {
	var p picked
	var large, small []vault.Entry
	var ofLarge, ofSmall int64
	for _, e := range files {
		if e.Size > sampledSmall {
			large, ofLarge = append(large, e), ofLarge+e.Size
		} else {
			small, ofSmall = append(small, e), ofSmall+e.Size
		}
	}
	p.ofLarge, p.ofSmall = ofLarge, len(small)
	segment := int64(c.Backup.SegmentSize)
	if segment == 0 {
		segment = wal.DefaultSegmentSize
	}
	ofLog := int64(len(c.Pieces)) * segment
	share := func(of, total, most int64) int64 { return int64(float64(most) * float64(of) / float64(max(total, 1))) }
	log := min(max(share(ofLog, ofLarge+ofSmall+ofLog, most), min(int64(workers)*segment, most/2)), most*3/4)
	p.pieces = evenly(c.Pieces, int(log/segment))
	most -= int64(len(p.pieces)) * segment
	forSmall := max(share(ofSmall, ofLarge+ofSmall, most), most/4, sampledSmall) // at least one has room
	if len(large) > 0 {
		forSmall = min(forSmall, most-vault.ChunkSize)
	}
	p.small = pickSmall(small, forSmall)
	for _, e := range p.small {
		most -= e.Size
	}
	p.stretches = pickStretches(large, workers, most)
	return p
}

// sampledFiles is how many small files are read at most.
const sampledFiles = 400

func pickSmall(files []vault.Entry, most int64) []vault.Entry {
	slices.SortFunc(files, func(a, b vault.Entry) int { return cmp.Or(cmp.Compare(b.Size, a.Size), cmp.Compare(a.Path, b.Path)) })
	for n := min(max(len(files)/8, 64), sampledFiles, len(files)); n > 0; n = n * 3 / 4 {
		some, sum := evenly(files, n), int64(0)
		for _, e := range some {
			sum += e.Size
		}
		if sum <= most {
			return some
		}
	}
	return nil
}

func pickStretches(files []vault.Entry, workers int, most int64) []stretch {
	size := min(max(most/int64(workers), vault.ChunkSize), stretchSize) / vault.ChunkSize * vault.ChunkSize
	var all []stretch
	for _, e := range files {
		for at := int64(0); at < e.Size; at += size {
			all = append(all, stretch{e, at, min(size, e.Size-at)})
		}
	}
	return evenly(all, int(most/size))
}

// large reads stretches of the large files.
func (s *sampling) large(ctx context.Context, picked picked) (forecast.Part, error) {
	p := forecast.Part{What: "files above 1 MiB", Unit: "MiB", Of: picked.ofLarge}
	s.done.Store(0)
	var jobs []func(context.Context) error
	for i, x := range picked.stretches {
		jobs = append(jobs, func(ctx context.Context) error { return s.stretch(ctx, x, fmt.Sprintf("large-%d", i)) })
	}
	var err error
	p.Took, err = s.timed(ctx, 1, jobs)
	p.Done = s.done.Load()
	return p, err
}

// stretch is a part of a large file.
type stretch struct {
	of   vault.Entry
	at   int64
	size int64
}

// sampledChunks are read between two looks at the clock.
const sampledChunks = 4

func (s *sampling) stretch(ctx context.Context, x stretch, rel string) error {
	chunks, ok, err := s.reader.Chunks(ctx, x.of)
	if err != nil || !ok {
		return err
	}
	f, err := s.root.OpenFile(rel, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	l := &large{run: s.run, reader: s.reader, entry: x.of, rel: rel, out: durable.Through(f)}
	if !s.o.Throwaway {
		if l.out, err = durable.NewDirect(f, x.size); err != nil {
			return errors.Join(err, f.Close())
		}
	}
	began, p := time.Now(), part{}
	for some := range slices.Chunk(chunks[x.at/vault.ChunkSize:(x.at+x.size+vault.ChunkSize-1)/vault.ChunkSize], sampledChunks) {
		if time.Since(began) > s.limit.Time/sampleBegin { // what is there counts
			break
		}
		p.chunks = some
		if err = l.fill(ctx, p); err != nil {
			break
		}
		p.at += int64(len(some)) * vault.ChunkSize
	}
	s.later(rel, f)
	return errors.Join(err, l.out.Close())
}

// small reads small files.
func (s *sampling) small(ctx context.Context, picked picked) (forecast.Part, error) {
	p := forecast.Part{What: "small files", Unit: "files", Of: int64(picked.ofSmall)}
	var jobs []func(context.Context) error
	var done atomic.Int64
	for i, e := range picked.small {
		jobs = append(jobs, func(ctx context.Context) error {
			err := s.file(ctx, s.reader, e, fmt.Sprintf("small-%d", i))
			if err == nil {
				done.Add(1)
			}
			return err
		})
	}
	var err error
	p.Took, err = s.timed(ctx, 2, jobs)
	p.Done = done.Load()
	return p, err
}

// log reads pieces of the log. Each is in memory whole, as in a restore, and so no more of them at once than were picked.
func (s *sampling) log(ctx context.Context, picked picked) (forecast.Part, error) {
	c := s.o.Choice
	log := s.o.Vault.Log(c.Backup.SystemID, c.Backup.SegmentSize)
	p := forecast.Part{What: "log", Unit: "MiB", Of: int64(len(c.Pieces)) * int64(log.SegmentSize())}
	var jobs []func(context.Context) error
	s.done.Store(0)
	for i, piece := range picked.pieces {
		jobs = append(jobs, func(ctx context.Context) error {
			content, err := log.Fetch(ctx, piece)
			if err != nil {
				return err
			}
			return s.write(fmt.Sprintf("log-%d", i), 0o600, func(f *os.File) error {
				n, err := f.Write(content)
				s.done.Add(int64(log.SegmentSize()))
				if n < int(log.SegmentSize()) { // zeros end the log, as in a restore
					err = errors.Join(err, f.Truncate(int64(log.SegmentSize())))
				}
				return err
			})
		})
	}
	var err error
	p.Took, err = s.timed(ctx, sampleThirds, jobs)
	p.Done = s.done.Load()
	return p, err
}

// evenly takes at most n of a list, evenly from its beginning to its end. Pure.
func evenly[T any](all []T, n int) []T {
	if n >= len(all) {
		return all
	}
	var out []T
	for i := range n {
		out = append(out, all[i*len(all)/n])
	}
	return out
}
