package restore

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// Whoever owns a database can write into its comment that it was set aside.
func TestUndoBelievesNoCommentAlone(t *testing.T) {
	now := time.Date(2026, 11, 21, 9, 0, 0, 0, time.UTC)
	clerk, mallory := "clerk", "mallory"
	made := func(name, run, owner string, is *string) aside {
		return aside{name: keptName(name, run), owner: owner, now: is, kept: kept{Kept: run, Name: name, At: "then"}}
	}
	one := func(a aside) []aside { return []aside{made("records", "20261121080000", clerk, &clerk), a} }
	renamed := made("records", "20261121083000", clerk, &clerk)
	renamed.name = "theirs"
	super := made("records", "20261121083000", "postgres", &clerk)
	super.super = true
	cases := []struct {
		name    string
		all     []aside
		comes   string // the kept database that comes back
		doubted string // a part of the reason
	}{
		{"the last one comes back", one(made("records", "20261121083000", clerk, &clerk)), "records_kept_20261121083000", ""},
		{"one of a superuser is believed", one(super), "records_kept_20261121083000", ""},
		{"what has no successor now is believed", one(made("old", "20261121083000", mallory, nil)), "old_kept_20261121083000", ""},
		{"another's database does not", one(made("records", "20261121083000", mallory, &clerk)), "records_kept_20261121080000", "belongs to mallory"},
		{"one of another name does not", one(renamed), "records_kept_20261121080000", "is called records_kept_20261121083000"},
		{"one of the future does not", one(made("records", "99991231235959", clerk, &clerk)), "records_kept_20261121080000", "no restore was"},
		{"one of no time does not", one(made("records", "9999", clerk, &clerk)), "records_kept_20261121080000", "no restore was"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			u, doubted := chooseUndo(c.all, now)
			if len(u.Databases) != 1 || u.Databases[0].Kept != c.comes || (len(doubted) > 0) != (c.doubted != "") || !strings.Contains(strings.Join(u.Doubtful, ";"), c.doubted) {
				t.Errorf("got %+v, doubted %v", u, doubted)
			}
		})
	}
	u, _ := chooseUndo([]aside{made("a", "20261121083000", clerk, &clerk), made("b", "20261121083000", clerk, &clerk), made("a", "20261121080000", clerk, &clerk)}, now)
	want := []Exchange{{Name: "a", Kept: "a_kept_20261121083000"}, {Name: "b", Kept: "b_kept_20261121083000"}}
	if d := cmp.Diff(want, u.Databases, cmpopts.IgnoreUnexported(Exchange{})); d != "" {
		t.Error(d)
	}
}
