package repo

import (
	"testing"

	"holdfast/internal/vault/repo/index"
)

// A pack that becomes full takes its room once, and a small one no more than it needs.
func TestAPackTakesItsRoomAtOnce(t *testing.T) {
	const piece = 300 << 10
	p := newPack(packData, "s1", nil, newPackSize)
	sealed := make([]byte, piece)
	taken := 0
	for n := 0; len(p.data) < newPackSize; n++ {
		id, err := index.MakeID("", []byte{byte(n), 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15})
		if err != nil {
			t.Fatal(err)
		}
		before := cap(p.data)
		i, err := p.add(Info{ID: id, Original: piece}, sealed)
		if err != nil {
			t.Fatal(err)
		}
		if int(i.Offset)+piece != len(p.data) {
			t.Fatalf("content %d lies at %d, and the pack is %d bytes long", n, i.Offset, len(p.data))
		}
		if cap(p.data) != before && len(p.data) > packSmall {
			taken++
		}
		if len(p.data) <= packSmall && cap(p.data) > 2*packSmall {
			t.Errorf("a pack of %d bytes takes %d", len(p.data), cap(p.data))
		}
	}
	if taken != 1 || cap(p.data) > newPackSize+2*packOver {
		t.Errorf("a pack of %d bytes took room %d times, and has %d", len(p.data), taken, cap(p.data))
	}
}
