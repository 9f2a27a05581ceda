package backup_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"holdfast/internal/backup"
	"holdfast/internal/cli"
	"holdfast/internal/receipt"
	"holdfast/internal/restore"
	"holdfast/internal/restore/pgtest"
	"holdfast/internal/vault"
)

// told is what a drill, and below times a restore, says in JSON.
type told struct {
	Expected struct {
		Known   bool
		Seconds float64 `json:"expected_seconds"`
		Phases  []struct {
			Name, Because string
			Known         bool
			Seconds       float64 `json:"expected_seconds"`
		}
	}
	Measured *struct {
		Phases []struct {
			Name    string
			Seconds float64
		}
		Seconds  float64
		Replayed int64    `json:"replayed_bytes"`
		Off      *float64 `json:"off_percent"`
		Missed   bool
	}
	Began time.Time
	Loss  struct {
		Newest  time.Time `json:"newest_restorable"`
		Seconds *float64  `json:"rpo_seconds"`
		Commit  time.Time `json:"newest_commit"`
	}
}

type toldDrills struct {
	OK   bool
	Runs []struct {
		told
		OK      bool
		Fault   string
		Asked   []string
		Receipt string
	}
}

// A whole database is rehearsed from a vault and its key alone, and everything about it is told, signed, and gone again.
func TestADrillTellsWhatItExpectedAndMeasured(t *testing.T) {
	s := pgtest.New(t)
	vaultDir, key := filepath.Join(t.TempDir(), "vault"), filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(key, []byte("k"), 0o600); err != nil {
		t.Fatal(err)
	}
	v, err := vault.Create(t.Context(), killedConfig(vaultDir))
	if err != nil {
		t.Fatal(err)
	}
	stop := archive(t, receiver(t, v), s)
	s.Exec("postgres", "create table rows (id int primary key, body text)", "insert into rows select g, md5(g::text) from generate_series(1, 20000) g")
	b := base(t, v, s)
	scratch := pgtest.Dir(t)
	owner, err := restore.DefaultOwner()
	if err != nil {
		t.Fatal(err)
	}
	if _, mark, err := backup.Validate(t.Context(), backup.ValidateOptions{Vault: v, Database: "orders", Dir: scratch, Owner: owner}); err != nil || !mark.Passed {
		t.Fatalf("%v, %+v", err, mark)
	}
	s.Exec("postgres", "insert into rows select g, md5(g::text) from generate_series(20001, 40000) g", "select pg_switch_wal()")
	last := time.Now()
	until(t, "the log is in the vault", func() bool {
		c, err := restore.Load(t.Context(), v, "orders")
		if err != nil {
			t.Fatal(err)
		}
		ch, err := restore.Choose(c, restore.Target{Kind: restore.Latest})
		return err == nil && ch.Covered.After(last)
	})
	_ = stop()
	s.Kill()
	if err := v.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	alone := []string{"--vault", vaultDir, "--key", key, "--output", "json"}

	var first toldDrills
	command(t, 0, &first, append([]string{"restore", "drill", "orders", "--runs", "2", "--scratch", scratch}, alone...)...)
	if !first.OK || len(first.Runs) != 2 {
		t.Fatalf("%+v", first)
	}
	for i, r := range first.Runs {
		if !r.OK || !slices.Contains(r.Asked, "postgres") {
			t.Errorf("run %d: %+v", i, r)
		}
		r.whole(t, "fetch", "start", "replay", "checks")
		if r.Loss.Seconds == nil || r.Loss.Newest.Before(last.Add(-time.Second)) || math.Abs(*r.Loss.Seconds-max(r.Began.Sub(r.Loss.Newest).Seconds(), 0)) > 0.01 || r.Loss.Commit.After(last) || r.Loss.Commit.Before(b.Stopped) {
			t.Errorf("run %d would lose %+v, began %s, the last row came before %s", i, r.Loss, r.Began, last)
		}
		if r.Measured != nil && (r.Measured.Replayed < 1<<20 || r.Measured.Replayed > 64<<20) {
			t.Errorf("run %d replayed %d bytes", i, r.Measured.Replayed)
		}
	}
	if p := first.Runs[0].Expected.Phases; !strings.Contains(p[0].Because, "just now") || !strings.Contains(p[1].Because, "the trial of "+b.ID) {
		t.Errorf("the first drill knows by %+v", p)
	}
	if r := first.Runs[1]; !r.Expected.Known || r.Measured.Off == nil || !strings.Contains(r.Expected.Phases[2].Because, "drill unvouched-") {
		t.Errorf("the second drill did not learn from the first: %+v", r)
	}
	left(t, scratch, "orders.drill.receipt")
	receiptsProve(t, filepath.Join(scratch, "orders.drill.receipt"), 2)

	t.Run("a dry run says how long, and leaves nothing", func(t *testing.T) {
		var dry struct{ Times told }
		command(t, 0, &dry, append([]string{"restore", "database", "orders", "--dry-run", "--to", filepath.Join(scratch, "there")}, alone...)...)
		if !dry.Times.Expected.Known || dry.Times.Measured != nil || !strings.Contains(dry.Times.Expected.Phases[0].Because, "just now") {
			t.Errorf("%+v", dry)
		}
		command(t, 0, &dry, append([]string{"restore", "database", "orders", "--dry-run", "--no-sample", "--to", filepath.Join(scratch, "there")}, alone...)...)
		if because := dry.Times.Expected.Phases[0].Because; !strings.Contains(because, "as in drill unvouched-") {
			t.Errorf("without a sample it is expected: %s", because)
		}
		left(t, scratch, "orders.drill.receipt")
	})
	t.Run("a restore says what it took, and its receipt too", func(t *testing.T) {
		to := pgtest.Dir(t)
		var done struct{ Times told }
		command(t, 0, &done, append([]string{"restore", "database", "orders", "--to", filepath.Join(to, "data")}, alone...)...)
		done.Times.whole(t, "fetch", "start", "replay")
		left(t, to, "data", "data.receipt")
		receiptsProve(t, filepath.Join(to, "data.receipt"), 1)
	})
	t.Run("one behind the last commit replays twice, which is counted and says nothing of the next", func(t *testing.T) {
		where := pgtest.Dir(t)
		var twice toldDrills
		command(t, 0, &twice, append([]string{"restore", "drill", "orders", "--runs", "2", "--at", last.UTC().Format(time.RFC3339Nano), "--scratch", where}, alone...)...)
		for i, r := range twice.Runs {
			sum := 0.0
			for _, p := range r.Measured.Phases {
				sum += p.Seconds
			}
			if r.Measured.Replayed != 0 || math.Abs(sum-r.Measured.Seconds) > 1e-6 {
				t.Errorf("run %d: %+v", i, r.Measured)
			}
			if p := r.Expected.Phases; !strings.Contains(p[1].Because, "the trial of "+b.ID) || p[2].Known {
				t.Errorf("run %d is expected %+v", i, p)
			}
		}
		left(t, where, "orders.drill.receipt")
	})
	t.Run("one that fails says why, in a receipt too, and leaves nothing", func(t *testing.T) {
		packs, err := filepath.Glob(filepath.Join(vaultDir, "repository", "p*", "*", "*"))
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range append(packs, globbed(t, filepath.Join(vaultDir, "repository", "p*.f"))...) {
			overwrite(t, p)
		}
		where := pgtest.Dir(t)
		var failed toldDrills
		command(t, 1, &failed, append([]string{"restore", "drill", "orders", "--scratch", where}, alone...)...)
		if failed.OK || len(failed.Runs) != 1 || failed.Runs[0].Fault == "" {
			t.Errorf("%+v", failed)
		}
		left(t, where, "orders.drill.receipt")
		receiptsProve(t, filepath.Join(where, "orders.drill.receipt"), 1)
	})
}

