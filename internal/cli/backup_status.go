package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"holdfast/internal/agent"
	"holdfast/internal/api"
	"holdfast/internal/backup"
	"holdfast/internal/event"
	"holdfast/internal/plan"
	"holdfast/internal/vault"
)

// backupStatus is how the backup of one database stands, for a person or a program.
type backupStatus struct {
	Database  string             `json:"database"`
	Vault     string             `json:"vault"`
	Last      *lastBackup        `json:"last,omitempty"`    // the newest that the vault lists; missing = none
	Running   []agent.Run        `json:"running"`           // base backups that are being made, and trials
	Attempt   *api.ChoreStatus   `json:"attempt,omitempty"` // how the last run went, and when the next is
	Proving   *api.ChoreStatus   `json:"proving,omitempty"` // the last scheduled trial, and the next
	Windows   []listedWindow     `json:"windows"`           // moments that can be restored, oldest first
	Backups   int                `json:"backups"`
	Proven    int                `json:"proven"`
	Log       *api.ArchiveStatus `json:"log,omitempty"` // how far the log can be read in the vault
	Retention *api.ChoreStatus   `json:"retention,omitempty"`
	Upkeep    []api.ChoreStatus  `json:"upkeep"`             // of its vault, retention apart
	Copies    []copyStanding     `json:"copies"`             // of its vault
	Key       string             `json:"key,omitempty"`      // no copy of its vault's key away from the hosts was shown to open it
	Changed   *backup.Changed    `json:"changed,omitempty"`  // pages that changed behind the log, as nobody has accepted
	Trouble   []string           `json:"trouble,omitempty"`  // what could not be asked
	Problems  []string           `json:"problems,omitempty"` // titles, as in holdfast status
}

// lastBackup is the newest backup.
type lastBackup struct {
	ID       string         `json:"id"`
	Kind     string         `json:"kind"`
	Finished time.Time      `json:"finished"`
	Took     event.Duration `json:"took"`
	Bytes    int64          `json:"bytes"`
	Stored   int64          `json:"stored"`
	Rate     int64          `json:"bytes_per_second"`
	Proven   bool           `json:"proven"`
	Tried    time.Time      `json:"tried,omitzero"` // when it was restored on trial
}

// copyStanding is how one copy of a vault stands.
type copyStanding struct {
	Copy  string `json:"copy"`
	Away  string `json:"away,omitempty"`
	Lacks int    `json:"lacks"` // objects that others have
	// Log is how far this copy by itself has the log; missing = the copy is away, or nothing can be restored.
	Log *logStanding `json:"log,omitempty"`
}

// logText is what is said of the log in a copy, behind what is said of the copy.
func (c copyStanding) logText() string {
	if c.Log == nil {
		return ""
	}
	return "; " + c.Log.String()
}

func backupStatusCommand() *cobra.Command {
	var root, output string
	cmd := &cobra.Command{
		Use:   "status [NAME]",
		Short: "Say how the backups stand: what runs now and how far, the last and the next, what can be restored, what upkeep came to",
		Long: `Asks the vault what it holds, and the agents what they do: a base backup that is being made, by the plan's schedule or
because somebody asked for it, is shown with its phase, bytes, rate and time left, and so is a trial. When one of them does not answer, what the other says is shown.
NAME may be a file set too. Status 1 when there is no proven backup, when the newest was found bad, when the last run or trial did not succeed, when
nobody archives the log or the archive does not go on, when
somebody did not answer, or while pages have changed behind the log and nobody has accepted that.`,
		Example: `  holdfast backup status
  holdfast backup status records --output json | jq '.[].log.lag'
  holdfast backup status records --output json | jq '.[].running'`,
		Args: usageArgs(cobra.MaximumNArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := checkOutput(output); err != nil {
				return err
			}
			a, err := findApplication(cmd, root)
			if err != nil {
				return err
			}
			if len(args) == 1 {
				if _, set := a.plan.FileSetNamed(args[0]); set {
					return a.setStatus(cmd, args[0], output)
				}
			}
			all, err := a.backupStatuses(cmd.Context(), args)
			if err != nil {
				return err
			}
			if output == "json" {
				err = writeJSON(cmd.OutOrStdout(), all)
			} else {
				err = writeBackupStatuses(cmd.OutOrStdout(), all)
			}
			for _, s := range all {
				if s.bad() && err == nil {
					err = exitError{1}
				}
			}
			return err
		},
	}
	cmd.Flags().StringVar(&root, "root", "", rootUsage)
	outputFlag(cmd, &output)
	return cmd
}

