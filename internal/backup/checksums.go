package backup

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sync/errgroup"

	"holdfast/internal/pgdata"
)

// checksumReaders read pages at once: as many as the reference machine has cores.
const checksumReaders = 2

// checksums reads every page of the stopped server and compares it with its checksum.
func (v *validation) checksums(ctx context.Context, data string) ([]string, string, error) {
	if !v.b.Checksums {
		return nil, "skipped: the cluster was made without page checksums", nil
	}
	return verifyPages(ctx, data, v.pace)
}

// VerifyPages names each page of a stopped server's data directory whose checksum is wrong, and says how many it read.
func VerifyPages(ctx context.Context, data string) (bad []string, detail string, err error) {
	return verifyPages(ctx, data, newPacer(0))
}

func verifyPages(ctx context.Context, data string, pace *pacer) (bad []string, detail string, err error) {
	found, err := scan(data)
	if err != nil {
		return nil, "", err
	}
	var (
		mu    sync.Mutex // guards bad and pages
		pages int
	)
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(checksumReaders)
	for _, f := range found.files {
		if !f.relation {
			continue
		}
		g.Go(func() error {
			wrong, n, err := verifyFile(ctx, data, f, pace)
			mu.Lock()
			defer mu.Unlock()
			bad, pages = append(bad, wrong...), pages+n
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, "", err
	}
	return bad, fmt.Sprintf("%d pages", pages), nil
}

func verifyFile(ctx context.Context, data string, f file, pace *pacer) (bad []string, pages int, err error) {
	in, err := os.Open(filepath.Join(data, filepath.FromSlash(f.path)))
	if err != nil {
		return nil, 0, fmt.Errorf("verify checksums: %w", err)
	}
	defer func() { _ = in.Close() }() // opened for reading alone
	buf := make([]byte, readPiece)
	for {
		if err := pace.wait(ctx, int(min(int64(len(buf)), max(f.size-int64(pages)*pgdata.PageSize, 1)))); err != nil {
			return nil, 0, err
		}
		n, err := io.ReadFull(in, buf)
		for at := 0; at+pgdata.PageSize <= n; at += pgdata.PageSize {
			if block := uint32(pages) + f.segment*pgdata.SegmentPages; !pgdata.Good(buf[at:at+pgdata.PageSize], block) {
				bad = append(bad, fmt.Sprintf("%s block %d", f.path, block))
			}
			pages++
		}
		if n%pgdata.PageSize != 0 {
			bad = append(bad, fmt.Sprintf("%s ends within block %d", f.path, uint32(pages)+f.segment*pgdata.SegmentPages))
		}
		switch {
		case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
			return bad, pages, nil
		case err != nil:
			return nil, 0, fmt.Errorf("verify checksums of %s: %w", f.path, err)
		}
	}
}
