package vault

import (
	"cmp"
	"context"
	"reflect"
	"slices"
)

// pointsFile names the recovery points in other vaults that need backups in this one, as they were last heard of there.
const pointsFile = "points.json"

// NotedPoints are the recovery points in one other vault whose databases' backups lie in this one.
type NotedPoints struct {
	ID     string  `json:"id"`   // of that vault
	Name   string  `json:"name"` // by the plan of whoever asked it
	Points []Point `json:"points"`
}

type notedPoints struct {
	Vaults []NotedPoints `json:"vaults"`
}

// NotedPoints says of each other vault that was ever asked what it held of recovery points of databases here. What needs backups
// here is known so when that vault is in no plan any more.
func (v *Vault) NotedPoints(ctx context.Context) ([]NotedPoints, error) {
	var all notedPoints
	_, err := v.getRecord(ctx, pointsFile, &all)
	return all.Vaults, err
}

// NotePoints replaces what is noted, where it differs.
func (v *Vault) NotePoints(ctx context.Context, all []NotedPoints) error {
	before, err := v.NotedPoints(ctx)
	if err != nil {
		return err
	}
	for _, list := range [][]NotedPoints{before, all} {
		for _, x := range list {
			slices.SortFunc(x.Points, func(a, b Point) int { return cmp.Or(a.At.Compare(b.At), cmp.Compare(a.ID, b.ID)) })
		}
		slices.SortFunc(list, func(a, b NotedPoints) int { return cmp.Compare(a.ID, b.ID) })
	}
	if len(before) == 0 && len(all) == 0 || reflect.DeepEqual(before, all) {
		return nil
	}
	return v.putRecord(ctx, pointsFile, notedPoints{all})
}
