package cli

import (
	"fmt"
	"testing"

	"holdfast/internal/database"
)

func TestLostCommitsArePickedAndPaged(t *testing.T) {
	var all []database.LostCommit
	for i := range 10 {
		c := database.LostCommit{XID: uint32(i), State: database.LostAcknowledged, Tables: []database.LostTable{{Name: "public.orders"}}}
		if i%2 == 1 {
			c.State, c.Tables = database.LostInDoubt, []database.LostTable{{Name: "file 16400"}, {Name: "public.bills"}}
		}
		all = append(all, c)
	}
	for _, c := range []struct {
		name string
		pick salvagePick
		want string // shown, and how many there are
	}{
		{"all of them", salvagePick{}, "[0 1 2 3 4 5 6 7 8 9] 10"},
		{"a page", salvagePick{skip: 3, limit: 2}, "[3 4] 10"},
		{"a page behind the end", salvagePick{skip: 30, limit: 2}, "[] 10"},
		{"those of a table", salvagePick{table: "public.bills", limit: 2}, "[1 3] 5"},
		{"those of a file without a name", salvagePick{table: "file 16400", skip: 4}, "[9] 5"},
		{"acknowledged ones", salvagePick{state: "acknowledged", skip: 1, limit: 1}, "[2] 5"},
		{"in doubt, of a table that has none", salvagePick{state: "in-doubt", table: "public.orders"}, "[] 0"},
	} {
		t.Run(c.name, func(t *testing.T) {
			shown, fit := c.pick.of(all)
			ids := []uint32{}
			for _, x := range shown {
				ids = append(ids, x.XID)
			}
			if got := fmt.Sprint(ids, fit); got != c.want {
				t.Errorf("got %s, want %s", got, c.want)
			}
		})
	}
	if (salvagePick{state: "lost"}).check() == nil || (salvagePick{skip: -1}).check() == nil || (salvagePick{state: "in-doubt"}).check() != nil {
		t.Error("what cannot be asked for is not refused")
	}
}
