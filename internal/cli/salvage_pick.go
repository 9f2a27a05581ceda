package cli

import (
	"fmt"
	"slices"

	"holdfast/internal/database"
)

// salvagePick says which of the lost commits are shown.
type salvagePick struct {
	table string // "" = all
	state string // acknowledged, in-doubt or "" = all
	skip  int    // of those
	limit int    // 0 = no limit
}

func (p salvagePick) check() error {
	switch {
	case p.state != "" && p.state != "acknowledged" && p.state != "in-doubt":
		return fmt.Errorf("--state %q is unknown (acknowledged, in-doubt): %w", p.state, errUsage)
	case p.skip < 0 || p.limit < 0:
		return fmt.Errorf("--skip and --limit are not negative: %w", errUsage)
	}
	return nil
}

// of gives the commits to show, and how many there are of that kind.
func (p salvagePick) of(all []database.LostCommit) (shown []database.LostCommit, fit int) {
	shown = []database.LostCommit{}
	for _, c := range all {
		if p.state == "acknowledged" && c.State != database.LostAcknowledged || p.state == "in-doubt" && c.State != database.LostInDoubt {
			continue
		}
		if p.table != "" && !slices.ContainsFunc(c.Tables, func(t database.LostTable) bool { return t.Name == p.table }) {
			continue
		}
		fit++
		if fit > p.skip && (p.limit == 0 || len(shown) < p.limit) {
			shown = append(shown, c)
		}
	}
	return shown, fit
}
