package backup

import (
	"encoding/binary"
	"fmt"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"holdfast/internal/pgdata"
	"holdfast/internal/redact"
	"holdfast/internal/vault"
)

func TestWhenAFastBackupTakesChunksOver(t *testing.T) {
	now := time.Date(2026, 11, 21, 4, 0, 0, 0, time.UTC)
	before := vault.Backup{ID: "earlier", SystemID: 7, Timeline: 2, ServerVersion: 150018, Checksums: true, Start: 100, Stop: 200, Reread: now.Add(-24 * time.Hour)}
	for name, c := range map[string]struct {
		mode   Mode
		none   bool
		change func(e, b *vault.Backup)
		size   int64
		want   bool
	}{
		"a fast one takes over":                              {mode: Fast, want: true},
		"a full one reads everything":                        {mode: ""},
		"a proven one reads everything":                      {mode: Proven},
		"an automatic one reads a small database":            {mode: Auto, size: autoFrom - 1},
		"an automatic one takes over from a large one":       {mode: Auto, size: autoFrom, want: true},
		"without an earlier one everything is read":          {mode: Fast, none: true},
		"another cluster":                                    {mode: Fast, change: func(e, _ *vault.Backup) { e.SystemID++ }},
		"after a failover everything is read":                {mode: Fast, change: func(_, b *vault.Backup) { b.Timeline++ }},
		"after a minor upgrade everything is read":           {mode: Fast, change: func(_, b *vault.Backup) { b.ServerVersion++ }},
		"checksums were switched":                            {mode: Fast, change: func(e, _ *vault.Backup) { e.Checksums = false }},
		"without checksums a change may not show":            {mode: Fast, change: func(e, b *vault.Backup) { e.Checksums, b.Checksums = false, false }},
		"a log that stands before the earlier one's end":     {mode: Fast, change: func(_, b *vault.Backup) { b.Start = 199 }},
		"an earlier one with bad pages":                      {mode: Fast, change: func(e, _ *vault.Backup) { e.BadPages = []string{"base/5/1 block 3"} }},
		"an earlier one that differed":                       {mode: Fast, change: func(e, _ *vault.Backup) { e.Differs = []string{"base/5/1 blocks 0 to 127"} }},
		"everything was read more than a week ago":           {mode: Fast, change: func(e, _ *vault.Backup) { e.Reread = now.Add(-rereadEvery - time.Second) }},
		"everything was read in the future, by a set clock":  {mode: Fast, change: func(e, _ *vault.Backup) { e.Reread = now.Add(time.Minute) }},
		"everything was read a moment less than a week ago":  {mode: Fast, want: true, change: func(e, _ *vault.Backup) { e.Reread = now.Add(-rereadEvery) }},
		"the log stands exactly where the earlier one ended": {mode: Fast, want: true, change: func(_, b *vault.Backup) { b.Start = 200 }},
	} {
		t.Run(name, func(t *testing.T) {
			e, b := before, vault.Backup{SystemID: 7, Timeline: 2, ServerVersion: 150018, Checksums: true, Start: 300}
			if c.change != nil {
				c.change(&e, &b)
			}
			from := &earlier{backup: e}
			if c.none {
				from = nil
			}
			if got, why := mayTake(c.mode, b, from, c.size, now); got != c.want || why == "" {
				t.Errorf("takes over: %t, because %q", got, why)
			}
		})
	}
}

func TestAPieceIsTakenOverOnlyWhenNoPageChanged(t *testing.T) {
	page := func(lsn uint64, upper uint16) []byte {
		p := make([]byte, pgdata.PageSize)
		binary.LittleEndian.PutUint32(p, uint32(lsn>>32))
		binary.LittleEndian.PutUint32(p[4:], uint32(lsn))
		binary.LittleEndian.PutUint16(p[14:], upper)
		return p
	}
	for name, c := range map[string]struct {
		piece []byte
		want  bool
	}{
		"all pages are older":                        {append(page(5, 100), page(99, 100)...), true},
		"one page is younger":                        {append(page(5, 100), page(101, 100)...), false},
		"a page that was changed just then":          {page(100, 100), false},
		"a page beyond 4 GiB of log":                 {page(1<<32, 100), false},
		"a page that was never filled":               {append(page(5, 100), page(0, 0)...), false},
		"half a page at the end":                     {page(5, 100)[:4096], false},
		"nothing":                                    {nil, false},
		"a filled page from before the log was kept": {page(0, 100), true},
	} {
		if got := olderThan(c.piece, 100); got != c.want {
			t.Errorf("%s: %t", name, got)
		}
	}
}

