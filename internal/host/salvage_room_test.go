package host

import (
	"strings"
	"testing"
)

// A refusal for want of room tells how much is needed, and never less than is free.
func TestTheRoomForACopyIsToldWhole(t *testing.T) {
	err := roomForCopy("records", "b1", 285<<20, 508<<20)
	if err == nil || !strings.Contains(err.Error(), "508 MiB are free on b1, and 825 MiB are needed: 285 for a copy of the data, 28 for what it grows by, and 512 that stay free") {
		t.Errorf("%v", err)
	}
	if err := roomForCopy("records", "b1", 285<<20, 826<<20); err != nil {
		t.Errorf("with room: %v", err)
	}
}
