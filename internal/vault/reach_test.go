package vault_test

import (
	"os"
	"testing"
	"time"

	"holdfast/internal/vault"
	"holdfast/internal/vault/wal"
)

// Each copy says for itself how far its log goes: what lies in the other one alone does not count, and a copy that is away
// says nothing.
func TestEachCopySaysHowFarItsLogGoes(t *testing.T) {
	conf, home, away := pair(t)
	v := createIn(t, place{home, conf})
	one := wal.History{{Timeline: 1}}
	reach := func(v *vault.Vault, from int) map[string]vault.Reach {
		t.Helper()
		all, err := v.Log(7, bundleSize).Reach(t.Context(), one, wal.LSN(from*bundleSize+5))
		if err != nil {
			t.Fatal(err)
		}
		out := map[string]vault.Reach{}
		for _, r := range all {
			out[r.Copy] = r
		}
		return out
	}
	want := func(r vault.Reach, segment int, until time.Time) {
		t.Helper()
		if r.Away != "" || r.End != wal.LSN(segment*bundleSize) || !r.Until.Equal(until) {
			t.Errorf("copy %s: %+v, want the beginning of segment %d, %s", r.Copy, r, segment, until)
		}
	}
	l := v.Log(7, bundleSize)
	putLog(t, l, 1, 3)
	syncAll(t, v)
	putLog(t, l, 4, 5) // carried to the other one later
	if err := l.PutCovered(t.Context(), 1, 6*bundleSize, time.Unix(60, 0)); err != nil {
		t.Fatal(err)
	}
	now := reach(v, 1)
	want(now["home"], 6, time.Unix(60, 0))
	want(now["away"], 4, time.Unix(3, 0))
	if _, err := l.Bundle(t.Context(), atOnce()); err != nil { // it stores bundles in both
		t.Fatal(err)
	}
	syncAll(t, v)
	now = reach(v, 1)
	want(now["home"], 6, time.Unix(60, 0))
	want(now["away"], 6, time.Unix(60, 0))

	putLog(t, l, 7, 7) // behind a hole
	want(reach(v, 1)["home"], 6, time.Unix(60, 0))
	if err := os.Rename(away, away+".gone"); err != nil {
		t.Fatal(err)
	}
	gone := conf
	gone.Others = append([]vault.Place(nil), conf.Others...)
	gone.Others[0].Filled = true
	now = reach(openAll(t, gone), 1)
	want(now["home"], 6, time.Unix(60, 0))
	if r := now["away"]; r.Away == "" || r.End != 0 || !r.Until.IsZero() {
		t.Errorf("a copy that is away says %+v", r)
	}
}
