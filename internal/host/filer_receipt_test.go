package host

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"holdfast/internal/receipt"
	"holdfast/internal/vault"
)

func TestAReceiptOfAFileBackupSaysWhatIsMissing(t *testing.T) {
	b := vault.FileBackup{ID: "b1", Set: "letters", Host: "h1", Path: "/srv/letters", Files: 12, Reused: 10, Bytes: 4096, List: "Ixabc",
		Started: time.Unix(100, 0), Ended: time.Unix(103, 0)}
	e := fileBackupReceipt(b)
	if e.Kind != receipt.Backup || e.Subject != "letters" || e.Outcome != receipt.Done || e.Figures["took_seconds"] != 3 || !strings.Contains(e.Says, "2 of them read") || !strings.Contains(string(e.Details), "Ixabc") {
		t.Errorf("%+v", e)
	}
	for i := range 300 {
		b.Unreadable.Add(fmt.Sprintf("%d-%s", i, strings.Repeat("n", 4000)))
	}
	b.Point = &vault.Point{ID: "p1", Database: "records", Frozen: 2 * time.Second}
	e = fileBackupReceipt(b)
	var told vault.FileBackup
	if err := json.Unmarshal(e.Details, &told); err != nil {
		t.Fatal(err)
	}
	if e.Outcome != receipt.Failed || e.Figures["unreadable"] != 300 || told.Unreadable.Count != 300 || len(told.Unreadable.First) != receiptNamesMax || e.Figures["frozen_seconds"] != 2 {
		t.Errorf("%s %+v, %d names of %d", e.Outcome, e.Figures, len(told.Unreadable.First), told.Unreadable.Count)
	}
	if !strings.Contains(e.Says, "recovery point p1") || !strings.Contains(e.Says, "300 names could not be read") || len(b.Unreadable.First) != 100 {
		t.Errorf("says %q", e.Says)
	}
}