// whole checks that all phases were measured, and that the sums agree.
func (d told) whole(t *testing.T, phases ...string) {
	t.Helper()
	if d.Measured == nil || len(d.Measured.Phases) != len(phases) || len(d.Expected.Phases) != len(phases) {
		t.Fatalf("not every phase is there: %+v", d)
	}
	expected, took := 0.0, 0.0
	for i, name := range phases {
		e, m := d.Expected.Phases[i], d.Measured.Phases[i]
		expected, took = expected+e.Seconds, took+m.Seconds
		if e.Name != name || m.Name != name || e.Because == "" || m.Seconds < 0 {
			t.Errorf("phase %d: expected %+v, measured %+v", i, e, m)
		}
	}
	if math.Abs(expected-d.Expected.Seconds) > 1e-6 || math.Abs(took-d.Measured.Seconds) > 1e-6 || took <= 0 {
		t.Errorf("the phases come to %g and %g seconds: %+v", expected, took, d)
	}
}

// command runs one command line, reads its JSON, and gives what else it said.
func command(t *testing.T, want int, into any, args ...string) (says string) {
	t.Helper()
	var out, bad bytes.Buffer
	if got := cli.Main(args, strings.NewReader(""), &out, &bad); got != want {
		t.Fatalf("holdfast %s: exit status %d, want %d\n%s%s", strings.Join(args, " "), got, want, &out, &bad)
	}
	t.Logf("%s", &bad)
	if into == nil {
		return out.String() + bad.String()
	}
	if err := json.Unmarshal(out.Bytes(), into); err != nil {
		t.Fatalf("%v: %s", err, &out)
	}
	return bad.String()
}

