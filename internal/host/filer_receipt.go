package host

import (
	"fmt"

	"holdfast/internal/receipt"
	"holdfast/internal/vault"
)

// receiptNamesMax is how many names of files a receipt carries; the backup's own list has them all.
const receiptNamesMax = 10

// fileBackupReceipt is evidence of a backup of files. The list that it names is found by its content's hash, so it stands for
// every name and every byte of the backup.
func fileBackupReceipt(b vault.FileBackup) receipt.Event {
	about := b
	about.Unreadable, about.Changed = firstNames(b.Unreadable), firstNames(b.Changed)
	e := receipt.Event{
		Kind: receipt.Backup, Subject: b.Set, Outcome: receipt.Done, Details: details(about),
		Says: fmt.Sprintf("backup %s of the files in %s on %s was made: %d files of %d bytes, %d of them read", b.ID, b.Path, b.Host, b.Files, b.Bytes, b.Files-b.Reused),
		Figures: map[string]float64{"bytes": float64(b.Bytes), "read_bytes": float64(b.Read), "stored_bytes": float64(b.Stored), "files": float64(b.Files),
			"unreadable": float64(b.Unreadable.Count), "changed": float64(b.Changed.Count), "took_seconds": b.Ended.Sub(b.Started).Seconds()},
	}
	if p := b.Point; p != nil {
		e.Says += fmt.Sprintf("; it is recovery point %s with database %s at %s, which stood still for %s", p.ID, p.Database, p.LSN, p.Frozen)
		e.Figures["frozen_seconds"] = p.Frozen.Seconds()
	}
	if n := b.Changed.Count; n > 0 {
		e.Says += fmt.Sprintf("; %d changed whenever they were read", n)
	}
	if !b.Complete() {
		e.Outcome = receipt.Failed
		e.Says += fmt.Sprintf("; %d names could not be read and are not in it", b.Unreadable.Count)
	}
	return e
}

func firstNames(n vault.Names) vault.Names {
	n.First = n.First[:min(len(n.First), receiptNamesMax)]
	return n
}
