package walscan_test

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"holdfast/internal/database/postgres/walscan"
)

const segSize = 1 << 20

var bin = func() string {
	for major := 18; major >= 14; major-- {
		dir := fmt.Sprintf("/usr/lib/postgresql/%d/bin", major)
		if _, err := os.Stat(dir + "/pg_waldump"); err == nil {
			return dir
		}
	}
	return ""
}()

// asServer runs a PostgreSQL program as a user that it accepts.
func asServer(t *testing.T, stdin, name string, args ...string) {
	t.Helper()
	cmd := exec.Command(filepath.Join(bin, name), args...)
	cmd.Stdin = strings.NewReader(stdin)
	cmd.Dir = "/"
	cmd.Env = []string{"LC_ALL=C", "PATH=" + bin}
	if os.Geteuid() == 0 {
		u, err := user.Lookup("postgres")
		if err != nil {
			t.Fatal(err)
		}
		uid, _ := strconv.Atoi(u.Uid)
		gid, _ := strconv.Atoi(u.Gid)
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}}
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", name, err, out)
	}
}

// smallCluster makes a cluster with segments of one MiB, and gives its data directory.
func smallCluster(t *testing.T) string {
	t.Helper()
	if bin == "" {
		if os.Getenv("CI") != "" {
			t.Fatal("PostgreSQL is not installed in /usr/lib/postgresql")
		}
		t.Skip("PostgreSQL is not installed in /usr/lib/postgresql")
	}
	top, err := os.MkdirTemp("/tmp", "hfwal")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(top); err != nil {
			t.Error(err)
		}
	})
	if err := os.Chmod(top, 0o777); err != nil {
		t.Fatal(err)
	}
	data := filepath.Join(top, "data")
	asServer(t, "", "initdb", "-D", data, "-A", "reject", "--wal-segsize=1", "--no-sync", "--locale=C")
	return data
}

// realLog makes a cluster with small segments, writes to it, and gives its pg_wal and every record that
// pg_waldump finds in it.
func realLog(t *testing.T) (dir string, records []walscan.LSN) {
	t.Helper()
	data := smallCluster(t)
	asServer(t, `create table t (a int, b text);
insert into t select g, repeat(md5(g::text), 40) from generate_series(1, 3000) g;
select pg_switch_wal();
insert into t select g, 'x' from generate_series(1, 6000) g;
select pg_logical_emit_message(true, 'big', repeat('0123456789abcdef', 80000));
checkpoint;
update t set b = 'y' where a % 7 = 0;
`, "postgres", "--single", "-D", data, "-c", "fsync=off", "-c", "wal_keep_size=512MB", "postgres")
	dir = filepath.Join(data, "pg_wal")
	segments, err := walscan.Segments(dir, segSize)
	if err != nil {
		t.Fatal(err)
	}
	return dir, waldump(t, dir, walscan.LSN(segments[0].Number*segSize))
}

var lsnOf = regexp.MustCompile(`lsn: ([0-9A-F]+/[0-9A-F]+), prev`)

// waldump lists the records from a position on, as PostgreSQL's own tool finds them.
func waldump(t *testing.T, dir string, start walscan.LSN) []walscan.LSN {
	t.Helper()
	cmd := exec.Command(filepath.Join(bin, "pg_waldump"), "-p", dir, "-s", start.String())
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	_ = cmd.Run() // it always ends with an error: the log ends
	var found []walscan.LSN
	for _, m := range lsnOf.FindAllStringSubmatch(out.String(), -1) {
		l, err := walscan.ParseLSN(m[1])
		if err != nil {
			t.Fatal(err)
		}
		found = append(found, l)
	}
	if len(found) == 0 {
		t.Fatalf("pg_waldump found nothing: %s", errs.String())
	}
	return found
}

func scan(t *testing.T, dir string, start walscan.LSN) walscan.End {
	t.Helper()
	end, err := walscan.Scan(walscan.Input{Dir: dir, Start: start, Timeline: 1, SegSize: segSize})
	if err != nil {
		t.Fatal(err)
	}
	return end
}

