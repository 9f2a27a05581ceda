package host

import (
	"path/filepath"
	"slices"

	"holdfast/internal/keeper"
)

// Runs names what runs under keepers of the host in dir, whether or not its agent does: Holdfast's own processes, servers of
// databases, services, and restored copies. It changes nothing. A keeper that is silent is counted, for its process may run, and
// so is one that was killed where its child's own children go on.
func Runs(dir string) []string {
	var out []string
	for _, k := range []struct {
		pattern string
		name    func(keep string) string
	}{
		{keepDir(dir, "*"), filepath.Base},
		{filepath.Join(databaseDir(dir, "*"), "keep"), func(keep string) string { return "database " + filepath.Base(filepath.Dir(keep)) }},
		{filepath.Join(dir, "svc", "*", "*"), func(keep string) string { return "service " + filepath.Base(keep) }},
		{filepath.Join(CopiesDir(dir), "*", "keep"), func(keep string) string { return "restored copy " + filepath.Base(filepath.Dir(keep)) }},
	} {
		found, _ := filepath.Glob(k.pattern) // fails on a bad pattern alone
		for _, keep := range found {
			_, state, err := keeper.Find(keep)
			runs := err == nil && (state.Condition == keeper.Alive || state.Condition == keeper.Silent)
			if err == nil && state.Condition == keeper.Lost {
				left, err := keeper.Outlived(keep)
				runs = left > 0 || err != nil // what cannot be looked at is taken for it
			}
			if runs {
				out = append(out, k.name(keep))
			}
		}
	}
	slices.Sort(out)
	return out
}
