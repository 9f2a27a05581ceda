package point

import (
	"bufio"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"pgregory.net/rapid"

	"holdfast/internal/problem"
)

func TestWhatARestoreInPlaceDoesNext(t *testing.T) {
	for name, c := range map[string]struct {
		to   Side
		seen Seen
		want string
	}{
		"nothing was done yet":                    {Came, Seen{SQL: Was, Files: Was}, "restore load freeze exchange-database exchange-files go-on done"},
		"it was loaded and died before freeze":    {Came, Seen{SQL: Was, Files: Was, Restored: true}, "load freeze exchange-database exchange-files go-on done"},
		"it died frozen, with nothing exchanged":  {Came, Seen{SQL: Was, Files: Was, Held: true}, "go-on restore load freeze exchange-database exchange-files go-on done"},
		"it died between the halves":              {Came, Seen{SQL: Came, Files: Was, Held: true, Loaded: true}, "freeze exchange-files go-on done"},
		"it died with both exchanged":             {Came, Seen{SQL: Came, Files: Came, Held: true, Loaded: true}, "go-on done"},
		"it died while it was tidied":             {Came, Seen{SQL: Came, Files: Came, Loaded: true}, "done"},
		"let go of before anything was exchanged": {Was, Seen{SQL: Was, Files: Was}, "done"},
		"likewise, and it died frozen":            {Was, Seen{SQL: Was, Files: Was, Held: true}, "go-on done"},
		"taken back between the halves":           {Was, Seen{SQL: Came, Files: Was, Held: true, Loaded: true}, "freeze exchange-database go-on done"},
		"taken back when it was done":             {Was, Seen{SQL: Came, Files: Came, Loaded: true}, "freeze exchange-database exchange-files go-on done"},
		"and forth again":                         {Came, Seen{SQL: Was, Files: Was, Loaded: true}, "freeze exchange-database exchange-files go-on done"},
		"taken back, died between, and forth":     {Came, Seen{SQL: Was, Files: Came, Held: true, Loaded: true}, "freeze exchange-database go-on done"},
	} {
		var got []string
		for _, s := range Steps(c.to, c.seen) {
			got = append(got, string(s))
		}
		if g := strings.Join(got, " "); g != c.want {
			t.Errorf("%s: %s, want %s", name, g, c.want)
		}
	}
}

// fault is what befalls a step.
type fault string

const (
	fails     fault = "fails"          // an error, and it has done nothing
	failsLate fault = "fails late"     // an error, and it has done all of it
	dies      fault = "dies"           // the process, before it has done anything
	diesLate  fault = "dies when done" // the process, when it has done all of it
)

// world is an application with two contents, as the hands of a restore in place find it.
type world struct {
	t      *rapid.T
	faults map[int]fault // by the number of the step
	steps  int

	sql, files Side
	passed     bool // on disk: the copy
	kept       bool // names were exchanged once: both contents of the SQL databases lie in the live server
	held       bool // in the journal
	stands     bool // the application itself
	mine       Seen // what the process knows
	freezes    int  // how often the process ran before
}

// errDied is what a process throws that is killed.
var errDied = errors.New("killed")

func (w *world) seen(context.Context) (Seen, error) {
	s := w.mine
	s.Loaded, s.Held, s.SQL, s.Files = s.Loaded || w.kept, w.held, w.sql, w.files
	return s, nil
}

func (w *world) do(_ context.Context, step Step) error {
	f := w.faults[w.steps]
	if step == StepFreeze {
		if w.freezes++; w.freezes > 1 {
			w.t.Fatal("before runs again right after it failed")
		}
	}
	if w.steps++; w.steps > 200 {
		w.t.Fatal("it comes to no end")
	}
	switch f {
	case fails:
		return errors.New("fails")
	case dies:
		panic(errDied)
	}
	w.act(step)
	if !w.stands && w.sql != w.files {
		w.t.Fatalf("the application goes on after %s with database %s and files %s", step, w.sql, w.files)
	}
	switch f {
	case failsLate:
		return errors.New("fails late")
	case diesLate:
		panic(errDied)
	}
	return nil
}

