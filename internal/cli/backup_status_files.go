package cli

import (
	"fmt"
	"io"
	"slices"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"holdfast/internal/api"
	"holdfast/internal/problem"
)

// setStatus is `backup status` of a file set: how its backups stand on each of its hosts, as the agents say.
func (a application) setStatus(cmd *cobra.Command, name, output string) error {
	client, err := operatorIn(cmd, a.Context)
	if err != nil {
		return err
	}
	defer client.Close()
	st, err := client.Status(cmd.Context())
	if err != nil {
		return err
	}
	all := slices.DeleteFunc(append([]api.FilesStatus{}, st.Files...), func(f api.FilesStatus) bool { return f.Name != name })
	if output == "json" {
		err = writeJSON(cmd.OutOrStdout(), all)
	} else {
		err = writeSetStatus(cmd.OutOrStdout(), name, all, st.Problems)
	}
	if err == nil && !setsWell(all) {
		err = exitError{1}
	}
	return err
}

// setsWell reports whether each host of a file set answers, has a complete backup, and its last try succeeded.
func setsWell(all []api.FilesStatus) bool {
	return len(all) > 0 && !slices.ContainsFunc(all, func(f api.FilesStatus) bool {
		return !f.Heard || f.Last == nil || f.Last.Unreadable > 0 || f.Trouble != ""
	})
}

func writeSetStatus(out io.Writer, name string, all []api.FilesStatus, problems []problem.Problem) error {
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	p := func(format string, args ...any) { _, _ = fmt.Fprintf(w, format, args...) } // Flush tells the error
	writeFilesStatus(p, all)
	if err := w.Flush(); err != nil {
		return err
	}
	for _, x := range problems {
		if x.Subject != name {
			continue
		}
		if _, err := fmt.Fprintf(out, "problem: %s\n", x.Text()); err != nil {
			return err
		}
	}
	_, err := fmt.Fprintf(out, "\nwhat the vault holds of it: holdfast files list %s\n", name)
	return err
}
