package cli

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"holdfast/internal/agent"
	"holdfast/internal/api"
	"holdfast/internal/problem"
)

func TestHowTheBackupsOfAFileSetStand(t *testing.T) {
	good := agent.FileBackup{ID: "b", At: time.Now(), Took: 2 * time.Second, Files: 7, Bytes: 3 << 30, Read: 200 << 20, Stored: 5 << 20}
	lacks := good
	lacks.Unreadable = 1
	of := func(heard bool, last *agent.FileBackup, trouble string) []api.FilesStatus {
		return []api.FilesStatus{{Name: "letters", Host: "h1", Heard: heard, Files: agent.Files{Last: last, Trouble: trouble}}}
	}
	for name, c := range map[string]struct {
		all  []api.FilesStatus
		well bool
	}{
		"all is well":            {of(true, &good, ""), true},
		"its host is silent":     {of(false, &good, ""), false},
		"there is none":          {of(true, nil, ""), false},
		"names are missing":      {of(true, &lacks, ""), false},
		"the last try failed":    {of(true, &good, "no room"), false},
		"no host says how it is": {nil, false},
	} {
		if setsWell(c.all) != c.well {
			t.Errorf("%s: well is %t", name, !c.well)
		}
	}
	var out bytes.Buffer
	wrong := []problem.Problem{{Code: "files.no-point", Subject: "letters", Title: "not made"}, {Code: "x", Subject: "other", Title: "another's"}}
	if err := writeSetStatus(&out, "letters", of(true, &good, ""), wrong); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{sizeText(3 << 30), sizeText(200<<20) + ", " + sizeText(100<<20) + "/s", "files.no-point", "files list letters"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("it does not say %q:\n%s", want, out.String())
		}
	}
	if strings.Contains(out.String(), "another's") {
		t.Errorf("it tells another's problem:\n%s", out.String())
	}
}

func TestBackupsThatCannotBeReliedOnAreBad(t *testing.T) {
	at := time.Unix(3e9, 0)
	chore := func(ok bool) *api.ChoreStatus { return &api.ChoreStatus{Chore: agent.Chore{Ended: at, OK: ok}} }
	good := backupStatus{Proven: 1, Last: &lastBackup{Proven: true, Tried: at}, Attempt: chore(true), Proving: chore(true), Log: &api.ArchiveStatus{}}
	if good.bad() {
		t.Error("good ones are bad")
	}
	for name, hurt := range map[string]func(*backupStatus){
		"none is proven":               func(s *backupStatus) { s.Proven = 0 },
		"the last run failed":          func(s *backupStatus) { s.Attempt = chore(false) },
		"the last trial failed":        func(s *backupStatus) { s.Proving = chore(false) },
		"the newest was found bad":     func(s *backupStatus) { s.Last = &lastBackup{Tried: at} },
		"nobody archives":              func(s *backupStatus) { s.Log = nil },
		"the archive does not go on":   func(s *backupStatus) { s.Log = &api.ArchiveStatus{Trouble: "no room"} },
		"log is lost":                  func(s *backupStatus) { s.Log = &api.ArchiveStatus{Gap: "from 1 to 2"} },
		"something could not be asked": func(s *backupStatus) { s.Trouble = []string{"no agent"} },
	} {
		s := good
		if hurt(&s); !s.bad() {
			t.Errorf("%s, and that is good", name)
		}
	}
	untried := good
	if untried.Last, untried.Proving = (&lastBackup{}), &(api.ChoreStatus{}); untried.bad() {
		t.Error("a newest one that waits for its trial, beside a proven one, is bad")
	}
}