// bad reports whether anything stands in the way of restoring the newest moment. Agents that do not answer are among the Trouble, so
// that a missing Log means that nobody archives.
func (s backupStatus) bad() bool {
	failed := func(c *api.ChoreStatus) bool { return c != nil && !c.Ended.IsZero() && !c.OK }
	foundBad := s.Last != nil && !s.Last.Tried.IsZero() && !s.Last.Proven
	unarchived := s.Log == nil || s.Log.Trouble != "" || s.Log.Gap != ""
	return s.Proven == 0 || s.Changed != nil || failed(s.Attempt) || failed(s.Proving) || foundBad || unarchived || len(s.Trouble) > 0
}

func (a application) backupStatuses(ctx context.Context, names []string) ([]backupStatus, error) {
	wanted := a.plan.Backups
	if len(names) > 0 {
		_, b, err := a.backupOf(names[0])
		if err != nil {
			return nil, err
		}
		wanted = []plan.Backup{b}
	}
	var st *api.Status
	client, agents := operator(a.Context)
	if agents == nil {
		defer client.Close()
		var now api.Status
		if now, agents = client.Status(ctx); agents == nil {
			st = &now
		}
	}
	all := []backupStatus{}
	for _, b := range wanted {
		s := backupStatus{Database: b.Of, Vault: b.Vault, Windows: []listedWindow{}, Running: []agent.Run{}, Upkeep: []api.ChoreStatus{}, Copies: []copyStanding{}}
		if err := a.lookAtVault(ctx, &s); err != nil {
			s.Trouble = append(s.Trouble, "vault "+b.Vault+" could not be read: "+err.Error())
		}
		if st != nil {
			s.lookAtAgents(*st)
		} else {
			s.Trouble = append(s.Trouble, "no agent answers: "+agents.Error())
		}
		all = append(all, s)
	}
	return all, nil
}

func (a application) lookAtVault(ctx context.Context, s *backupStatus) error {
	v, err := a.openVault(ctx, s.Vault)
	if err != nil {
		return err
	}
	defer closeVault(ctx, v)
	h, err := holdings(ctx, v, s.Database)
	if err != nil {
		return err
	}
	s.Backups, s.Windows = len(h.Backups), append(s.Windows, joinWindows(h.Windows)...)
	for _, b := range h.Backups {
		if b.Proven {
			s.Proven++
		}
	}
	if s.Backups > 0 {
		s.Last = lastOf(h.Backups[0].Backup)
	}
	made := make([]vault.Backup, 0, len(h.Backups))
	for _, b := range slices.Backward(h.Backups) {
		made = append(made, b.Backup)
	}
	if s.Changed, err = backup.StandingChangeIn(ctx, v, made); err != nil {
		return err
	}
	keys, err := v.Keys(ctx)
	if err != nil {
		return err
	}
	if p := keys.Trouble(s.Vault, time.Now()); p != nil {
		s.Key = p.Title + "; do: " + p.Remedy
	}
	lacks, err := v.Compare(ctx)
	if err != nil {
		return err
	}
	reach, err := logReach(ctx, v, s.Database, time.Now())
	if lacks == nil { // the vault has one copy
		if log, ok := reach[""]; ok {
			s.Copies = append(s.Copies, copyStanding{Log: &log})
		}
	}
	for _, l := range lacks {
		c := copyStanding{Copy: l.Copy, Away: errorText(l.Away), Lacks: len(l.Missing)}
		if log, ok := reach[l.Copy]; ok && c.Away == "" {
			c.Log = &log
		}
		s.Copies = append(s.Copies, c)
	}
	return err
}

func lastOf(b vault.Backup) *lastBackup {
	l := &lastBackup{ID: b.ID, Kind: b.Kind, Finished: b.Stopped, Took: event.Duration(b.Stopped.Sub(b.Started)), Bytes: b.Bytes, Stored: b.Stored, Proven: b.Validated()}
	if b.Validation != nil {
		l.Tried = b.Validation.At
	}
	if took := b.Stopped.Sub(b.Started).Seconds(); took > 0 {
		l.Rate = int64(float64(b.Bytes) / took)
	}
	return l
}

