package azstore

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/blob"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/bloberror"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/blockblob"

	"holdfast/internal/vault/attempt"
	"holdfast/internal/vault/store"
)

// Put implements [store.Store]. "Only if there is none" is part of the request.
func (s *Store) Put(ctx context.Context, name string, data store.Data) error {
	key, err := s.key(name)
	if err != nil {
		return err
	}
	u, err := attempt.Digest(data)
	if err != nil {
		return err
	}
	return s.try(ctx, "store "+name, func(ctx context.Context) error {
		err := s.send(ctx, key, u, true)
		switch {
		case refused(err): // an attempt of ours whose answer was lost, or another's
			return u.Compare(ctx, s, name)
		case says(err, bloberror.AuthorizationPermissionMismatch): // a right to create is none where a blob is
			if _, headErr := s.head(ctx, key); headErr == nil {
				return u.Compare(ctx, s, name)
			}
			return err
		case err != nil:
			return err
		}
		return s.confirm(ctx, key, u)
	})
}

// Replace implements [store.Store].
func (s *Store) Replace(ctx context.Context, name string, data store.Data) error {
	key, err := s.key(name)
	if err != nil {
		return err
	}
	u, err := attempt.Digest(data)
	if err != nil {
		return err
	}
	return s.try(ctx, "replace "+name, func(ctx context.Context) error {
		if err := s.send(ctx, key, u, false); err != nil {
			return err
		}
		return s.confirm(ctx, key, u)
	})
}

// send puts once. The service checks the content by its sum before it answers, and keeps the sum.
func (s *Store) send(ctx context.Context, key string, u attempt.Upload, onlyNew bool) error {
	ctx, done := context.WithTimeoutCause(ctx, s.patience.Allow(u.Size()), attempt.ErrSlow)
	defer done()
	opts := &blockblob.UploadOptions{
		TransactionalValidation: md5Of(u),
		HTTPHeaders:             &blob.HTTPHeaders{BlobContentMD5: u.MD5},
	}
	if onlyNew {
		any := azcore.ETagAny
		opts.AccessConditions = &blob.AccessConditions{ModifiedAccessConditions: &blob.ModifiedAccessConditions{IfNoneMatch: &any}}
	}
	in := u.Body()
	_, err := s.write.NewBlockBlobClient(key).Upload(ctx, in, opts)
	err = errors.Join(err, in.Close())
	if err != nil && ctx.Err() != nil {
		err = errors.Join(context.Cause(ctx), err)
	}
	return err
}

// confirm sees that everybody can find what was stored.
func (s *Store) confirm(ctx context.Context, key string, u attempt.Upload) error {
	p, err := s.head(ctx, key)
	switch {
	case missing(err):
		return attempt.ErrUnread
	case err != nil:
		return err
	case p.ContentLength == nil || *p.ContentLength != u.Size():
		return attempt.Final{Err: fmt.Errorf("%d bytes were stored, and %d are there", u.Size(), value(p.ContentLength))}
	case !bytes.Equal(p.ContentMD5, u.MD5):
		return attempt.Final{Err: errors.New("what is there has another sum than what was stored")}
	}
	return nil
}

// refused reports whether a blob was there already. A signature that may create and not write says so in its own way.
func refused(err error) bool {
	return says(err, bloberror.BlobAlreadyExists, bloberror.ConditionNotMet, bloberror.TargetConditionNotMet, bloberror.UnauthorizedBlobOverwrite)
}

// Delete implements [store.Store]. What a policy of the container keeps is refused as store.ErrLocked. Where the account
// has soft delete, the service keeps what is deleted for as long as the account says.
func (s *Store) Delete(ctx context.Context, name string) error {
	key, err := s.key(name)
	if err != nil {
		return err
	}
	return s.try(ctx, "delete "+name, func(ctx context.Context) error {
		ctx, done := context.WithTimeoutCause(ctx, s.patience.Silence, attempt.ErrSlow)
		defer done()
		_, err := s.remove.NewBlobClient(key).Delete(ctx, nil)
		if missing(err) {
			return nil
		}
		return err
	})
}

func value[T any](p *T) (v T) {
	if p != nil {
		v = *p
	}
	return v
}
