package vault_test

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"holdfast/internal/vault"
	"holdfast/internal/vault/wal"
)

// The guards under which the repository is used, by their letters; those that are not here stand where they are tried:
//
//	d     TestWhatABackupAloneUsedIsFreedAndNothingElse: no leave, no deletion
//	e     confined's tests
//	f     below, and TestClocksThatDifferAreAProblem
//	a     repo/epoch's tests: after a gap between epochs no entry vanishes (kopia#5371)
//	g     TestGuardGAFormatOfTheFutureEndsTheWritingAndNotTheProcess
//	b, h  filestore's and s3store's tests, TestALostFormatComesBackFromItsCopy
//	i, j  TestScrubFindsAndRepairMends, TestALostPackIsNamedAndStoredAgain
//	k     layout_test.go at the root

// c: a backup is few flushes, each of which leaves an index; the log makes none.
func TestGuardCFewIndexesAreMade(t *testing.T) {
	v, dir := create(t)
	indexes := func() int {
		n := 0
		for _, f := range files(t, dir, "repository") {
			if rel, err := filepath.Rel(filepath.Join(dir, "repository"), f); err == nil && rel[0] == 'x' {
				n++
			}
		}
		return n
	}
	before := indexes()
	store(t, v, sample())
	if n := indexes() - before; n > 3 {
		t.Errorf("one backup left %d indexes", n)
	}
	before = indexes()
	for i := range 5 {
		if err := v.Log(7, 1<<20).PutSegment(t.Context(), 1, wal.LSN(i<<20), make([]byte, 1<<20), time.Unix(9, 0)); err != nil {
			t.Fatal(err)
		}
	}
	if n := indexes(); n != before {
		t.Errorf("the log left %d indexes", n-before)
	}
}

// f: nothing is let go of while a scrub's damage stands, or a copy is away.
func TestGuardFNothingIsDeletedBesideDamageOrWithoutACopy(t *testing.T) {
	conf, home, away := pair(t)
	v := createIn(t, place{home, conf})
	store(t, v, map[string][]byte{"pgdata/PG_VERSION": []byte("15\n")})
	syncAll(t, v)
	if err := v.MayDelete(t.Context()); err != nil {
		t.Errorf("a whole vault: %v", err)
	}
	whole := spoil(t, biggest(t, away, "repository/p"), "a flipped bit")
	if err := v.RecordScrub(t.Context(), scrub(t, v)); err != nil {
		t.Fatal(err)
	}
	wantProblem(t, v.MayDelete(t.Context()), "vault.damaged")
	if err := os.WriteFile(biggest(t, away, "repository/p"), whole, 0o600); err != nil {
		t.Fatal(err)
	}
	syncAll(t, v) // the note of the scrub
	if err := v.RecordScrub(t.Context(), scrub(t, v)); err != nil {
		t.Fatal(err)
	}
	if err := v.MayDelete(t.Context()); err != nil {
		t.Errorf("mended: %v", err)
	}
	if err := os.Rename(away, away+".gone"); err != nil {
		t.Fatal(err)
	}
	without := conf
	without.Others = []vault.Place{{Copy: "away", URL: "file://" + away, Filled: true}}
	half := openAll(t, without)
	wantProblem(t, half.MayDelete(t.Context()), "vault.needs-every-copy")
}