func TestPagesOfAnIndexThatIsBeingBuiltAccuseNobody(t *testing.T) {
	page := func(lsn uint64) []byte {
		p := make([]byte, pgdata.PageSize)
		binary.LittleEndian.PutUint32(p[0:], uint32(lsn>>32))
		binary.LittleEndian.PutUint32(p[4:], uint32(lsn))
		binary.LittleEndian.PutUint16(p[14:], 100)
		return p
	}
	for name, c := range map[string]struct {
		piece []byte
		want  bool
	}{
		"pages that the log wrote":            {slices.Concat(page(0x1000028), page(1<<33)), true},
		"a page of a GiST build among them":   {slices.Concat(page(0x1000028), page(1)), false},
		"a page of a GIN build":               {page(0), false},
		"a position of what is not logged":    {page(1000), false},
		"the first that any server can write": {page(1 << 20), true},
	} {
		if got := logged(c.piece); got != c.want {
			t.Errorf("%s: %t", name, got)
		}
	}
}

func TestAFileIsUntouchedOnlyWhenItsTimesAreSettled(t *testing.T) {
	scanned := time.Unix(1000, 0)
	at := func(d time.Duration) int64 { return scanned.Add(-d).UnixNano() }
	was := fact{Size: 8192, Inode: 5, Modified: at(time.Minute), Changed: at(time.Minute)}
	changed := func(f func(*fact)) fact { n := was; f(&n); return n }
	for name, c := range map[string]struct {
		was, now         fact
		untouched, grown bool
	}{
		"nothing changed":             {was, was, true, true},
		"written to":                  {was, changed(func(f *fact) { f.Modified++ }), false, true},
		"longer":                      {was, changed(func(f *fact) { f.Size++ }), false, true},
		"its time of change alone":    {was, changed(func(f *fact) { f.Changed++ }), false, true},
		"another file under its name": {was, changed(func(f *fact) { f.Inode++ }), false, false},
		"its disk was set back":       {was, changed(func(f *fact) { f.Modified-- }), false, false},
		"changed while it was listed": {fact{Modified: at(time.Second), Changed: at(time.Minute)}, fact{Modified: at(time.Second), Changed: at(time.Minute)}, false, true},
	} {
		if u, g := c.was.untouched(c.now, scanned), c.was.grown(c.now); u != c.untouched || g != c.grown {
			t.Errorf("%s: untouched %t, grown %t", name, u, g)
		}
	}
}

func TestReadersTogetherKeepToTheirLimit(t *testing.T) {
	now := time.Unix(1000, 0)
	p := newPacer(100)
	if d := p.turn(100, now); d != 0 {
		t.Errorf("the first second's worth waits %s", d)
	}
	if d := p.turn(100, now); d != time.Second {
		t.Errorf("the second one waits %s", d)
	}
	if d := p.turn(50, now.Add(time.Second)); d != 500*time.Millisecond {
		t.Errorf("half a second's worth, when all is paid for, waits %s", d)
	}
	if d := p.turn(100, now.Add(time.Hour)); d != 0 {
		t.Errorf("after a pause it waits %s", d)
	}
	if d := p.turn(100, now.Add(time.Hour)); d != time.Second {
		t.Errorf("an hour's pause is not followed by a rush: it waits %s", d)
	}
}

// A database that was made anew in the same directory has another identifier: none of the former one's backups is what a new one
// is compared with, however many there are, and the other way round.
func TestAnEarlierBackupIsOfTheSameCluster(t *testing.T) {
	ctx := t.Context()
	v, err := vault.Create(ctx, vault.Config{URL: "file://" + filepath.Join(t.TempDir(), "vault"), Key: redact.Secret("k"), Keys: &vaultKeys, Application: "clinic", Host: "h1"})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := v.Close(ctx); err != nil {
			t.Error(err)
		}
	}()
	at := time.Date(2026, 11, 21, 4, 0, 0, 0, time.UTC)
	here, err := factsOf("h1", t.TempDir(), at, nil)
	if err != nil {
		t.Fatal(err)
	}
	store := func(system uint64, n int, differs ...string) string {
		t.Helper()
		w, err := v.Begin(ctx, "a test")
		if err != nil {
			t.Fatal(err)
		}
		if err := storeFacts(w, here); err != nil {
			t.Fatal(err)
		}
		then := at.Add(time.Duration(n) * time.Hour)
		b, err := w.Commit(vault.Backup{ID: fmt.Sprint("orders-", n), Database: "orders", Kind: "full", Host: "h1", SystemID: system, Started: then, Stopped: then, Reread: then, Differs: differs})
		if err != nil {
			t.Fatal(err)
		}
		return b.ID
	}
	former := store(7, 1)
	newest := ""
	for n := range earlierTried + 1 {
		newest = store(8, 2+n)
	}
	store(7, 9, "base/5/1 blocks 0 to 127") // the former one's disk was suspected: that is nothing to the new one
	for system, want := range map[uint64]string{7: former, 8: newest, 9: ""} {
		e, err := findEarlier(ctx, v, "orders", system, here)
		if err != nil {
			t.Fatal(err)
		}
		got := ""
		if e != nil {
			got = e.backup.ID
		}
		if got != want || e != nil && (e.doubted != "") != (system == 7) {
			t.Errorf("cluster %d: it is compared with %q (%+v), want %q", system, got, e, want)
		}
	}
}
