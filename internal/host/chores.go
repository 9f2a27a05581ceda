package host

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"holdfast/internal/agent"
	"holdfast/internal/backup"
	"holdfast/internal/durable"
	"holdfast/internal/plan"
	"holdfast/internal/problem"
	"holdfast/internal/vault"
	"holdfast/internal/vault/confined"
)

// Retained is what one run of retention came to, for a list.
type Retained struct {
	Database string      `json:"database,omitempty"`
	Files    string      `json:"files,omitempty"` // the file set, in place of a database
	Kept     int         `json:"kept"`
	Marked   int         `json:"marked"` // go when the grace is over
	Gone     int         `json:"gone"`
	Log      int         `json:"log"`              // pieces of log that nothing needs
	Freed    vault.Freed `json:"freed"`            // objects of the log
	Agreed   string      `json:"agreed,omitempty"` // what of the plan waits for two persons
}

func retained(p backup.Pruned) Retained {
	r := Retained{Database: p.Database, Log: p.Segments, Freed: p.Freed, Agreed: p.Agreed}
	for _, f := range p.Fates {
		switch {
		case f.Gone:
			r.Gone++
		case f.Keep:
			r.Kept++
		default:
			r.Marked++
		}
	}
	return r
}

// retain lets go of what the tiers do not keep, of each database and each file set by itself, and frees what nothing uses then. When one of
// them stands still or refuses nothing is freed, nor the trash emptied: it may be this host's clock that is wrong.
func (h *Host) retain(ctx context.Context, v *vault.Vault, r *choreRun) (string, any, error) {
	if p := clocksApart(h.cfg.Self, h.agent.Last().Facts.Peers); p != nil {
		return "", nil, p // the place of a vault may date by this very clock
	}
	var all []Retained
	var failed []error
	for _, b := range h.plan().Backups {
		if b.Vault != v.Name() || r.only != "" && r.only != b.Of {
			continue
		}
		points, err := h.pointsOf(ctx, v, b.Of, r.may)
		if err != nil {
			failed = append(failed, err)
			continue
		}
		done, err := backup.Prune(ctx, backup.PruneOptions{
			Vault: v, Database: b.Of, Policy: backup.PolicyOf(b), Now: time.Now(), By: h.cfg.Self, May: r.may,
			Behind: behindMax(b), Points: points, Log: h.cfg.Log,
		})
		if err != nil { // one that stands still does not keep the others from it
			failed = append(failed, err)
			continue
		}
		all = append(all, retained(done))
	}
	kept, err := h.retainFiles(ctx, v, r)
	all, failed = append(all, kept...), append(failed, err)
	if err := ctx.Err(); err != nil {
		return "", nil, err
	}
	if errors.Join(failed...) == nil {
		failed = append(failed, h.filesCurrent(ctx, v))
	}
	if err := errors.Join(failed...); err != nil {
		return "", nil, err
	}
	freed, err := h.reclaim(ctx, v, r)
	if err != nil {
		return "", nil, err
	}
	var parts []string
	for _, d := range all {
		parts = append(parts, fmt.Sprintf("%s%s: %d backups kept, %d marked, %d gone", d.Database, d.Files, d.Kept, d.Marked, d.Gone))
		if d.Agreed != "" {
			parts = append(parts, d.Agreed)
		}
		freed.Objects += d.Freed.Objects
		freed.Locked += d.Freed.Locked
	}
	text := strings.Join(append(parts, fmt.Sprintf("%d objects freed", freed.Objects)), "; ")
	if freed.Locked > 0 {
		text += fmt.Sprintf(", %d more when their lock is over", freed.Locked)
	}
	return text, all, nil
}

// filesCurrent refuses to free anything in a vault of file sets alone that has received none for long, as
// [backup.Prune] does for a database.
func (h *Host) filesCurrent(ctx context.Context, v *vault.Vault) error {
	p := h.plan()
	if slices.ContainsFunc(p.Backups, func(b plan.Backup) bool { return b.Vault == v.Name() }) {
		return nil
	}
	all, err := v.FileBackups(ctx, "")
	if err != nil {
		return err
	}
	return filesBehind(p, v.Name(), all, time.Now())
}

// filesBehind is the refusal of [Host.filesCurrent], by the newest backup of any file set. Pure.
func filesBehind(p *plan.Plan, name string, all []vault.FileBackup, now time.Time) error {
	behind := time.Duration(0)
	for _, s := range p.Files {
		if s.Backup.Vault == name {
			behind = max(behind, filesBehindMax(s))
		}
	}
	var newest time.Time
	for _, b := range all {
		if b.Ended.After(newest) {
			newest = b.Ended
		}
	}
	if len(all) == 0 || now.Sub(newest) <= behind {
		return nil
	}
	return &problem.Problem{Code: "backup.not-pruned", Subject: name, Severity: problem.Degraded,
		Title:   "the newest backup of files that the vault holds is from " + newest.UTC().Format("2006-01-02 15:04 UTC"),
		Meaning: fmt.Sprintf("Nothing is freed, for the clock here shows %s: either no file set is backed up any more, or the clock is wrong.", now.UTC().Format("2006-01-02 15:04 UTC")),
		Remedy:  "see that file sets reach the vault: holdfast status; and that this host's clock is right"}
}

