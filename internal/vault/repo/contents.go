package repo

import (
	"context"
	"errors"
)

// Content reads one content. Its bytes are authentic, or it is an error.
func (r *Repository) Content(ctx context.Context, id ContentID) ([]byte, error) {
	return nil, errors.New("not yet")
}

// ContentInfo says where a content lies. A deleted one is given too.
func (r *Repository) ContentInfo(ctx context.Context, id ContentID) (Info, error) {
	return Info{}, errors.New("not yet")
}

// EachContent gives every content, in the order of their names. deletedToo = also those that are deleted.
func (r *Repository) EachContent(ctx context.Context, deletedToo bool, each func(Info) error) error {
	return errors.New("not yet")
}

// EachContentOf is [Repository.EachContent] for the contents of one prefix: "" = those without, "m" = manifests.
func (r *Repository) EachContentOf(ctx context.Context, prefix string, deletedToo bool, each func(Info) error) error {
	return errors.New("not yet")
}

// revision changes whenever another set of indexes counts.
func (r *Repository) revision() int64 { return 0 }

// Name is the id that these bytes have without a prefix.
func (r *Repository) Name(p []byte) ContentID { return ContentID{} }
