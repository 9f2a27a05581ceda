package vault_test

import (
	"bytes"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"holdfast/internal/vault/wal"
)

// A copy that is asked first and holds something rotten fails no read while another copy has it whole; it is said which.
func TestARottenCopyFailsNoRead(t *testing.T) {
	conf, home, away := pair(t)
	v := createIn(t, place{home, conf})
	b := store(t, v, sample())
	segment := bytes.Repeat([]byte("log."), 1<<18)
	if err := v.Log(7, 1<<20).PutSegment(t.Context(), 1, 0, segment, time.Unix(9, 0)); err != nil {
		t.Fatal(err)
	}
	syncAll(t, openAll(t, conf))
	for what, below := range map[string]string{"a pack": "repository/p", "a pack of directories": "repository/q", "an index": "repository/x", "a segment": "wal/7"} {
		for _, how := range []string{"a flipped bit", "cut short"} {
			t.Run(what+", "+how, func(t *testing.T) {
				file := biggest(t, home, below)
				whole := spoil(t, file, how)
				defer func() {
					if err := os.WriteFile(file, whole, 0o600); err != nil {
						t.Fatal(err)
					}
				}()
				var said bytes.Buffer
				read := conf
				read.Log = slog.New(slog.NewJSONHandler(&said, nil))
				r := openAll(t, read)
				if got, err := fetch(t.Context(), r, b.ID); err != nil || differ(sample(), got) != "" {
					t.Errorf("the backup: %v", err)
				}
				got, err := r.Log(7, 1<<20).File(t.Context(), wal.SegmentName(1, 0, 1<<20))
				if err != nil || !bytes.Equal(got, segment) {
					t.Errorf("the log: %v", err)
				}
				if c := r.Copies(); c[0].Away != nil || c[1].Away != nil || len(c[1].Rotten) > 0 {
					t.Errorf("copies %+v", c)
				}
				if !strings.Contains(said.String(), `"ERROR"`) {
					t.Errorf("nothing was said: %s", said.String())
				}
				// What opens the vault cannot be held against a catalog that is not open yet.
				if bad := r.Copies()[0].Rotten; what != "an index" && (len(bad) != 1 || !strings.Contains(said.String(), `"copy":"home","blob":"`+bad[0]+`"`)) {
					t.Errorf("%s is not named: %v in %s", file, bad, said.String())
				}
			})
		}
	}
	t.Run("rotten everywhere is an error", func(t *testing.T) {
		for _, dir := range []string{home, away} {
			spoil(t, biggest(t, dir, "wal/7"), "a flipped bit")
			spoil(t, biggest(t, dir, "repository/p"), "a flipped bit")
		}
		r := openAll(t, conf)
		if _, err := r.Log(7, 1<<20).File(t.Context(), wal.SegmentName(1, 0, 1<<20)); err == nil || !strings.Contains(err.Error(), "damaged") {
			t.Errorf("got %v", err)
		}
		if _, err := fetch(t.Context(), r, b.ID); err == nil {
			t.Error("a rotten backup was read")
		}
	})
}

// The beginning of a segment stays in each copy until that copy has more of the segment, whatever the other has.
func TestABeginningStaysWhereNothingLongerHasCome(t *testing.T) {
	conf, home, away := pair(t)
	v := createIn(t, place{home, conf})
	log := v.Log(7, 1<<20)
	if err := log.PutPartial(t.Context(), 1, 0, []byte("begin"), time.Unix(5, 0)); err != nil {
		t.Fatal(err)
	}
	syncAll(t, v)
	held := func(dir string) []string {
		var out []string
		for _, f := range files(t, dir, "wal/7/00000001") {
			base, _, _ := strings.Cut(filepath.Base(f)[24:], "-")
			if p, ok := strings.CutPrefix(filepath.Base(f)[24:], ".partial-"); ok {
				base, _, _ = strings.Cut(p, "-")
			}
			out = append(out, base)
		}
		return out
	}
	step := func(what string, inHome, inAway string) {
		t.Helper()
		if h, a := strings.Join(held(home), " "), strings.Join(held(away), " "); h != inHome || a != inAway {
			t.Errorf("%s: %q and %q", what, h, a)
		}
	}
	step("at first", "00000005", "00000005")
	if err := log.PutPartial(t.Context(), 1, 0, []byte("begin and"), time.Unix(6, 0)); err != nil {
		t.Fatal(err)
	}
	step("a longer one in the first copy", "00000009", "00000005")
	if err := log.PutSegment(t.Context(), 1, 0, make([]byte, 1<<20), time.Unix(9, 0)); err != nil {
		t.Fatal(err)
	}
	step("the whole in the first copy", "", "00000005")
	if h, err := openAll(t, alone(away)).Log(7, 1<<20).Held(t.Context()); err != nil || len(h) != 1 || h[0].End != 5 {
		t.Errorf("the second copy alone holds %v, %v", h, err)
	}
	syncAll(t, v)
	step("the whole in both", "", "")
}

// What the record of a scrub does not cover nothing is deleted beside.
func TestNothingIsDeletedAfterAScrubThatMissedACopy(t *testing.T) {
	conf, home, _ := pair(t)
	v := createIn(t, place{home, conf})
	syncAll(t, v)
	s := scrub(t, v)
	s.Away = []string{"away: it did not answer"}
	if err := v.RecordScrub(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	wantProblem(t, v.MayDelete(t.Context()), "vault.needs-every-copy")
	s.Away = nil
	if err := v.RecordScrub(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	if err := v.MayDelete(t.Context()); err != nil {
		t.Error(err)
	}
}