func (w *world) act(step Step) {
	exchanging := step == StepSQL || step == StepFiles
	if exchanging && !(w.stands && w.mine.Frozen) {
		w.t.Fatalf("%s while the application writes", step)
	}
	if slices.Contains([]Step{StepRestore, StepLoad}, step) && w.stands {
		w.t.Fatalf("the application stands still during %s, which takes long", step)
	}
	switch step {
	case StepRestore:
		w.passed, w.mine.Restored = true, true
	case StepLoad:
		if !w.passed {
			w.t.Fatal("it loads what was not looked at")
		}
		w.mine.Loaded = true
	case StepFreeze:
		w.held, w.stands, w.mine.Frozen = true, true, true
	case StepSQL:
		if !w.kept && !w.mine.Loaded {
			w.t.Fatal("there is nothing to exchange with")
		}
		w.sql, w.kept = w.sql.other(), true
	case StepFiles:
		if !w.passed {
			w.t.Fatal("there are no files to exchange with")
		}
		w.files = w.files.other()
	case StepThaw:
		w.held, w.stands, w.mine.Frozen = false, false, false
	}
}

// once runs one process; killed = it died.
func (w *world) once(to Side) (killed bool, err error) {
	w.mine, w.freezes = Seen{}, 0
	defer func() {
		if r := recover(); r == errDied {
			killed = true
		} else if r != nil {
			panic(r)
		}
	}()
	return false, carry(context.Background(), to, w)
}

// Whatever fails, whoever dies and however often it is finished or taken back: the application never goes on with halves of
// different moments, and what ends without a word is where it was to be.
func TestARestoreInPlaceIsFinishedOrTakenBackWhateverHappens(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		side := rapid.SampledFrom([]Side{Came, Was})
		w := &world{t: t, sql: Was, files: Was, faults: rapid.MapOfN(rapid.IntRange(0, 24), rapid.SampledFrom([]fault{fails, failsLate, dies, diesLate}), 0, 6).Draw(t, "faults")}
		for range rapid.IntRange(1, 5).Draw(t, "processes") {
			to := side.Draw(t, "to")
			if to == Was && !w.passed && !w.held { // nothing was begun
				to = Came
			}
			killed, err := w.once(to)
			if !killed {
				w.judge(t, to, err)
			}
		}
		w.faults = nil
		to := side.Draw(t, "in the end to")
		if killed, err := w.once(to); killed || err != nil || w.sql != to || w.files != to || w.stands || w.held {
			t.Fatalf("nothing stands in the way, and it is %+v, %v", w, err)
		}
	})
}

// judge holds what a process said against how it left the world.
func (w *world) judge(t *rapid.T, to Side, err error) {
	p, _ := errors.AsType[*problem.Problem](err)
	half := p != nil && p.Code == "restore.half-exchanged"
	switch {
	case err == nil && (w.sql != to || w.files != to || w.stands):
		t.Fatalf("it was done, and database is %s, files %s, still %v", w.sql, w.files, w.stands)
	case err != nil && w.sql != w.files && !half:
		t.Fatalf("halves of different moments, and it says %v", err)
	}
}

func TestMountPointsAreFound(t *testing.T) {
	info := "22 1 8:1 / / rw - ext4 /dev/sda1 rw\n30 22 8:2 / /srv/my\\040clinic/set rw shared:1 - ext4 /dev/sdb rw\n31 30 0:9 / /srv/my\\040clinic/set/in rw - tmpfs x rw\n32 22 0:9 / /srv/my\\040clinic/settled rw - tmpfs x rw\n"
	for dir, want := range map[string]string{
		"/srv/my clinic/set":   "/srv/my clinic/set|/srv/my clinic/set/in",
		"/srv/my clinic":       "/srv/my clinic/set|/srv/my clinic/set/in|/srv/my clinic/settled",
		"/srv/my clinic/set/i": "",
		"/srv/other":           "",
	} {
		if got := strings.Join(mountedAt(info, dir), "|"); got != want {
			t.Errorf("%s: %s, want %s", dir, got, want)
		}
	}
}