func copyLog(t *testing.T, dir string) string {
	t.Helper()
	to := t.TempDir()
	if err := os.CopyFS(to, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	return to
}

// change rewrites the bytes of a log from a position on, to the end of that segment, and gives the way back.
func change(t *testing.T, dir string, at walscan.LSN, f func([]byte)) (undo func()) {
	t.Helper()
	path := filepath.Join(dir, walscan.Segment{Timeline: 1, Number: uint64(at) / segSize}.Name(segSize))
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	was := bytes.Clone(b)
	f(b[uint64(at)%segSize:])
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return func() {
		if err := os.WriteFile(path, was, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func zero(b []byte) { clear(b) }

func TestScanAgreesWithPgWaldump(t *testing.T) {
	dir, records := realLog(t)
	last := records[len(records)-1]
	segments, err := walscan.Segments(dir, segSize)
	if err != nil {
		t.Fatal(err)
	}

	t.Run("every record is found, across pages, segments and a switch", func(t *testing.T) {
		end := scan(t, dir, records[0])
		if end.Last != last || end.Records != len(records) || end.Timeline != 1 || end.LSN <= last {
			t.Fatalf("found %d records up to %s, pg_waldump %d up to %s: %s", end.Records, end.Last, len(records), last, end.Why)
		}
		if len(end.Read) < 5 {
			t.Fatalf("only %d segments were read, the test log is too small", len(end.Read))
		}
	})
	t.Run("it may begin at any record", func(t *testing.T) {
		for i := 0; i < len(records); i += 1 + len(records)/20 {
			if end := scan(t, dir, records[i]); end.Last != last || end.Records != len(records)-i {
				t.Fatalf("from %s: %d records up to %s, want %d: %s", records[i], end.Records, end.Last, len(records)-i, end.Why)
			}
		}
	})
	t.Run("the end of a record is the beginning of the next", func(t *testing.T) {
		cut := copyLog(t, dir)
		for i := len(records) - 1; i > len(records)-300; i -= 61 {
			undo := change(t, cut, records[i], zero)
			end := scan(t, cut, records[0])
			undo()
			gap := records[i] - end.LSN
			if end.Last != records[i-1] || gap != 0 && gap != 24 && gap != 40 {
				t.Fatalf("without %s the log ends at %s with %s", records[i], end.LSN, end.Last)
			}
		}
	})
	t.Run("a start that is no record finds nothing", func(t *testing.T) {
		if end := scan(t, dir, records[100]+8); end.Records != 0 {
			t.Fatalf("found %d records up to %s", end.Records, end.Last)
		}
	})
	t.Run("wherever it is cut or spoilt, pg_waldump sees the same last record", func(t *testing.T) {
		// Cuts at pseudo-random places over the whole log, the middle of the record of many pages included.
		span := last - records[0]
		cut := copyLog(t, dir)
		for i := range walscan.LSN(12) {
			at := records[0] + (span/13)*(i+1) + i*977
			for what, f := range map[string]func([]byte){
				"zeroed": zero,
				"spoilt": func(b []byte) { b[0] ^= 0x40 },
			} {
				if uint64(at)%segSize > segSize-4096 {
					continue
				}
				undo := change(t, cut, at, f)
				want := waldump(t, cut, records[0])
				end := scan(t, cut, records[0])
				undo()
				if end.Last != want[len(want)-1] || end.Records != len(want) {
					t.Fatalf("%s at %s: %d records up to %s, pg_waldump %d up to %s: %s", what, at, end.Records, end.Last, len(want), want[len(want)-1], end.Why)
				}
			}
		}
	})
	t.Run("a recycled segment with old content adds nothing", func(t *testing.T) {
		old := copyLog(t, dir)
		b, err := os.ReadFile(filepath.Join(old, segments[0].Name(segSize)))
		if err != nil {
			t.Fatal(err)
		}
		end := scan(t, dir, records[0])
		next := walscan.Segment{Timeline: 1, Number: uint64(end.LSN)/segSize + 1}
		if err := os.WriteFile(filepath.Join(old, next.Name(segSize)), b, 0o600); err != nil {
			t.Fatal(err)
		}
		if got := scan(t, old, records[0]); got.Last != end.Last || got.LSN != end.LSN {
			t.Fatalf("ends at %s, before at %s", got.LSN, end.LSN)
		}
	})
	t.Run("the remains of an earlier use of the file add nothing behind the end", func(t *testing.T) {
		old := copyLog(t, dir)
		end := scan(t, old, records[0])
		i := slices.IndexFunc(records[:len(records)-1], func(l walscan.LSN) bool { return l%8192 > 40 && l/8192 == (l+400)/8192 })
		for ; records[i+1]-records[i] > 300; i++ {
		}
		if end.LSN/8192 != (end.LSN+400)/8192 || records[i]/8192 != records[i+1]/8192 {
			t.Fatalf("the test log is of no use: it ends at %s, and %s follows %s", end.LSN, records[i+1], records[i])
		}
		b, err := os.ReadFile(filepath.Join(old, walscan.Segment{Timeline: 1, Number: uint64(records[i]) / segSize}.Name(segSize)))
		if err != nil {
			t.Fatal(err)
		}
		remains := b[uint64(records[i])%segSize : uint64(records[i])%segSize+uint64(records[i+1]-records[i])]
		change(t, old, end.LSN, func(b []byte) { copy(b, remains) })
		if got := scan(t, old, end.LSN); got.Records != 1 {
			t.Fatalf("from the end alone they are no record: %s", got.Why)
		}
		in := walscan.Input{Dir: old, Timeline: 1, SegSize: segSize, Through: end.LSN}
		if in.Start, err = walscan.Before(in, end.LSN); err != nil || in.Start == 0 || in.Start >= end.LSN {
			t.Fatalf("before %s: %s (%v)", end.LSN, in.Start, err)
		}
		if got, err := walscan.Scan(in); err != nil || got.LSN != end.LSN || !got.Through {
			t.Fatalf("from %s it ends at %s, not %s (%v): %s", in.Start, got.LSN, end.LSN, err, got.Why)
		}
	})
	t.Run("a record before any position is found, unless that is very long", func(t *testing.T) {
		found := 0
		for i := 1; i < len(records); i += 1 + len(records)/50 {
			at := records[i]
			if at%8192 == 24 || at%8192 == 40 {
				continue // the one before may end with its page
			}
			in := walscan.Input{Dir: dir, Timeline: 1, SegSize: segSize, Through: at}
			var err error
			if in.Start, err = walscan.Before(in, at); err != nil {
				t.Fatal(err)
			}
			if in.Start == 0 {
				if records[i]-records[i-1] < 256<<10 && at-records[0] > 64<<10 {
					t.Errorf("none before %s", at)
				}
				continue
			}
			found++
			if end, err := walscan.Scan(in); err != nil || in.Start >= at || !end.Through || end.Last != last {
				t.Errorf("from %s, before %s: through %t, ends with %s (%v)", in.Start, at, end.Through, end.Last, err)
			}
		}
		if found < 20 {
			t.Errorf("only %d were found", found)
		}
	})
	t.Run("a file of another system adds nothing", func(t *testing.T) {
		end, err := walscan.Scan(walscan.Input{Dir: dir, Start: records[0], Timeline: 1, SegSize: segSize, SystemID: 42})
		if err != nil || end.LSN >= walscan.LSN(segSize)*walscan.LSN(segments[0].Number+1) && end.Records == len(records) {
			t.Fatalf("found %d records (%v)", end.Records, err)
		}
	})
	t.Run("one changed byte never lengthens the log and never breaks the reader", func(t *testing.T) {
		whole := scan(t, dir, records[0])
		cut := copyLog(t, dir)
		rapid.Check(t, func(rt *rapid.T) {
			at := records[0] + walscan.LSN(rapid.Uint64Range(0, uint64(last-records[0])).Draw(rt, "at"))
			bit := byte(1) << rapid.IntRange(0, 7).Draw(rt, "bit")
			undo := change(t, cut, at, func(b []byte) { b[0] ^= bit })
			// From some records before it, for speed.
			near, _ := slices.BinarySearch(records, at)
			end := scan(t, cut, records[max(0, near-50)])
			undo()
			if end.LSN > whole.LSN {
				rt.Fatalf("ends at %s, the whole log at %s", end.LSN, whole.LSN)
			}
		})
	})
	t.Run("a fork that has only begun to arrive leaves the parent's part whole, and nothing of it after the fork", func(t *testing.T) {
		i := len(records) * 3 / 4
		for uint64(records[i])%segSize < 5*8192 { // some pages into its segment, and not on a page's first record
			i++
		}
		fork := records[i]
		forked := copyLog(t, dir)
		history := fmt.Sprintf("1\t%s\tno recovery target specified\n", fork)
		if err := os.WriteFile(filepath.Join(forked, walscan.HistoryName(2)), []byte(history), 0o600); err != nil {
			t.Fatal(err)
		}
		number := uint64(fork) / segSize
		b, err := os.ReadFile(filepath.Join(forked, walscan.Segment{Timeline: 1, Number: number}.Name(segSize)))
		if err != nil {
			t.Fatal(err)
		}
		for name, keep := range map[string]int{
			"one page has arrived": 8192, "nothing has arrived": 0, "all up to the fork has arrived": int(uint64(fork) % segSize),
		} {
			part := bytes.Clone(b)
			clear(part[keep:])
			if err := os.WriteFile(filepath.Join(forked, walscan.Segment{Timeline: 2, Number: number}.Name(segSize)), part, 0o600); err != nil {
				t.Fatal(err)
			}
			newest, err := walscan.Newest(forked, 1, segSize)
			if err != nil || newest != 2 {
				t.Fatalf("newest timeline %d (%v)", newest, err)
			}
			end, err := walscan.Scan(walscan.Input{Dir: forked, Start: records[0], Timeline: 2, SegSize: segSize})
			if err != nil || end.Last != records[i-1] || end.Timeline != 1 {
				t.Fatalf("%s: ends with %s on timeline %d, want %s (%v): %s", name, end.Last, end.Timeline, records[i-1], err, end.Why)
			}
		}
	})
}

func TestParseHistory(t *testing.T) {
	for _, c := range []struct {
		name string
		text string
		want []walscan.Switch
		bad  bool
	}{
		{name: "a comment alone is a number without a parent", text: "# taken\n"},
		{
			name: "numbers may be left out", text: "1\t0/3000000\tx\n\n2\t1/10\ty z\n",
			want: []walscan.Switch{{Timeline: 2, Parent: 1, LSN: 0x3000000}, {Timeline: 5, Parent: 2, LSN: 0x100000010}},
		},
		{name: "a line cut short is refused", text: "1\n", bad: true},
		{name: "a child below its parent is refused", text: "7\t0/10\tx\n", bad: true},
		{name: "a history that goes back is refused", text: "1\t0/30\tx\n2\t0/20\tx\n", bad: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := walscan.ParseHistory(c.text, 5)
			if (err != nil) != c.bad {
				t.Fatalf("error %v", err)
			}
			if d := cmp.Diff(c.want, got); !c.bad && d != "" {
				t.Error(d)
			}
		})
	}
}

func TestSegmentNames(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		size := uint64(1) << rapid.IntRange(20, 30).Draw(t, "size")
		s := walscan.Segment{Timeline: rapid.Uint32Range(1, 1<<31).Draw(t, "timeline"), Number: rapid.Uint64Range(0, 1<<30).Draw(t, "number")}
		if got, ok := walscan.ParseName(s.Name(size), size); !ok || got != s {
			t.Fatalf("%+v became %+v", s, got)
		}
	})
}
