package backup

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"holdfast/internal/vault"
)

// Elsewhere are the other vaults of the plan, in which recovery points of a database may lie.
type Elsewhere struct {
	Vaults []string                                                     // all of the plan's; that of the backups among them is passed over
	Joined []string                                                     // those of file sets that are joined with the database now
	Open   func(ctx context.Context, name string) (*vault.Vault, error) // closed here
}

// PointsOf are the recovery points of a database, wherever they lie: in the vault v of its backups, in every other one of the plan,
// and in those that no plan names any more, as they were when they were last asked. When a vault that may have some cannot be
// asked nothing is known, and nothing may go. note is what v shall keep of it ([vault.Vault.NotePoints]).
func PointsOf(ctx context.Context, v *vault.Vault, database string, o Elsewhere) (points []vault.Point, note []vault.NotedPoints, err error) {
	noted, err := v.NotedPoints(ctx)
	if err != nil {
		return nil, nil, err
	}
	own, err := PointsIn(ctx, v, database)
	if err != nil {
		return nil, nil, err
	}
	var said []vault.NotedPoints
	for _, name := range o.Vaults {
		if name == v.Name() {
			continue
		}
		x, err := o.ask(ctx, name, database)
		switch {
		case err == nil:
			said = append(said, x)
		case slices.Contains(o.Joined, name) || mayHave(noted, name, database):
			return nil, nil, fmt.Errorf("ask vault %s for recovery points of %s: %w", name, database, err)
		}
	}
	note, points = mergePoints(noted, said, v.Identity().ID, own, database)
	return points, note, nil
}

func (o Elsewhere) ask(ctx context.Context, name, database string) (x vault.NotedPoints, err error) {
	v, err := o.Open(ctx, name)
	if err != nil {
		return x, err
	}
	defer func() { err = errors.Join(err, v.Close(context.WithoutCancel(ctx))) }()
	points, err := PointsIn(ctx, v, database)
	return vault.NotedPoints{ID: v.Identity().ID, Name: name, Points: points}, err
}

// mayHave reports whether a vault that cannot be asked now may hold points of a database that no file set in it is joined with:
// it had some, or was never asked. Pure.
func mayHave(noted []vault.NotedPoints, name, database string) bool {
	asked := false
	for _, x := range noted {
		if x.Name != name {
			continue
		}
		asked = true
		if slices.ContainsFunc(x.Points, func(p vault.Point) bool { return p.Database == database }) {
			return true
		}
	}
	return !asked
}

// mergePoints puts what vaults said now of a database's points in the place of what was noted of them. What was noted of one that
// said nothing stays, but for what another one has now: the same vault under another name, or a copy. self is the vault of the
// backups, and own are its points. Pure.
func mergePoints(noted, said []vault.NotedPoints, self string, own []vault.Point, database string) (note []vault.NotedPoints, points []vault.Point) {
	points = slices.Clone(own)
	known := map[string]bool{}
	for _, p := range own {
		known[p.ID] = true
	}
	spoke := map[string]bool{self: true}
	for _, x := range said {
		spoke[x.ID] = true
		for _, p := range x.Points {
			if !known[p.ID] {
				points = append(points, p)
			}
			known[p.ID] = true
		}
	}
	others := func(all []vault.Point) []vault.Point { // of other databases
		return slices.DeleteFunc(slices.Clone(all), func(p vault.Point) bool { return p.Database == database })
	}
	for _, x := range said {
		if i := slices.IndexFunc(noted, func(n vault.NotedPoints) bool { return n.ID == x.ID }); i >= 0 {
			x.Points = append(others(noted[i].Points), x.Points...)
		}
		note = append(note, x)
	}
	for _, x := range noted {
		if spoke[x.ID] {
			continue
		}
		x.Points = slices.DeleteFunc(slices.Clone(x.Points), func(p vault.Point) bool { return p.Database == database && known[p.ID] })
		for _, p := range x.Points {
			if p.Database == database {
				points = append(points, p)
			}
		}
		note = append(note, x)
	}
	return note, points
}
