package lab_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"holdfast/internal/api"
	"holdfast/lab"
)

// drilled is what `restore drill` says in JSON.
type drilled struct {
	OK   bool
	Runs []struct {
		OK       bool
		Fault    string
		Bytes    int64
		Log      int64 `json:"log_bytes"`
		Began    time.Time
		Expected struct {
			Known   bool
			Seconds float64 `json:"expected_seconds"`
			Phases  []struct {
				Name, Because string
				Seconds       float64 `json:"expected_seconds"`
			}
		}
		Measured struct {
			Seconds  float64
			Replayed int64   `json:"replayed_bytes"`
			Off      float64 `json:"off_percent"`
			Missed   bool
			Phases   []struct {
				Name    string
				Seconds float64
			}
		}
		Loss struct {
			Newest  time.Time `json:"newest_restorable"`
			Seconds *float64  `json:"rpo_seconds"`
			Commit  time.Time `json:"newest_commit"`
		}
	}
}

// Some hundred megabytes, and as much log, come back at another site five times, from the vault and its key alone. Each time a
// forecast was known before; what would have been lost is told; and the receipts are proven there. How far off the forecasts were
// is printed. With -lab.timed, on a quiet machine, each must be right to a quarter: a run whose machine became faster or slower
// between the forecast and its end, by the word of a witness, is made again then, for of what others do a forecast cannot know.
func TestADrillAtAnotherSiteKnowsItsTimeBefore(t *testing.T) {
	lab.Long(t)
	w := lab.NewAs(t, "127.60.67", lab.Shape{})
	w.Start()
	run := func(args ...string) string {
		t.Helper()
		out, err := w.Run(args...)
		if err != nil {
			t.Fatalf("%s: %v\n%s", strings.Join(args, " "), err, out)
		}
		return out
	}
	write := func(sql string) {
		t.Helper()
		conn, err := w.Connect(t.Context(), "h1")
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = conn.Close(t.Context()) }() // done with
		if _, err := conn.PgConn().Exec(t.Context(), sql).ReadAll(); err != nil {
			t.Fatal(err)
		}
	}
	w.Await("a backup is proven", 2*recoverMax, func(st api.Status) bool {
		a := st.Databases[0].Archive
		return lab.Well(st) && a != nil && a.Last != nil && a.Last.Proven
	})
	write("CREATE TABLE filler (n int PRIMARY KEY, words text); INSERT INTO filler SELECT n, (SELECT string_agg(md5((n * 31 + k)::text), '') FROM generate_series(1, 30) k) FROM generate_series(1, 400000) n")
	run("backup", "run", "records")
	write("UPDATE filler SET words = reverse(words) WHERE n % 10 = 0")
	write("INSERT INTO filler SELECT n, (SELECT string_agg(md5((n * 31 + k)::text), '') FROM generate_series(1, 30) k) FROM generate_series(400001, 430000) n")
	last := time.Now()
	awaitVault(t, w, last)
	wit := startWitness(t, filepath.Dir(w.Plan))
	home := readDrilled(t, run("restore", "drill", "records", "--output", "json"), nil)
	tellDrilled(t, "at home", home)
	paces := []pace{paceOf(wit, home, time.Now())}
	if verified := run("receipt", "verify"); !strings.Contains(verified, "1 drill passed") || !strings.Contains(verified, "proven.") {
		t.Errorf("the receipts at home: %s", verified)
	}
	key := filepath.Join(filepath.Dir(w.Plan), "exported.key")
	run("vault", "key", "export", "main", "--out", key)
	w.Stop()

	far := newFarSite(t, filepath.Join(w.Root, "vault"), key)
	scratch := filepath.Join(far.dir, "scratch")
	const wanted = 5
	most := wanted
	if *timed {
		most *= 3
	}
	runs, judged := 0, 0
	for ; judged < wanted && runs < most; runs++ {
		out, err := far.run("restore", "drill", "records", "--vault", far.vault, "--key", far.key, "--scratch", scratch, "--output", "json")
		there := readDrilled(t, string(out), err)
		now := paceOf(wit, there, time.Now())
		tellDrilled(t, fmt.Sprintf("at another site, run %d", runs+1), there)
		r := there.Runs[0]
		sum := 0.0
		for _, p := range r.Measured.Phases {
			sum += p.Seconds
		}
		if why := now.changed(paces); why != "" {
			t.Logf("run %d is not held to its forecast, for the machine was not steady: %s", runs+1, why)
		} else if judged++; *timed && (r.Measured.Missed || math.Abs(r.Measured.Off) > 25) {
			t.Errorf("run %d: %.1f s were expected, and it took %.1f s, while the machine was steady: %+v of %+v", runs+1, r.Expected.Seconds, r.Measured.Seconds, now, paces)
		}
		paces = append(paces, now)
		switch {
		case !r.Expected.Known:
			t.Errorf("run %d: it was not known before how long it would take", runs+1)
		case math.Abs(sum-r.Measured.Seconds) > 1e-6:
			t.Errorf("run %d: the phases come to %g s, the whole is %g s", runs+1, sum, r.Measured.Seconds)
		case r.Loss.Seconds == nil || math.Abs(*r.Loss.Seconds-r.Began.Sub(r.Loss.Newest).Seconds()) > 0.01 || r.Loss.Newest.Before(last) || r.Loss.Commit.Before(last.Add(-recoverMax)):
			t.Errorf("run %d: lost %+v, began %s, the last row was written at %s", runs+1, r.Loss, r.Began, last)
		case r.Bytes < 300<<20 || r.Measured.Replayed < 100<<20:
			t.Errorf("run %d: %d bytes and %d bytes of log are too little to prove anything", runs+1, r.Bytes, r.Measured.Replayed)
		}
	}
	kept, err := filepath.Glob(filepath.Join(scratch, "records.drill.receipt", "vault-*"))
	if err != nil || len(kept) != 1 {
		t.Fatalf("%q, %v", kept, err)
	}
	verify := []string{"receipt", "verify", kept[0], "--public", filepath.Join(filepath.Dir(kept[0]), "key.pub")}
	if out, err := far.run(verify...); err != nil || !bytes.Contains(out, fmt.Appendf(nil, "%d drill passed", runs)) || !bytes.Contains(out, []byte("proven.")) {
		t.Errorf("verified there: %v\n%s", err, out)
	}
	names, err := os.ReadDir(scratch)
	if err != nil || slices.ContainsFunc(names, func(e os.DirEntry) bool { return e.Name() != "records.drill.receipt" }) {
		t.Errorf("left: %v, %v", names, err)
	}
	if *timed && judged < wanted {
		t.Errorf("the machine was steady in %d of %d runs, of the %d that are to be held to their forecasts: the rest was not proven", judged, runs, wanted)
	}
}

