package restore

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"holdfast/internal/pgdata"
	"holdfast/internal/redact"
	"holdfast/internal/vault"
	"holdfast/internal/vault/wal"
)

// scatteredPieces is how many pieces of [vault.ChunkSize] the one large file of the test has.
const scatteredPieces = 32

// What a delta restore reads is exactly the pieces of 1 MiB in which at least one page differs, and each of them once: a piece is
// compressed and sealed as one, and no part of it can be opened alone. So a page that differs costs 128 pages at most; of pages that
// lie scattered by chance one in 1,280 is a tenth of the database, and one in a hundred is about three quarters of it.
func TestADeltaReadsThePiecesInWhichAPageDiffersAndNoOther(t *testing.T) {
	const perPiece = vault.ChunkSize / pgdata.PageSize
	all := scatteredPieces * perPiece
	content := make([]byte, scatteredPieces*vault.ChunkSize)
	r := rand.New(rand.NewPCG(4, 3))
	for at := 0; at < len(content); at += 64 { // each page is another, and compresses
		copy(content[at:], fmt.Sprintf("%016x", r.Uint64()))
	}
	o := scatteredBackup(t, content)
	file := filepath.Join(o.Dir, "base", "5", "1")
	for _, c := range []struct {
		name     string
		pages    []int
		readMost int // per cent of the file; what differs by chance is drawn with a fixed seed
	}{
		{"nothing differs", nil, 0},
		{"one page in twenty, side by side", beside(all/20, 5), 10},
		{"one page in 1,365, scattered", spread(3, all), 10},
		{"one page in a hundred, by chance", r.Perm(all)[:all/100], 90},
		{"one page of each piece", spread(scatteredPieces, all), 100},
	} {
		t.Run(c.name, func(t *testing.T) {
			pieces := map[int]bool{}
			there := bytes.Clone(content)
			for _, p := range c.pages {
				pieces[p/perPiece] = true
				there[p*pgdata.PageSize+17] ^= 0xff
			}
			about := fmt.Sprintf(`{"backup":%q,"system_id":"7"}`, o.Choice.Backup.ID)
			if err := os.WriteFile(file, there, 0o600); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(o.Dir, markerFile), []byte(about), 0o600); err != nil {
				t.Fatal(err)
			}
			res, err := Run(t.Context(), o)
			if err != nil {
				t.Fatal(err)
			}
			if got, err := os.ReadFile(file); err != nil || !bytes.Equal(got, content) {
				t.Fatalf("the file is not what was backed up: %v", err)
			}
			read := res.Bytes - res.Kept - int64(len(scatteredControl)) // pg_control is always written anew
			if want := int64(len(pieces)) * vault.ChunkSize; read != want {
				t.Errorf("%d bytes were read, want %d: %d pages in %d pieces differ", read, want, len(c.pages), len(pieces))
			}
			if percent := int(read * 100 / int64(len(content))); percent > c.readMost {
				t.Errorf("%d %% were read", percent)
			} else {
				t.Logf("%d of %d pages differ: %d %% are read", len(c.pages), all, percent)
			}
		})
	}
}

// beside are n pages side by side.
func beside(n, from int) (out []int) {
	for i := range n {
		out = append(out, from+i)
	}
	return out
}

// spread are n pages of all, as far from each other as can be.
func spread(n, all int) (out []int) {
	for i := range n {
		out = append(out, i*(all/n)+all/n/2)
	}
	return out
}

var scatteredControl = bytes.Repeat([]byte("control "), 1024)

// scatteredBackup is how to restore a backup with one large file, which has been restored once.
func scatteredBackup(t *testing.T, content []byte) Options {
	t.Helper()
	ctx := t.Context()
	v, err := vault.Create(ctx, vault.Config{URL: "file://" + filepath.Join(t.TempDir(), "vault"), Key: redact.Secret("k"), Keys: &vault.Keyring{}, Application: "clinic", Host: "h1"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := v.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	const segment = 1 << 20
	w, err := v.Begin(ctx, "test")
	if err != nil {
		t.Fatal(err)
	}
	w.Dir(vault.Entry{Path: "pgdata/pg_wal", Mode: 0o700})
	for path, text := range map[string][]byte{"pgdata/PG_VERSION": []byte("15\n"), "pgdata/base/5/1": content, "pgdata/" + controlFile: scatteredControl} {
		f := w.File(vault.Entry{Path: path, Mode: 0o600, ModTime: time.Unix(1e9, 0)})
		if _, err = f.Write(text); err == nil {
			err = f.Keep()
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	b, err := w.Commit(vault.Backup{Database: "orders", Kind: "full", SystemID: 7, Timeline: 1, Start: segment + 40, Stop: segment + 256,
		Started: time.Unix(2e9, 0), Stopped: time.Unix(2e9+5, 0), ServerVersion: 150018, SegmentSize: segment})
	if err == nil {
		err = v.Log(7, segment).PutSegment(ctx, 1, segment, make([]byte, segment), time.Unix(2e9+9, 0))
	}
	if err != nil {
		t.Fatal(err)
	}
	held, err := v.Log(7, segment).Held(ctx)
	if err != nil {
		t.Fatal(err)
	}
	owner, err := DefaultOwner()
	if err != nil {
		t.Fatal(err)
	}
	o := Options{Vault: v, Dir: filepath.Join(t.TempDir(), "data"), Owner: owner, Throwaway: true,
		Choice: Choice{Backup: b, Target: Target{Kind: Latest}, Timeline: 1, Pieces: held, End: wal.LSN(2 * segment)}}
	if _, err := Run(ctx, o); err != nil {
		t.Fatal(err)
	}
	return o
}
