package plan

import "testing"

func TestTheRateOfScheduledBackupsIsReadAndShownAgain(t *testing.T) {
	with := func(keys string) *Plan {
		return mustParse(t, withVault+"databases: { r: { postgres: 15 } }\nbackup: { r: {"+keys+"} }\n")
	}
	p := with("limit: 50MB/s")
	b, ok := p.BackupOf("r")
	if !ok || b.Limit != 50<<20 {
		t.Fatalf("%+v", b)
	}
	shown, err := p.Show()
	if err != nil {
		t.Fatal(err)
	}
	if again, _ := mustParse(t, string(shown)).BackupOf("r"); again.Limit != b.Limit {
		t.Errorf("shown again it is %d\n%s", again.Limit, shown)
	}
	changes := Diff(with(""), p)
	if len(changes) != 1 || changes[0].Effect != Reloads {
		t.Errorf("a limit is new: %+v", changes)
	}
	if kept := Diff(p, p); len(kept) > 0 {
		t.Errorf("nothing is new: %+v", kept)
	}
}