// reclaim frees what no listed backup uses, in a child whose memory is bounded.
func (h *Host) reclaim(ctx context.Context, v *vault.Vault, r *choreRun) (vault.Freed, error) {
	conf, err := h.vaultConfig(ctx, v.Name())
	if err != nil {
		return vault.Freed{}, err
	}
	conf.ID = v.Identity().ID
	done, err := confined.Reclaim(ctx, conf, confined.Options{
		ReclaimOptions: vault.ReclaimOptions{May: r.may}, Argv: []string{h.cfg.Executable, confined.Verb}, Log: h.cfg.Log,
	})
	return done.Freed, err
}

// behindMax is how old the newest thing of a database in a vault may be before nothing of it is let go.
func behindMax(b plan.Backup) time.Duration {
	return backup.BehindOf(b)
}

// scrub reads everything, and goes on where an earlier one of this host was cut off.
func (h *Host) scrub(ctx context.Context, v *vault.Vault, r *choreRun) (string, any, error) {
	file := filepath.Join(h.cfg.Dir, "scrub-"+v.Name()+".json")
	u, _ := r.custodian.upkeep()
	o := vault.ScrubOptions{Rate: u.ScrubLimit, Clock: h.clock, Save: func(s vault.Scrubbed) error {
		raw, err := json.Marshal(s)
		if err != nil {
			return err
		}
		return durable.WriteFile(file, raw, 0o600)
	}}
	raw, err := os.ReadFile(file)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", nil, fmt.Errorf("read how far the scrub was: %w", err)
	}
	var earlier vault.Scrubbed
	if err == nil && json.Unmarshal(raw, &earlier) == nil && earlier.Ended.IsZero() {
		o.Resume = &earlier
	}
	s, err := v.Scrub(ctx, o)
	if err != nil {
		return "", nil, err
	}
	if err := v.RecordScrub(ctx, s); err != nil {
		return "", nil, err
	}
	took := s.Ended.Sub(s.Began).Round(time.Second)
	if len(s.Damage()) > 0 {
		return "", nil, scrubFound(ctx, v, s)
	}
	if len(s.Away)+len(s.Trouble) > 0 {
		return "", nil, fmt.Errorf("not everything could be read: %s", strings.Join(append(s.Away, s.Trouble...), "; "))
	}
	return fmt.Sprintf("%d objects, %d bytes, are what was stored; read in %s", s.Blobs, s.Bytes, took), nil, nil
}

// scrubFound says what a scrub found damaged, and which moments cannot be restored for that any more.
func scrubFound(ctx context.Context, v *vault.Vault, s vault.Scrubbed) *problem.Problem {
	damage := s.Damage()
	p := &problem.Problem{Code: "vault.damaged", Subject: v.Name(), Severity: problem.Critical,
		Title:   fmt.Sprintf("the scrub found %d objects damaged or lost, the first: %s", len(damage), damage[0].Name),
		Meaning: "Backups or moments that need them cannot be restored, unless another copy of the vault has them whole. Nothing is let go while that is so.",
		Remedy:  "holdfast vault repair " + v.Name() + " --scrub"}
	gaps, err := v.Gaps(ctx, s.Lost())
	if err != nil {
		p.Meaning += " Which moments that are is not known: " + err.Error() + "."
	}
	for _, g := range gaps {
		text := g.String()
		p.Meaning += "\n  " + strings.ToUpper(text[:1]) + text[1:] + "."
	}
	return p
}

// renew makes locks longer.
func (h *Host) renew(ctx context.Context, v *vault.Vault, _ *choreRun) (string, any, error) {
	n, err := v.RenewLocks(ctx)
	if err != nil {
		return "", nil, err
	}
	return fmt.Sprintf("the locks of %d objects were made longer", n), nil, nil
}

// sync compares and fills the copies once.
func (h *Host) sync(ctx context.Context, v *vault.Vault, _ *choreRun) (string, any, error) {
	all, err := v.Sync(ctx)
	if err != nil {
		return "", nil, err
	}
	var parts, bad []string
	for _, c := range all {
		parts = append(parts, fmt.Sprintf("copy %s got %d objects", c.Copy, c.Blobs))
		switch {
		case c.Away != nil:
			bad = append(bad, fmt.Sprintf("copy %s is away: %s", c.Copy, firstLine(c.Away.Error())))
		case c.Left > 0:
			bad = append(bad, fmt.Sprintf("%d objects did not arrive in copy %s", c.Left, c.Copy))
		}
	}
	if len(bad) > 0 {
		return "", nil, errors.New(strings.Join(bad, "; "))
	}
	return strings.Join(parts, ", "), nil, nil
}

// choreEnded notes how a chore of a database went, which was about a base backup ("" = none was made).
func (h *Host) choreEnded(ctx context.Context, kind, database, id string, began time.Time, since time.Time, text string, err error) {
	was, _ := agent.ChoreOf(h.agent.Last().Agreed, kind, database)
	c := agent.Chore{Kind: kind, Subject: database, Backup: id, Host: h.cfg.Self, Since: since.UTC(), Began: began.UTC(), Ended: time.Now().UTC(), OK: err == nil, Text: text}
	c.Cancelled = was.Cancelled
	if err != nil { // what was wanted is still wanted, and still waived
		c.Waived = was.Waived
	}
	if err != nil && kind == agent.ChoreProve {
		c.Problem = choreProblem(kind, database, err)
	}
	h.agent.NoteChore(ctx, c)
}
