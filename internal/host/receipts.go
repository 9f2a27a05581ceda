package host

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"holdfast/internal/auth"
	"holdfast/internal/backup"
	"holdfast/internal/database"
	"holdfast/internal/durable"
	"holdfast/internal/receipt"
	"holdfast/internal/vault"
)

// receiptPace is how often a host looks whether it has become a primary.
const receiptPace = time.Second

// ReceiptBook opens the receipts in a directory of whoever has the certificate there: a host, or an operator.
func ReceiptBook(dir, certificates, application, name, version string) (*receipt.Book, error) {
	id, err := receipt.LoadIdentity(filepath.Join(certificates, auth.HostCertFile), filepath.Join(certificates, auth.HostKeyFile), filepath.Join(certificates, auth.CACertFile))
	if err != nil {
		return nil, err
	}
	return receipt.NewBook(dir, id, receipt.Author{Application: application, Host: name, Tool: "holdfast " + version}), nil
}

// ReceiptDir is where a host keeps its receipts, with the key that signs them.
func ReceiptDir(dir string) string { return filepath.Join(dir, "receipts") }

func (h *Host) book() (*receipt.Book, error) {
	return ReceiptBook(ReceiptDir(h.cfg.Dir), certDir(h.cfg.Dir), h.cfg.Plan.Application, h.cfg.Self, h.cfg.Version)
}

// receipt writes evidence of what was done, here and in the vault (nil = none). What was done stays done when that fails:
// it is logged, and the next receipt carries what waits.
func (h *Host) receipt(ctx context.Context, v *vault.Vault, what receipt.Event) {
	id, shelf := "", receipt.Shelf(nil)
	if v != nil {
		id, shelf = v.Identity().ID, v
	}
	h.receiptIn(ctx, id, shelf, what)
}

func (h *Host) receiptIn(ctx context.Context, id string, shelf receipt.Shelf, what receipt.Event) {
	log := h.cfg.Log.With("kind", what.Kind, "subject", what.Subject)
	b, err := h.book()
	if err != nil {
		log.WarnContext(ctx, "no receipt written", "err", err)
		return
	}
	if made, err := b.KeyMade(); err == nil && !made.IsZero() && time.Since(made) > receipt.KeyLife {
		if old, fresh, err := b.Rotate(ctx, time.Now()); err != nil {
			log.WarnContext(ctx, "key of receipts not changed", "err", err)
		} else {
			log.InfoContext(ctx, "key of receipts changed", "old", old, "new", fresh)
		}
	}
	r, err := b.Append(ctx, id, shelf, what, time.Now())
	if _, late := errors.AsType[*receipt.NotCarriedError](err); err != nil && !late {
		log.WarnContext(ctx, "no receipt written", "err", err)
		return
	}
	log.InfoContext(ctx, "receipt written", "receipt", r.ID(), "waits", err)
}

// carryReceipts brings to a vault what could not be stored there before.
func (h *Host) carryReceipts(ctx context.Context, v *vault.Vault) {
	b, err := h.book()
	if err == nil {
		err = b.Carry(ctx, v.Identity().ID, v)
	}
	if err != nil {
		h.cfg.Log.WarnContext(ctx, "receipts wait on this host", "vault", v.Name(), "err", err)
	}
}

// backupReceipt is evidence of a base backup.
func backupReceipt(b vault.Backup, took time.Duration) receipt.Event {
	about := b
	about.Validation = nil // it has a receipt of its own
	outcome := receipt.Done
	if len(b.BadPages)+len(b.Differs) > 0 {
		outcome = receipt.Failed
	}
	return receipt.Event{
		Kind: receipt.Backup, Subject: b.Database, Outcome: outcome, Details: details(about),
		Says: fmt.Sprintf("base backup %s (%s) was made: %d bytes in %d files, from log position %s to %s; bad pages: %d, changed behind the log: %s",
			b.ID, b.Kind, b.Bytes, b.Files, b.Start, b.Stop, len(b.BadPages), backup.ChangedPlaces(b.Differs)),
		Figures: map[string]float64{"bytes": float64(b.Bytes), "stored_bytes": float64(b.Stored), "reused_bytes": float64(b.Reused), "files": float64(b.Files), "took_seconds": took.Seconds()},
	}
}

// proofReceipt is evidence of a validation. The time to restore and recover is what a restore of this backup would take here.
func proofReceipt(b vault.Backup) receipt.Event {
	m := b.Validation
	e := receipt.Event{
		Kind: receipt.Validation, Subject: b.Database, Outcome: receipt.Passed, Details: details(map[string]any{"backup": b.ID, "checks": m.Checks}),
		Says:    fmt.Sprintf("base backup %s was restored on trial and looked at, and is good", b.ID),
		Figures: map[string]float64{"took_seconds": m.Took.Seconds(), "bytes": float64(b.Bytes)},
	}
	var skipped []string
	rto := time.Duration(0)
	for _, c := range m.Checks {
		e.Figures[c.Name+"_seconds"] = c.Took.Seconds()
		if c.Name == "restore" || c.Name == "recovery" {
			rto += c.Took
		}
		if c.Outcome == "skipped" {
			skipped = append(skipped, c.Name)
		}
	}
	e.Figures["rto_seconds"] = rto.Seconds()
	if len(skipped) > 0 {
		e.Says += "; not looked at: " + strings.Join(skipped, ", ")
	}
	if bad := backup.FirstBad(b); bad != "" {
		e.Outcome, e.Says = receipt.Failed, fmt.Sprintf("base backup %s was restored on trial and found bad: %s", b.ID, bad)
	}
	return e
}

