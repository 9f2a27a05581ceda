package host

import (
	"encoding/json"
	"errors"
	"testing"
	"time"

	"holdfast/internal/agent"
	"holdfast/internal/cluster"
	"holdfast/internal/plan"
	"holdfast/internal/problem"
	"holdfast/internal/vault"
)

func TestAVaultIsLookedAfterByWhoArchivesIntoItAndOneOfFilesAloneByOneOfTheirHosts(t *testing.T) {
	p := &plan.Plan{
		Backups: []plan.Backup{{Of: "orders", Vault: "main"}, {Of: "records", Vault: "main"}},
		Files: []plan.FileSet{
			{Name: "scans", Hosts: []string{"c", "b"}, Backup: plan.FileBackup{Vault: "files"}},
			{Name: "letters", Hosts: []string{"d"}, Backup: plan.FileBackup{Vault: "files"}},
			{Name: "other", Hosts: []string{"a"}, Backup: plan.FileBackup{Vault: "main"}},
			{Name: "none", Hosts: []string{"a"}},
		},
	}
	archives := map[string]string{"records": "b"}
	of := func(vault string) string {
		return caretaker(p, vault, func(database string) string { return archives[database] })
	}
	if got := of("main"); got != "b" {
		t.Errorf("the vault of databases: %q", got)
	}
	archives["orders"] = "c"
	if got := of("main"); got != "c" {
		t.Errorf("with an archiver of the first database: %q", got)
	}
	clear(archives)
	if got := of("main"); got != "" {
		t.Errorf("while nobody archives: %q", got)
	}
	if got := of("files"); got != "b" {
		t.Errorf("the vault of files alone: %q", got)
	}
	if got := of("unused"); got != "" {
		t.Errorf("a vault that nothing goes to: %q", got)
	}
}

func TestNothingIsFreedWhenTheNewestFilesAreOldByTheClockHere(t *testing.T) {
	now := time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)
	p := &plan.Plan{Files: []plan.FileSet{{Name: "scans", Backup: plan.FileBackup{Vault: "files"}}}}
	made := []vault.FileBackup{{Ended: now.Add(-time.Hour)}, {Ended: now.Add(-400 * time.Hour)}}
	if err := filesBehind(p, "files", made, now); err != nil {
		t.Error(err)
	}
	if err := filesBehind(p, "files", nil, now); err != nil {
		t.Errorf("an empty vault: %v", err)
	}
	err := filesBehind(p, "files", made, now.Add(200*24*time.Hour)) // a clock that jumped
	if x, ok := errors.AsType[*problem.Problem](err); !ok || x.Code != "backup.not-pruned" {
		t.Errorf("a clock that jumped ahead: %v", err)
	}
}

func TestABaseBackupThatALaterTrialProvesHasSucceeded(t *testing.T) {
	failed := agent.Chore{Kind: agent.ChoreBase, Subject: "orders", Backup: "b1", Text: "base backup did not succeed"}
	judge := func(c agent.Chore, made ...vault.Backup) (agent.Chore, bool) {
		t.Helper()
		raw, err := json.Marshal(c)
		if err != nil {
			t.Fatal(err)
		}
		return succeeded(map[string]cluster.Entry{c.Key(): {Key: c.Key(), Value: raw, Revision: 3}}, "orders", made)
	}
	proven := &vault.Validation{Passed: true}
	if c, ok := judge(failed, vault.Backup{ID: "b0"}, vault.Backup{ID: "b1", Validation: proven}); !ok || !c.OK || c.Text == failed.Text {
		t.Errorf("proven afterwards: %+v", c)
	}
	none := failed
	none.Backup = ""
	for what, c := range map[string]agent.Chore{"not proven": failed, "none was made": none} {
		if c, ok := judge(c, vault.Backup{ID: "", Validation: proven}, vault.Backup{ID: "b0", Validation: proven}, vault.Backup{ID: "b1"}); ok {
			t.Errorf("%s: %+v", what, c)
		}
	}
	if _, ok := judge(failed, vault.Backup{ID: "b1", Validation: &vault.Validation{}}); ok {
		t.Error("found bad afterwards")
	}
}
