package host

import (
	"strings"
	"testing"
	"time"

	"holdfast/internal/database"
	"holdfast/internal/receipt"
	"holdfast/internal/vault"
)

func TestAChangeOfPrimaryHasAReceiptOfWhoEndedIt(t *testing.T) {
	ms := time.Millisecond
	open := database.Record{Epoch: 4, Primary: "b2", Phase: database.Steady, Opened: true, Timeline: 2, Former: database.Voter{Host: "b1"},
		Spans: []database.Span{{Name: "stop", Took: 200 * ms}, {Name: "promote", Took: 150 * ms}, {Name: "open", Took: 50 * ms}}}
	with := func(change func(r *database.Record)) database.Record {
		r := open.Clone()
		change(&r)
		return r
	}
	for _, c := range []struct {
		name, self    string
		record        database.Record
		kind, outcome string // "" = none
		says          string
	}{
		{"a switchover that is over", "b2", open, receipt.Switchover, receipt.Done, "b2 is the primary in place of b1 on timeline 2, 400ms after its change began; no commit was given up"},
		{"a failover", "b2", with(func(r *database.Record) { r.Spans[0].Name = "recruit" }), receipt.Failover, receipt.Done, "no commit was given up"},
		{"a forced failover promises nothing", "b2", with(func(r *database.Record) {
			r.Spans[0].Name, r.Losses = "recruit", []database.Loss{{Epoch: 4}}
		}), receipt.Failover, receipt.Failed, "may have given up commits"},
		{"a later failover says nothing of the forced one before", "b2", with(func(r *database.Record) { r.Losses = []database.Loss{{Epoch: 2}} }), receipt.Switchover, receipt.Done, "400ms after its change began"},
		{"another host says nothing", "b1", open, "", "", ""},
		{"what is not open yet is not over", "b2", with(func(r *database.Record) { r.Opened = false }), "", "", ""},
		{"a first primary replaced nobody", "b2", with(func(r *database.Record) { r.Former = database.Voter{} }), "", "", ""},
		{"a restart in place changed nothing", "b2", with(func(r *database.Record) { r.Former.Host = "b2" }), "", "", ""},
	} {
		e, ok := changeReceipt(c.self, "records", c.record)
		if ok != (c.kind != "") || ok && (e.Kind != c.kind || e.Outcome != c.outcome || !strings.Contains(e.Says, c.says) || e.Figures["took_seconds"] != 0.4) {
			t.Errorf("%s: %v %+v", c.name, ok, e)
		}
	}
}

func TestReceiptsOfBackupsSayWhatWasFound(t *testing.T) {
	b := vault.Backup{ID: "r1", Database: "records", Kind: "full", Bytes: 100, Stored: 10, Files: 3, Validation: &vault.Validation{Passed: true, Took: 9 * time.Second, Checks: []vault.Check{
		{Name: "restore", Outcome: "passed", Took: 4 * time.Second}, {Name: "recovery", Outcome: "passed", Took: 2 * time.Second}, {Name: "indexes", Outcome: "skipped"},
	}}}
	if e := backupReceipt(b, time.Minute); e.Outcome != receipt.Done || e.Figures["took_seconds"] != 60 || strings.Contains(string(e.Details), `"validation"`) {
		t.Errorf("%+v", e)
	}
	if e := proofReceipt(b); e.Outcome != receipt.Passed || e.Figures["rto_seconds"] != 6 || !strings.HasSuffix(e.Says, "is good; not looked at: indexes") {
		t.Errorf("%+v", e)
	}
	b.BadPages = []string{"base/5/16384 block 3"}
	b.Validation.Passed, b.Validation.Checks[1].Outcome, b.Validation.Checks[1].Objects = false, "failed", []string{"app: table public.x block 3"}
	if e := backupReceipt(b, time.Minute); e.Outcome != receipt.Failed {
		t.Errorf("%+v", e)
	}
	if e := proofReceipt(b); e.Outcome != receipt.Failed || !strings.HasSuffix(e.Says, "found bad: recovery: app: table public.x block 3") {
		t.Errorf("%+v", e)
	}
}
