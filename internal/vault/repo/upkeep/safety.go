package upkeep

import "time"

// Safety is how much time passes before something counts as unused for good. What the field names say is as in kopia's safety
// parameters.
type Safety struct {
	// MinContentAgeSubjectToGC is how old an unused content is before it is marked as deleted.
	MinContentAgeSubjectToGC time.Duration
	// RequireTwoGCCycles makes what was marked wait for a second look: whoever used it meanwhile is listed by then.
	RequireTwoGCCycles bool
	// MarginBetweenSnapshotGC is how far apart the two looks are at least: a writer may take so long from what it finds until it is listed.
	MarginBetweenSnapshotGC time.Duration
	// DropContentFromIndexExtraMargin is how long before the first look something was marked at least.
	DropContentFromIndexExtraMargin time.Duration
	// RewriteMinAge is how old a content is before it is moved to another pack.
	RewriteMinAge time.Duration
	// MinRewriteToOrphanDeletionDelay is how long the packs from which contents were moved stay, for readers with an older index.
	// Zero = packs are joined in every run and deleted at once.
	MinRewriteToOrphanDeletionDelay time.Duration
	// PackDeleteMinAge is how old a pack is before it is deleted when no index knows it: one may be on its way.
	PackDeleteMinAge time.Duration
	// SessionExpirationAge is for how long the marker of a writer protects its packs.
	SessionExpirationAge time.Duration
}

// Full is safe while others write to the repository.
func Full() Safety {
	return Safety{
		MinContentAgeSubjectToGC:        24 * time.Hour,
		RequireTwoGCCycles:              true,
		MarginBetweenSnapshotGC:         4 * time.Hour,
		DropContentFromIndexExtraMargin: time.Hour,
		RewriteMinAge:                   2 * time.Hour,
		MinRewriteToOrphanDeletionDelay: time.Hour,
		PackDeleteMinAge:                24 * time.Hour,
		SessionExpirationAge:            96 * time.Hour,
	}
}

// None waits for nothing. It is safe only while nobody else has the repository open.
func None() Safety { return Safety{} }
