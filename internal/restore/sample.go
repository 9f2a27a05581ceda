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
)

// SampleLimit bounds a sample. In each of its three parts (large files, small ones, log) nothing is begun after Time, and
// together they read about Bytes.
type SampleLimit struct {
	Bytes int64
	Time  time.Duration
}

// SampleOf is how much of a restore is tried before: an eighth of it, at least 16 MiB and at most 256 MiB.
func SampleOf(c Choice) SampleLimit {
	w := Work(c, false)
	return SampleLimit{Bytes: min(max((w.Data+w.Log)/8, 16<<20), 256<<20), Time: 2 * time.Second}
}

// Sample reads a part of what Run would read, and writes it as Run would to the disk of o.Dir, which need not be there. It
// is evenly spread over the backup, and durable when its time is taken, unless o.Throwaway. Nothing of it is left: it lies in a
// directory of its own, beside the first one above o.Dir that exists, which is removed, after a kill by the next one.
func Sample(ctx context.Context, o Options, limit SampleLimit) (s forecast.Sample, err error) {
	parent, err := existing(filepath.Dir(o.Dir))
	if err != nil {
		return nil, err
	}
	t, err := openTrial(ctx, parent, ForSample, o.Choice.Backup.ID)
	if err != nil {
		return nil, fmt.Errorf("try the disk at %s: %w", parent, err)
	}
	defer func() { err = errors.Join(err, t.Remove(context.WithoutCancel(ctx))) }()
	if o.Workers <= 0 {
		o.Workers = 2 * runtime.GOMAXPROCS(0)
	}
	o.Dir, o.Log = t.Data(), slog.New(slog.DiscardHandler)
	r := &sampling{run: &run{o: o, began: time.Now()}, limit: limit}
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
	if s.reader, err = s.o.Vault.OpenBackup(ctx, s.o.Choice.Backup.ID); err != nil {
		return nil, err
	}
	var large, small []vault.Entry
	for _, e := range s.reader.Entries() {
		switch _, ours := strings.CutPrefix(e.Path, vault.DataDir+"/"); {
		case !ours || e.Dir:
		case e.Size > sampledSmall:
			large = append(large, e)
		default:
			small = append(small, e)
		}
	}
	var out forecast.Sample
	for _, kind := range []func(context.Context) (forecast.Part, error){
		func(ctx context.Context) (forecast.Part, error) { return s.large(ctx, large) },
		func(ctx context.Context) (forecast.Part, error) { return s.small(ctx, small) },
		s.log,
	} {
		p, err := kind(ctx)
		if err != nil {
			return nil, err
		}
		out = append(out, p)
	}
	return out, nil
}

// sampleEnd is after how many times its limit a part of a sample is cut off: a vault may be behind a thin line.
const sampleEnd = 4

// timed does jobs with the run's workers until they are done or the time is up, makes durable what they wrote, and says how long
// that took. No job begins after the time is up, and those that have begun are ended: what they do counts with all of its time.
// The last of them leave workers idle, which in a whole restore is nothing: so it is the workers' own time that counts.
func (s *sampling) timed(ctx context.Context, jobs []func(context.Context) error) (time.Duration, error) {
	began := time.Now()
	inTime, cancel := context.WithTimeout(ctx, sampleEnd*s.limit.Time)
	defer cancel()
	var busy atomic.Int64
	g, running := errgroup.WithContext(inTime)
	g.SetLimit(s.o.Workers)
	for _, job := range jobs {
		g.Go(func() error {
			if time.Since(began) > s.limit.Time || running.Err() != nil {
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
	written := time.Now()
	err = s.sync(ctx)
	s.unsynced = nil
	return time.Duration(busy.Load()/int64(max(min(s.o.Workers, len(jobs)), 1))) + time.Since(written), err
}

// share is how much is read of content of so many bytes: what is fetched longest is tried longest.
func (s *sampling) share(of int64) int64 {
	w := Work(s.o.Choice, false)
	return max(int64(float64(s.limit.Bytes)*float64(of)/float64(max(w.Data+w.Log, 1))), int64(s.o.Workers)*vault.ChunkSize)
}

// large reads stretches of the large files.
func (s *sampling) large(ctx context.Context, entries []vault.Entry) (forecast.Part, error) {
	p := forecast.Part{What: "files above 1 MiB", Unit: "MiB"}
	for _, e := range entries {
		p.Of += e.Size
	}
	most := s.share(p.Of)
	size := min(max(most/int64(s.o.Workers), vault.ChunkSize), stretchSize) / vault.ChunkSize * vault.ChunkSize
	var all []stretch
	for _, e := range entries {
		for at := int64(0); at < e.Size; at += size {
			all = append(all, stretch{e, at, min(size, e.Size-at)})
		}
	}
	s.done.Store(0)
	var jobs []func(context.Context) error
	for i, x := range evenly(all, int((most+size-1)/size)) {
		jobs = append(jobs, func(ctx context.Context) error { return s.stretch(ctx, x, fmt.Sprintf("large-%d", i)) })
	}
	var err error
	p.Took, err = s.timed(ctx, jobs)
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
		if time.Since(began) > s.limit.Time { // what is there counts
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

// sampledFiles is how many small files are read at most.
const sampledFiles = 400

func (s *sampling) small(ctx context.Context, entries []vault.Entry) (forecast.Part, error) {
	p := forecast.Part{What: "small files", Unit: "files", Of: int64(len(entries))}
	slices.SortFunc(entries, func(a, b vault.Entry) int { return cmp.Or(cmp.Compare(b.Size, a.Size), cmp.Compare(a.Path, b.Path)) })
	var jobs []func(context.Context) error
	var done atomic.Int64
	for i, e := range evenly(entries, min(max(len(entries)/8, 64), sampledFiles)) {
		jobs = append(jobs, func(ctx context.Context) error {
			err := s.file(ctx, s.reader, e, fmt.Sprintf("small-%d", i))
			if err == nil {
				done.Add(1)
			}
			return err
		})
	}
	var err error
	p.Took, err = s.timed(ctx, jobs)
	p.Done = done.Load()
	return p, err
}

// log reads pieces of the log.
func (s *sampling) log(ctx context.Context) (forecast.Part, error) {
	c := s.o.Choice
	p := forecast.Part{What: "log", Unit: "MiB", Of: int64(len(c.Pieces)) * int64(c.Backup.SegmentSize)}
	log := s.o.Vault.Log(c.Backup.SystemID, c.Backup.SegmentSize)
	var jobs []func(context.Context) error
	s.done.Store(0)
	for i, piece := range evenly(c.Pieces, max(int(s.share(p.Of)/int64(log.SegmentSize())), s.o.Workers)) {
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
	p.Took, err = s.timed(ctx, jobs)
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
