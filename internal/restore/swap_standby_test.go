package restore_test

import (
	"testing"

	"holdfast/internal/restore"
	"holdfast/internal/restore/pgtest"
)

// Whether names were exchanged is not asked of a server that became a standby meanwhile: it may not have heard of it.
func TestAStandbyIsNotAskedWhetherNamesWereExchanged(t *testing.T) {
	primary := pgtest.New(t)
	standby := primary.Standby()
	swap := restore.Swap{Run: "20260101000000", Names: []restore.SwapName{{Name: "shop", In: "holdfast_inplace_x", Out: "shop_kept_20260101000000"}}}
	if did, err := restore.Swapped(t.Context(), primary.ConnString, swap); err != nil || did {
		t.Errorf("the primary: %v, %v", did, err)
	}
	if _, err := restore.Swapped(t.Context(), standby.ConnString, swap); err == nil {
		t.Error("the standby gives an answer")
	}
}