// left checks that a directory holds nothing else, and that no server works in it.
func left(t *testing.T, dir string, want ...string) {
	t.Helper()
	var got []string
	for _, p := range globbed(t, filepath.Join(dir, "*")) {
		got = append(got, filepath.Base(p))
	}
	if !slices.Equal(got, want) {
		t.Errorf("%s holds %q, and should %q", dir, got, want)
	}
	if n := postgresIn(t, dir); n > 0 {
		t.Errorf("%d processes work in %s", n, dir)
	}
}

func globbed(t *testing.T, pattern string) []string {
	t.Helper()
	names, err := filepath.Glob(pattern)
	if err != nil {
		t.Fatal(err)
	}
	return names
}

// receiptsProve verifies receipts with nothing but them and their public key, and that a change of the expected time is named.
func receiptsProve(t *testing.T, dir string, n int) {
	t.Helper()
	pages := globbed(t, filepath.Join(dir, "vault-*"))
	files := globbed(t, filepath.Join(dir, "*", "*", "*.json"))
	if len(pages) != 1 || len(files) != n {
		t.Fatalf("receipts in %q: %q", pages, files)
	}
	verify := []string{"receipt", "verify", pages[0], "--public", filepath.Join(dir, receipt.PublicKeyFile)}
	command(t, 0, nil, verify...)
	raw, err := os.ReadFile(files[n-1])
	if err != nil {
		t.Fatal(err)
	}
	r, err := receipt.Read(raw)
	if err != nil {
		t.Fatal(err)
	}
	figure, good := "rpo_seconds", r.Figures["rto_seconds"] > 0
	if r.Outcome == receipt.Failed { // what it did not come to has no figure
		figure, good = "took_seconds", r.Figures["fetch_seconds"] > 0
		for _, name := range []string{"rto_seconds", "rpo_seconds", "start_seconds", "replay_seconds", "checks_seconds"} {
			if _, told := r.Figures[name]; told {
				t.Errorf("the receipt of a drill that failed in its fetch says %s", name)
			}
		}
	}
	if _, told := r.Figures[figure]; !told || !good {
		t.Errorf("the receipt's figures: %v", r.Figures)
	}
	var e receipt.Envelope
	if err := json.Unmarshal(raw, &e); err != nil {
		t.Fatal(err)
	}
	payload, err := base64.StdEncoding.DecodeString(e.Payload)
	if err != nil {
		t.Fatal(err)
	}
	forged := bytes.Replace(payload, []byte(`"`+figure+`":`), []byte(`"`+figure+`":1`), 1)
	e.Payload = base64.StdEncoding.EncodeToString(forged)
	changed, err := json.Marshal(e)
	if err == nil {
		err = os.WriteFile(files[n-1], changed, 0o600)
	}
	if err != nil || bytes.Equal(forged, payload) {
		t.Fatal(err, "nothing was changed")
	}
	if says := command(t, 1, nil, verify...); !strings.Contains(says, files[n-1]) {
		t.Errorf("of a receipt of which a figure was changed it is said: %s", says)
	}
	verify[2] = files[n-1]
	if says := command(t, 1, nil, verify...); !strings.Contains(says, "it was changed") {
		t.Errorf("of it alone it is said: %s", says)
	}
	if err := os.WriteFile(files[n-1], raw, 0o600); err != nil {
		t.Fatal(err)
	}
}

// overwrite changes bytes within a file.
func overwrite(t *testing.T, file string) {
	t.Helper()
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for i := len(raw) / 4; i < len(raw)*3/4; i++ {
		raw[i] ^= 0x5a
	}
	if err := os.Chmod(file, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, raw, 0o600); err != nil {
		t.Fatal(err)
	}
}
