package backup

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
)

func TestASecondPlaceOnTheDiskOfTheFirstIsRefused(t *testing.T) {
	first := t.TempDir()
	err := newSpill(filepath.Join(t.TempDir(), "second"), first, nil).take()
	if same, ok := errors.AsType[*SameDiskError](err); !ok || same.First != first {
		t.Errorf("on the same disk: %v", err)
	}
	gone := filepath.Join(first, "not mounted")
	if err := newSpill(filepath.Join(gone, "second"), first, nil).take(); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("around it is nothing: %v", err)
	}
	if _, err := os.Stat(gone); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a directory was made where a disk is to be mounted: %v", err)
	}
}
