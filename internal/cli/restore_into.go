package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"holdfast/internal/event"
	"holdfast/internal/problem"
	"holdfast/internal/restore"
)

// broughtInto is what `restore NAME --into` came to, or with DryRun would bring.
type broughtInto struct {
	Database    string           `json:"database"`
	At          string           `json:"at"`
	Backup      string           `json:"backup"`
	Unseen      *problem.Problem `json:"unseen,omitempty"`       // a copy that could not be read, and what is not known for that
	HoldsChange *problem.Problem `json:"holds_change,omitempty"` // pages that changed behind the log may be in it
	Inside      string           `json:"inside"`                 // the SQL database
	Table       string           `json:"table,omitempty"`
	Into        string           `json:"into"`
	Bytes       int64            `json:"bytes"`
	Objects     []restore.Object `json:"objects,omitempty"`
	Tablespaces []restore.Laid   `json:"tablespaces,omitempty"` // of an SQL database, those that it keeps
	LeftOut     []string         `json:"left_out,omitempty"`
	Unknown     []string         `json:"room_unknown,omitempty"` // standbys whose free space nobody has told
	DryRun      bool             `json:"dry_run"`
	Written     bool             `json:"written"`
	Took        event.Duration   `json:"took"`
}

// bringInto puts a table or an SQL database of an earlier moment beside the live ones, under a new name.
func (w *tableWords) bringInto(ctx context.Context, cmd *cobra.Command, name string, at restore.Target) (err error) {
	a, err := findApplication(cmd, w.from.root)
	if err != nil {
		return err
	}
	d, _, err := a.backupOf(name)
	if err != nil {
		return err
	}
	inside, err := databaseInside(d, w.database)
	if err != nil {
		return err
	}
	o, closeAll, err := a.intoOptions(ctx, name, at, w.scratch)
	if err != nil {
		return err
	}
	defer closeAll()
	began := time.Now()
	line := newProgressLine(cmd.ErrOrStderr())
	o.Inside, o.Table, o.Into, o.Progress = inside, w.table, w.into, line.restored
	n, err := restore.OpenInto(ctx, o)
	line.end()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, n.Close(context.WithoutCancel(ctx))) }()
	out := broughtInto{Database: name, At: at.String(), Backup: n.Choice.Backup.ID, Inside: inside, Table: w.table, Into: w.into,
		Bytes: n.Bytes, Objects: n.Objects, Tablespaces: n.Tablespaces, LeftOut: n.LeftOut, Unknown: n.Unknown, DryRun: w.dryRun, Unseen: n.Choice.Unseen}
	warnUnseen(cmd, n.Choice.Unseen)
	out.HoldsChange = warnChanged(ctx, cmd, o.Vault, n.Choice.Backup)
	if w.output != "json" {
		if err := writeInto(cmd.OutOrStdout(), out); err != nil {
			return err
		}
	}
	if !w.dryRun {
		if out.Written, err = w.writeInto(ctx, cmd, n, out); err != nil {
			return err
		}
	}
	out.Took = event.Duration(time.Since(began))
	if out.Written {
		a.restored(ctx, cmd, o.Vault.Name(), intoReceipt(out))
	}
	if w.output == "json" {
		return writeJSON(cmd.OutOrStdout(), out)
	}
	return writeIntoOutcome(cmd.OutOrStdout(), out)
}

// intoOptions leads to the vault and to the live primary. closeAll closes the vault.
func (a application) intoOptions(ctx context.Context, name string, at restore.Target, scratch string) (o restore.IntoOptions, closeAll func(), err error) {
	d, b, err := a.backupOf(name)
	if err != nil {
		return o, nil, err
	}
	primary, members, err := a.livePrimaryHost(ctx, d)
	if err != nil {
		return o, nil, err
	}
	o = restore.IntoOptions{Database: name, At: at, BinDir: d.BinDir, Members: members}
	if o.Live, err = a.sockets(d, primary); err != nil {
		return o, nil, err
	}
	if o.Owner, err = restore.DefaultOwner(); err != nil {
		return o, nil, err
	}
	if o.Dir, err = a.scratchDir(scratch); err != nil {
		return o, nil, err
	}
	if o.Vault, err = a.openVault(ctx, b.Vault); err != nil {
		return o, nil, err
	}
	return o, func() { closeVault(ctx, o.Vault) }, nil
}

func (w *tableWords) writeInto(ctx context.Context, cmd *cobra.Command, n *restore.Into, out broughtInto) (bool, error) {
	if !w.yes {
		if ok, err := confirm(cmd, fmt.Sprintf("Put this into the live cluster as the new %s? It takes about %s there.", out.place(), sizeText(out.Bytes))); err != nil || !ok {
			return false, err
		}
	}
	line := newProgressLine(cmd.ErrOrStderr())
	line.show("loading "+sizeText(out.Bytes), "")
	err := n.Write(ctx)
	line.end()
	return err == nil, err
}

// place is the new thing in words.
func (b broughtInto) place() string {
	if b.Table == "" {
		return "SQL database " + b.Into
	}
	return fmt.Sprintf("schema %s of SQL database %s", b.Into, b.Inside)
}

func writeInto(out io.Writer, b broughtInto) error {
	what := "table " + b.Table
	if b.Table == "" {
		what = "SQL database " + b.Inside
	}
	_, err := fmt.Fprintf(out, "%s at %s (from base backup %s), %s, as the new %s\n", what, b.At, b.Backup, sizeText(b.Bytes), b.place())
	for _, o := range b.Objects {
		if err == nil {
			_, err = fmt.Fprintf(out, "  %s %s\n", o.Type, o.Name)
		}
	}
	var laid strings.Builder
	writeLaid(&laid, b.Tablespaces)
	if err == nil {
		_, err = io.WriteString(out, laid.String())
	}
	for _, l := range b.LeftOut {
		if err == nil {
			_, err = fmt.Fprintf(out, "  LEFT OUT: %s\n", l)
		}
	}
	if err == nil && len(b.Unknown) > 0 {
		_, err = fmt.Fprintf(out, "NOT KNOWN is the room on %s, which does not answer.\n", strings.Join(b.Unknown, ", "))
	}
	return err
}

func writeIntoOutcome(out io.Writer, b broughtInto) error {
	text := "Nothing was changed.\n"
	if b.Written {
		text = fmt.Sprintf("It is there now, whole: %s. Nothing that was live was changed.\n", b.place())
	}
	_, err := io.WriteString(out, text)
	return err
}
