package azstore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/blob"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/bloberror"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/container"

	"holdfast/internal/vault/attempt"
	"holdfast/internal/vault/store"
)

// Get implements [store.Store]. A connection that breaks is taken up where it broke, and only of the same blob.
func (s *Store) Get(ctx context.Context, name string, offset, length int64, to io.Writer) error {
	key, err := s.key(name)
	if err != nil {
		return err
	}
	if length == 0 {
		_, err := s.Stat(ctx, name)
		return err
	}
	r := attempt.Reading{Offset: offset, Length: length, To: to}
	err = r.Run(ctx, s.tries(), func(ctx context.Context, from, length int64, etag string) (attempt.Answer, error) {
		return s.ask(ctx, key, from, length, etag)
	})
	if err != nil {
		return s.explain("read "+name, err)
	}
	return nil
}

// ask asks for a part of a blob, once.
func (s *Store) ask(ctx context.Context, key string, from, length int64, etag string) (attempt.Answer, error) {
	opts := &blob.DownloadStreamOptions{Range: blob.HTTPRange{Offset: from, Count: max(length, 0)}} // a count of 0 is the rest
	if etag != "" {
		tag := azcore.ETag(etag)
		opts.AccessConditions = &blob.AccessConditions{ModifiedAccessConditions: &blob.ModifiedAccessConditions{IfMatch: &tag}}
	}
	a, err := s.read.NewBlobClient(key).DownloadStream(ctx, opts)
	if err != nil {
		if says(err, bloberror.InvalidRange) && length < 0 && etag == "" { // from the very end on there is nothing
			if p, headErr := s.head(ctx, key); headErr == nil && value(p.ContentLength) == from {
				return attempt.Nothing(from), nil
			}
		}
		if says(err, bloberror.InvalidRange) {
			err = attempt.Final{Err: fmt.Errorf("%d bytes from %d on are not all there: %w", length, from, store.ErrShort)}
		}
		return attempt.Answer{}, err
	}
	if a.ContentLength == nil {
		return attempt.Answer{}, errors.Join(attempt.Final{Err: errors.New("the store does not say how much it gives")}, a.Body.Close())
	}
	return attempt.Answer{Body: a.Body, Size: *a.ContentLength, ETag: string(value(a.ETag)), Range: value(a.ContentRange)}, nil
}

// Stat implements [store.Store].
func (s *Store) Stat(ctx context.Context, name string) (store.Info, error) {
	key, err := s.key(name)
	if err != nil {
		return store.Info{}, err
	}
	var p blob.GetPropertiesResponse
	err = s.try(ctx, "look up "+name, func(ctx context.Context) (err error) {
		p, err = s.head(ctx, key)
		return err
	})
	if err != nil {
		return store.Info{}, err
	}
	return store.Info{Name: name, Size: value(p.ContentLength), ModTime: value(p.LastModified)}, nil
}

// head looks a blob up, once.
func (s *Store) head(ctx context.Context, key string) (blob.GetPropertiesResponse, error) {
	ctx, done := context.WithTimeoutCause(ctx, s.patience.Silence, attempt.ErrSlow)
	defer done()
	return s.read.NewBlobClient(key).GetProperties(ctx, nil)
}

// page gives one page of a list.
func (s *Store) page(ctx context.Context, opts *container.ListBlobsFlatOptions) (container.ListBlobsFlatResponse, error) {
	ctx, done := context.WithTimeoutCause(ctx, s.patience.Silence, attempt.ErrSlow)
	defer done()
	p, err := s.read.NewListBlobsFlatPager(opts).NextPage(ctx)
	if err == nil && p.Segment == nil {
		err = errors.New("the store answered with a list that is none")
	}
	return p, err
}

// List implements [store.Store]. Each page is asked for until it has come whole.
func (s *Store) List(ctx context.Context, prefix string, each func(store.Info) error) error {
	return s.list(ctx, prefix, container.ListBlobsInclude{}, func(i *container.BlobItem) error {
		return each(s.info(i))
	})
}

func (s *Store) info(i *container.BlobItem) store.Info {
	info := store.Info{Name: strings.TrimPrefix(value(i.Name), s.prefix)}
	if i.Properties != nil {
		info.Size, info.ModTime = value(i.Properties.ContentLength), value(i.Properties.LastModified)
	}
	return info
}

func (s *Store) list(ctx context.Context, prefix string, include container.ListBlobsInclude, each func(*container.BlobItem) error) error {
	whole := s.prefix + prefix
	opts := &container.ListBlobsFlatOptions{Prefix: &whole, Include: include, MaxResults: s.pageSize}
	for {
		var page container.ListBlobsFlatResponse
		err := s.try(ctx, fmt.Sprintf("list %q", prefix), func(ctx context.Context) (err error) {
			page, err = s.page(ctx, opts)
			return err
		})
		if err != nil {
			return err
		}
		for _, i := range page.Segment.BlobItems {
			if folder(i) {
				continue
			}
			if err := each(i); err != nil {
				return err
			}
		}
		if opts.Marker = page.NextMarker; value(opts.Marker) == "" {
			return nil
		}
	}
}

// folder reports whether an item is a directory, which accounts with a hierarchical namespace list beside blobs.
func folder(i *container.BlobItem) bool {
	kind := ""
	if i.Properties != nil {
		kind = value(i.Properties.ResourceType)
	}
	return kind == "directory" || strings.HasSuffix(value(i.Name), "/")
}

// Names implements [store.Store].
func (s *Store) Names(ctx context.Context, dir string) ([]string, error) {
	prefix := s.prefix
	if dir != "" {
		key, err := s.key(dir)
		if err != nil {
			return nil, err
		}
		prefix = key + "/"
	}
	var names []string
	opts := &container.ListBlobsHierarchyOptions{Prefix: &prefix, MaxResults: s.pageSize}
	for {
		var page container.ListBlobsHierarchyResponse
		err := s.try(ctx, fmt.Sprintf("list %q", dir), func(ctx context.Context) (err error) {
			ctx, done := context.WithTimeoutCause(ctx, s.patience.Silence, attempt.ErrSlow)
			defer done()
			page, err = s.read.NewListBlobsHierarchyPager("/", opts).NextPage(ctx)
			if err == nil && page.Segment == nil {
				err = errors.New("the store answered with a list that is none")
			}
			return err
		})
		if err != nil {
			return nil, err
		}
		for _, p := range page.Segment.BlobPrefixes {
			names = append(names, strings.TrimSuffix(strings.TrimPrefix(value(p.Name), prefix), "/"))
		}
		for _, i := range page.Segment.BlobItems {
			if name := strings.TrimPrefix(value(i.Name), prefix); name != "" && !folder(i) {
				names = append(names, name)
			}
		}
		if opts.Marker = page.NextMarker; value(opts.Marker) == "" {
			return names, nil
		}
	}
}
