package filestore_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"holdfast/internal/vault/filestore"
)

func open(t *testing.T) *filestore.Store {
	t.Helper()
	s, err := filestore.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestABlobIsNeverReplacedByOtherBytes(t *testing.T) {
	s, ctx := open(t), t.Context()
	put := func(b string) error { return s.Put(ctx, "wal/7/1/x", bytes.NewBufferString(b)) }
	if err := put("first"); err != nil {
		t.Fatal(err)
	}
	if err := put("first"); err != nil {
		t.Errorf("the same bytes again: %v", err)
	}
	if err := put("other"); !errors.Is(err, filestore.ErrDiffers) {
		t.Errorf("other bytes: got %v, want ErrDiffers", err)
	}
	var got bytes.Buffer
	if err := s.Get(ctx, "wal/7/1/x", 0, -1, &got); err != nil || got.String() != "first" {
		t.Errorf("holds %q, %v", got.String(), err)
	}
	if err := s.Replace(ctx, "wal/7/1/x", bytes.NewBufferString("meant")); err != nil {
		t.Fatal(err)
	}
	l, err := s.List(ctx, "wal")
	if err != nil || len(l) != 1 || l[0].Size != 5 {
		t.Errorf("listed %v, %v", l, err)
	}
}

func TestOneOfManyWritersWinsAndTheOthersAreTold(t *testing.T) {
	s := open(t)
	errs := make([]error, 8)
	var wg sync.WaitGroup
	for i := range errs {
		wg.Go(func() { errs[i] = s.Put(t.Context(), "a/b", bytes.NewBuffer([]byte{byte(i)})) })
	}
	wg.Wait()
	won := 0
	for _, err := range errs {
		if err == nil {
			won++
		} else if !errors.Is(err, filestore.ErrDiffers) {
			t.Error(err)
		}
	}
	if won != 1 {
		t.Errorf("%d writers were told that their bytes are stored", won)
	}
}

func TestAnUnfinishedFileIsNoBlob(t *testing.T) {
	s := open(t)
	if err := os.WriteFile(filepath.Join(s.Root(), "x.holdfast-tmp-00"), []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	if l, err := s.List(t.Context(), ""); err != nil || len(l) != 0 {
		t.Errorf("listed %v, %v", l, err)
	}
}

func TestNamesCannotLeaveTheRoot(t *testing.T) {
	s := open(t)
	for _, n := range []string{"../x", "/etc/x", "", ".", "a/../../x"} {
		if err := s.Put(t.Context(), n, bytes.NewBufferString("x")); err == nil {
			t.Errorf("%q was accepted", n)
		}
	}
}