func (s *backupStatus) lookAtAgents(st api.Status) {
	for _, d := range st.Databases {
		if d.Name == s.Database {
			s.Log = d.Archive
			s.Running = append(s.Running, runsOf(d)...)
		}
	}
	for _, c := range st.Upkeep {
		switch {
		case c.Subject == s.Database && c.Kind == agent.ChoreBase:
			s.Attempt = &c
		case c.Subject == s.Database && c.Kind == agent.ChoreProve:
			s.Proving = &c
		case c.Subject == s.Vault && c.Kind == agent.ChoreRetention:
			s.Retention = &c
		case c.Subject == s.Vault:
			s.Upkeep = append(s.Upkeep, c)
		}
	}
	for _, p := range st.Problems {
		if p.Subject == s.Database || p.Subject == s.Vault {
			s.Problems = append(s.Problems, p.Title)
		}
	}
}

func writeBackupStatuses(out io.Writer, all []backupStatus) error {
	if len(all) == 0 {
		return noBackups("")
	}
	var err error
	for i, s := range all {
		if i > 0 {
			_, err = fmt.Fprintln(out)
		}
		err = errors.Join(err, s.write(out))
	}
	return err
}

func (s backupStatus) write(out io.Writer) error {
	var err error
	p := func(format string, args ...any) {
		if err == nil {
			_, err = fmt.Fprintf(out, format, args...)
		}
	}
	p("DATABASE %s in vault %s\n", s.Database, s.Vault)
	if l := s.Last; l != nil {
		p("  last       %s, %s, finished %s\n", l.ID, l.Kind, whenText(l.Finished))
		p("  took       %s, %s at %s/s; stored %s\n", tookText(time.Duration(l.Took)), sizeText(l.Bytes), sizeText(l.Rate), sizeText(l.Stored))
		p("  proven     %s\n", provenText(*l))
	} else {
		p("  last       none: holdfast backup run %s\n", s.Database)
	}
	for _, r := range s.Running {
		p("  running    %s\n", runText(r, time.Now()))
	}
	if len(s.Running) > 0 {
		p("  end it     holdfast backup cancel %s\n", s.Database)
	}
	p("  backups    %d, %d of them proven\n", s.Backups, s.Proven)
	if c := s.Changed; c != nil {
		p("  CHANGED    %s\n  do         %s\n", c.Problem(s.Database).Title, c.Problem(s.Database).Remedy)
	}
	p("  last run   %s\n", choreText(s.Attempt))
	p("  trial      %s\n", choreText(s.Proving))
	for _, w := range s.Windows {
		p("  restores   any moment from %s to %s (log up to %s)\n", firstText(w.From, w.To), momentText(w.To), w.End)
	}
	if s.Log != nil {
		p("  log        can be read in the vault up to %s, %s (from %s) %s\n", s.Log.Archived, logBehind(s.Log), s.Log.Host, s.Log.Trouble)
	}
	p("  retention  %s\n", choreText(s.Retention))
	for _, c := range s.Upkeep {
		p("  %-10s %s\n", c.Kind, choreText(&c))
	}
	for _, c := range s.Copies {
		switch {
		case c.Away != "":
			p("  copy       %s is away: %s\n", c.Copy, c.Away)
		case c.Lacks > 0:
			p("  copy       %s lacks %d objects%s\n", c.Copy, c.Lacks, c.logText())
		case c.Copy == "":
			p("  copy       the only one%s\n", c.logText())
		default:
			p("  copy       %s holds everything%s\n", c.Copy, c.logText())
		}
	}
	if s.Key != "" {
		p("  key        DEGRADED: %s\n", s.Key)
	}
	for _, t := range s.Trouble {
		p("  trouble    %s\n", t)
	}
	for _, t := range s.Problems {
		p("  problem    %s\n", t)
	}
	return err
}

func provenText(l lastBackup) string {
	switch {
	case l.Tried.IsZero():
		return "not yet"
	case !l.Proven:
		return "NO: it was tried " + whenText(l.Tried) + " and is bad"
	}
	return "yes, by restoring it " + whenText(l.Tried)
}

// choreText says how a chore last went and when it does next.
func choreText(c *api.ChoreStatus) string {
	if c == nil {
		return "nothing is known of it yet"
	}
	text := c.Text
	if !c.Began.IsZero() {
		text = fmt.Sprintf("%s in %s: %s", whenText(c.Ended), tookText(c.Took()), c.Text)
	}
	if !c.OK {
		text = "DID NOT SUCCEED, " + text
	}
	if c.Next.IsZero() {
		return text + "; not planned"
	}
	return text + "; next " + momentText(c.Next)
}
