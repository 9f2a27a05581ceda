package host

import (
	"context"
	"errors"
	"fmt"

	"holdfast/internal/problem"
	"holdfast/internal/vault"
)

// choreCompact is the chore of a vault that keeps it quick to open and short to list.
const choreCompact = "compact"

// compact joins the repository's indexes, and puts old log together in bundles.
func (h *Host) compact(ctx context.Context, v *vault.Vault, r *choreRun) (string, any, error) {
	joined, err := v.Compact(ctx, r.may)
	if err != nil {
		return "", nil, err
	}
	text := fmt.Sprintf("the indexes of %d days were joined", joined.Days)
	done, err := v.BundleLogs(ctx, vault.BundleOptions{May: r.may})
	if p, ok := errors.AsType[*problem.Problem](err); ok {
		switch p.Code {
		case "vault.no-right-to-delete":
			return text + "; log is not bundled, for there is no right to delete", nil, nil
		case "vault.needs-two-persons", "vault.paper-lost":
			return text + "; log is not bundled: " + p.Title, nil, nil
		}
	}
	if err != nil {
		return "", nil, err
	}
	text += fmt.Sprintf("; %d segments of log were put into %d bundles", done.Segments, done.Bundles)
	if n := done.Freed.Locked; n > 0 {
		text += fmt.Sprintf(", %d of them go when their lock is over", n)
	}
	return text, done, nil
}