// paceOf is how fast the machine was while the only run of a drill was foreseen, and while it went on until it had ended.
func paceOf(w *witness, d drilled, ended time.Time) pace {
	r := d.Runs[0]
	fetched := ended.Add(-time.Duration(r.Measured.Seconds * float64(time.Second)))
	return pace{sample: w.between(r.Began, fetched), run: w.between(fetched, ended)}
}

// readDrilled takes the JSON from behind what was told on the way.
func readDrilled(t *testing.T, text string, err error) (d drilled) {
	t.Helper()
	if err == nil {
		err = json.Unmarshal([]byte(text[max(strings.Index(text, "{"), 0):]), &d)
	}
	if err != nil || !d.OK {
		t.Fatalf("%v\n%s", err, text)
	}
	return d
}

func tellDrilled(t *testing.T, where string, d drilled) {
	t.Helper()
	for i, r := range d.Runs {
		t.Logf("%s %d: %d MiB and %d MiB of log, expected %.1f s (known: %v), measured %.1f s, %+.0f %%", where, i+1, r.Bytes>>20, r.Log>>20, r.Expected.Seconds, r.Expected.Known, r.Measured.Seconds, r.Measured.Off)
		for k, p := range r.Measured.Phases {
			t.Logf("    %-7s expected %5.1f s, measured %5.1f s: %s", p.Name, r.Expected.Phases[k].Seconds, p.Seconds, r.Expected.Phases[k].Because)
		}
	}
}