func details(v any) json.RawMessage {
	raw, err := json.Marshal(v)
	if err != nil {
		return nil // what is given here is our own and can be written
	}
	return raw
}

// changes writes a receipt for each change of primary that made this host the primary, once the listeners lead here. Nothing
// waits for it.
func (h *Host) changes(ctx context.Context) error {
	for h.sleep(ctx, receiptPace) {
		for _, d := range h.agent.Last().Facts.Databases {
			if what, ok := changeReceipt(h.cfg.Self, d.Name, d.Record); ok && h.firstTime(d.Name, d.Record.Epoch) {
				h.receiptOfChange(ctx, d.Name, what)
			}
		}
	}
	return nil
}

// firstTime notes that a change of primary has its receipt. A host that cannot write it down gives none: it would again and
// again.
func (h *Host) firstTime(name string, epoch int64) bool {
	file := filepath.Join(ReceiptDir(h.cfg.Dir), "epoch-"+name)
	raw, err := os.ReadFile(file)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false
	}
	if last, err := strconv.ParseInt(strings.TrimSpace(string(raw)), 10, 64); err == nil && last >= epoch {
		return false
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return false
	}
	return durable.WriteFile(file, fmt.Appendf(nil, "%d\n", epoch), 0o600) == nil
}

// receiptOfChange stores it in the vault of the database, when it has one.
func (h *Host) receiptOfChange(ctx context.Context, name string, what receipt.Event) {
	b, ok := h.cfg.Plan.BackupOf(name)
	if !ok {
		h.receipt(ctx, nil, what)
		return
	}
	ctx, cancel := context.WithTimeout(ctx, saveMax)
	defer cancel()
	if v, err := h.openVault(ctx, b.Vault); err == nil {
		h.receipt(ctx, v, what)
		if err := v.Close(context.WithoutCancel(ctx)); err != nil {
			h.cfg.Log.WarnContext(ctx, "vault not closed", "vault", b.Vault, "err", err)
		}
		return
	}
	// It waits for the next one that reaches the vault, in the chain that belongs there.
	id, _, err := vaultKey(b.Vault).Load(ctx, h.store)
	if err != nil || id == "" {
		h.receipt(ctx, nil, what)
		return
	}
	h.receiptIn(ctx, id, nil, what)
}

// changeReceipt is evidence of a change of primary that self has ended; false = there was none. Pure.
func changeReceipt(self, name string, r database.Record) (receipt.Event, bool) {
	if r.Primary != self || !r.Opened || r.Phase != database.Steady || len(r.Spans) == 0 || r.Former.Host == "" || r.Former.Host == self {
		return receipt.Event{}, false
	}
	e := receipt.Event{
		Kind: receipt.Failover, Subject: name, Outcome: receipt.Done, Figures: map[string]float64{"epoch": float64(r.Epoch), "timeline": float64(r.Timeline)},
		Details: details(map[string]any{"epoch": r.Epoch, "timeline": r.Timeline, "primary": r.Primary, "former": r.Former, "because": r.Because, "spans": r.Spans, "losses": lossesOf(r)}),
	}
	if r.Spans[0].Name == "stop" {
		e.Kind = receipt.Switchover
	}
	total := time.Duration(0)
	for _, s := range r.Spans {
		e.Figures[s.Name+"_seconds"] += s.Took.Seconds()
		total += s.Took
	}
	e.Figures["took_seconds"] = total.Seconds()
	e.Says = fmt.Sprintf("%s is the primary in place of %s on timeline %d, %s after its change began", r.Primary, r.Former.Host, r.Timeline, total.Round(time.Millisecond))
	if len(r.Losses) == 0 {
		e.Says += "; no commit was given up"
		e.Figures["given_up_commits"] = 0
	}
	if lost := lossesOf(r); len(lost) > 0 {
		e.Outcome = receipt.Failed
		e.Says = fmt.Sprintf("%s is the primary in place of %s on timeline %d by a forced failover, which may have given up commits", r.Primary, r.Former.Host, r.Timeline)
	}
	return e, true
}

// lossesOf are what the forced failover of this timeline gave up.
func lossesOf(r database.Record) []database.Loss {
	var out []database.Loss
	for _, l := range r.Losses {
		if l.Epoch == r.Epoch {
			out = append(out, l)
		}
	}
	return out
}
