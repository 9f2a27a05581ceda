package repo

import (
	"bytes"
	"compress/gzip"
	"context"
	"io"
	"testing"

	"holdfast/internal/vault/repo/kepttest"
	"holdfast/internal/vault/repo/repotest"
)

func gunzip(t *testing.T, raw []byte) string {
	t.Helper()
	z, err := gzip.NewReader(bytes.NewReader(raw))
	if err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// What kopia stored of manifests is the same text when it is written again.
func TestKeptManifestsAreWrittenAgainToTheByte(t *testing.T) {
	ctx := t.Context()
	r, err := Open(ctx, repotest.Kept(t), kepttest.Password, Options{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := r.Close(context.WithoutCancel(ctx)); err != nil {
			t.Error(err)
		}
	}()
	n := 0
	err = r.EachContentOf(ctx, manifestPrefix, true, func(i Info) error {
		raw, err := r.Content(ctx, i.ID)
		if err != nil {
			return err
		}
		list, err := decodeManifests(raw)
		if err != nil {
			return err
		}
		if len(list) > 1 { // kopia writes several in no order
			return nil
		}
		all := records{}
		all.add(list...)
		again, err := all.encode()
		if err != nil {
			return err
		}
		if was, is := gunzip(t, raw), gunzip(t, again); was != is {
			t.Errorf("%s\nis written again as\n%s", was, is)
		}
		n++
		return nil
	})
	if err != nil || n < 5 {
		t.Errorf("%d contents hold one manifest: %v", n, err)
	}
}
