package pgdata

import (
	"encoding/binary"
	"math/rand/v2"
	"testing"
)

func TestWhatACopyLeavesOut(t *testing.T) {
	for p, want := range map[string]bool{
		"postmaster.pid": true, "global/pg_control": true, "base/5/pg_internal.init.812": true, "holdfast.incarnation": true,
		"base/5/16384": false, "PG_VERSION": false, "global/pg_filenode.map": false,
	} {
		if got := LeftOut(p); got != want {
			t.Errorf("%s: left out %t", p, got)
		}
	}
	for dir, want := range map[string]bool{"pg_wal": true, "base/pgsql_tmp": true, "pg_xact": false, "base/5": false} {
		if got := Emptied(dir); got != want {
			t.Errorf("%s: emptied %t", dir, got)
		}
	}
}

func TestRelationFilesAreKnownByTheirNames(t *testing.T) {
	for p, want := range map[string]Relation{
		"base/5/16384":      {Number: "16384"},
		"base/5/16384_vm.2": {Number: "16384", Fork: "_vm", Segment: 2},
		"base/5/16384.11":   {Number: "16384", Segment: 11},
		"global/1262_fsm":   {Number: "1262", Fork: "_fsm"},
		"base/5/t3_16384":   {Number: "16384", Temporary: true},
		"base/5/PG_VERSION": {},
		"pg_tblspc/16400/PG_15_202209061/5/16384.1": {Number: "16384", Segment: 1},
		"pg_tblspc/16400/PG_15_202209061/16384":     {},
		"pg_xact/0000":                              {},
		"base/16384":                                {},
		"base/5/16384.tmp":                          {},
		"base/5/sub/16384":                          {},
		"base/5/16384.999999999999":                 {},
	} {
		got, ok := ParseRelation(p)
		if got != want || ok != (want.Number != "") {
			t.Errorf("%s: %+v, %t", p, got, ok)
		}
	}
	unlogged := Unlogged([]string{"base/5/1", "base/5/1_init", "base/5/2", "base/6/1"})
	for p, want := range map[string]bool{"base/5/1": true, "base/5/1.1": true, "base/5/1_vm": true, "base/5/1_init": false, "base/5/2": false, "base/6/1": false} {
		if got := DropUnlogged(p, unlogged); got != want {
			t.Errorf("%s: dropped %t", p, got)
		}
	}
}

// slowChecksum is PostgreSQL's page checksum in its plainest form, as an oracle.
func slowChecksum(page []byte, block uint32) uint16 {
	p := append([]byte{}, page...)
	p[8], p[9] = 0, 0
	lanes := checksumSeeds()
	for i := 0; i < len(p)/4; i++ {
		lanes[i%32] = fold(lanes[i%32], binary.LittleEndian.Uint32(p[4*i:]))
	}
	var sum uint32
	for i := range lanes {
		sum ^= fold(fold(lanes[i], 0), 0)
	}
	return uint16((sum^block)%65535) + 1
}

func TestPageChecksumAgreesWithItsPlainForm(t *testing.T) {
	r := rand.NewChaCha8([32]byte{3})
	page := make([]byte, PageSize)
	for block := range uint32(200) {
		_, _ = r.Read(page) // never fails
		want := slowChecksum(page, block)
		if got := Checksum(page, block); got != want {
			t.Fatalf("block %d: %d, want %d", block, got, want)
		}
		binary.LittleEndian.PutUint16(page[8:], want)
		if binary.LittleEndian.Uint16(page[14:]) != 0 && !Good(page, block) {
			t.Fatal("a page with its own checksum is bad")
		}
		page[5000] ^= 1
		if binary.LittleEndian.Uint16(page[14:]) != 0 && Good(page, block) {
			t.Fatal("a flipped bit is good")
		}
	}
	if !Good(make([]byte, PageSize), 7) {
		t.Error("an empty page is bad")
	}
}