func TestWhoStaysWithADirectoryThatGetsAnotherNameIsFound(t *testing.T) {
	mine := mountsOf("22 1 8:1 / / rw - ext4 a rw\n30 22 8:2 /vol /srv rw - ext4 b rw\n")
	for name, c := range map[string]struct{ theirs, dir, want string }{
		"a container has the directory":                {"9 1 8:2 /vol/clinic/set /data rw - ext4 b rw\n", "/srv/clinic/set", "/data"},
		"a sandbox has it where it is":                 {"9 1 8:2 /vol/clinic/set /srv/clinic/set rw - ext4 b rw\n", "/srv/clinic/set", "/srv/clinic/set"},
		"a part of it":                                 {"9 1 8:2 /vol/clinic/set/in /data rw - ext4 b rw\n", "/srv/clinic/set", "/data"},
		"what it lies in is looked through by name":    {"9 1 8:2 /vol/clinic /data rw - ext4 b rw\n", "/srv/clinic/set", ""},
		"one with a longer name":                       {"9 1 8:2 /vol/clinic/settled /data rw - ext4 b rw\n", "/srv/clinic/set", ""},
		"another file system has a directory so named": {"9 1 8:1 /vol/clinic/set /data rw - ext4 b rw\n", "/srv/clinic/set", ""},
		"on the first file system":                     {"9 1 8:1 /home/set /data rw - ext4 b rw\n", "/home/set", "/data"},
	} {
		if got := strings.Join(pinnedBy(mine, mountsOf(c.theirs), c.dir), "|"); got != c.want {
			t.Errorf("%s: %s, want %s", name, got, c.want)
		}
	}
}

func TestTheNamesOfADirectoryForOthersAreFound(t *testing.T) {
	mine := mountsOf("22 1 8:1 / / rw - ext4 a rw\n30 22 8:2 /vol /srv rw - ext4 b rw\n")
	for name, c := range map[string]struct{ theirs, want string }{
		"the same":                         {"22 1 8:1 / / rw - ext4 a rw\n30 22 8:2 /vol /srv rw - ext4 b rw\n", "/srv/clinic/set"},
		"a container has what it lies in":  {"9 1 8:2 /vol/clinic /data rw - ext4 b rw\n", "/data/set"},
		"all of the file system":           {"9 1 8:2 / /host rw - ext4 b rw\n", "/host/vol/clinic/set"},
		"itself":                           {"9 1 8:2 /vol/clinic/set /data rw - ext4 b rw\n", "/data"},
		"something else":                   {"9 1 8:2 /vol/clin /data rw - ext4 b rw\n", ""},
		"another file system, alike named": {"9 1 8:1 /vol/clinic /data rw - ext4 b rw\n", ""},
	} {
		if got := strings.Join(calledBy(mine, mountsOf(c.theirs), "/srv/clinic/set"), "|"); got != c.want {
			t.Errorf("%s: %s, want %s", name, got, c.want)
		}
	}
}

// A service that works in the directory is found; it would go on in what is set aside.
func TestAServiceThatWorksInTheDirectoryIsFound(t *testing.T) {
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("/bin/sh", "-c", "echo ready; read -r x")
	cmd.Dir, cmd.SysProcAttr = dir, &syscall.SysProcAttr{Setsid: true} // no terminal
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = errors.Join(in.Close(), cmd.Wait()) }() // it ends with its input
	if said, err := bufio.NewReader(out).ReadString('\n'); err != nil || said != "ready\n" {
		t.Fatalf("%q, %v", said, err)
	}
	if found, err := writers(dir); err != nil || len(found) != 1 || !strings.HasSuffix(found[0], "works in "+dir) {
		t.Errorf("found %v, %v", found, err)
	}
	if found, err := writers(dir + "-beside"); err != nil || len(found) > 0 {
		t.Errorf("beside it: %v, %v", found, err)
	}
}

// A process that has the directory mounted in a space of its own, as a container has, is found.
func TestAContainerThatHasTheDirectoryIsFound(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root may mount")
	}
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	set, at := filepath.Join(dir, "my set"), filepath.Join(dir, "data")
	if err := errors.Join(os.Mkdir(set, 0o700), os.Mkdir(at, 0o700)); err != nil {
		t.Fatal(err)
	}
	if found, err := mounters(set); err != nil || len(found) > 0 {
		t.Fatalf("nobody has it yet: %v, %v", found, err)
	}
	cmd := exec.Command("/bin/sh", "-c", `mount --make-rprivate / && mount --bind "$1" "$2" && echo ready && read -r x`, "sh", set, at)
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Skipf("no mount space of its own can be had here: %v", err)
	}
	defer func() { _ = errors.Join(in.Close(), cmd.Wait()) }() // it ends with its input
	if said, err := bufio.NewReader(out).ReadString('\n'); err != nil || said != "ready\n" {
		t.Skipf("nothing can be mounted here: %q, %v", said, err)
	}
	if found, err := mounters(set); err != nil || len(found) != 1 || !strings.HasSuffix(found[0], "has it mounted at "+at) {
		t.Errorf("found %v, %v", found, err)
	}
}
