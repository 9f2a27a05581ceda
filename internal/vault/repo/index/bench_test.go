package index_test

import (
	"crypto/sha256"
	"encoding/binary"
	"testing"

	"holdfast/internal/vault/repo/index"
)

// hundred gives 100 indexes of 10,000 entries each, half of them in two indexes.
func hundred(b *testing.B) (m index.Merged, ids []index.ID) {
	for n := range 100 {
		builder := index.Builder{}
		for i := range 10_000 {
			hash := sha256.Sum256(binary.BigEndian.AppendUint32(nil, uint32(n*7500+i)))
			id, err := index.MakeID("", hash[:])
			if err != nil {
				b.Fatal(err)
			}
			builder.Add(index.Info{ID: id, Pack: "p0123456789abcdef0123456789abcdef", Time: int64(n), Packed: 1000, Original: 2000, Version: 2})
			if i == 5000 {
				ids = append(ids, id)
			}
		}
		data, err := builder.Encode(nil)
		if err != nil {
			b.Fatal(err)
		}
		x, err := index.Open(data)
		if err != nil {
			b.Fatal(err)
		}
		m = append(m, x)
	}
	return m, ids
}

func BenchmarkFindInOneHundredIndexes(b *testing.B) {
	m, ids := hundred(b)
	for n := 0; b.Loop(); n++ {
		if _, ok := m.Find(ids[n%len(ids)]); !ok {
			b.Fatal("not found")
		}
	}
}

func BenchmarkCompactAMillionEntries(b *testing.B) {
	m, _ := hundred(b)
	b.ReportAllocs()
	for b.Loop() {
		if err := m.Compact(16_000_000, func([]byte, int) error { return nil }); err != nil {
			b.Fatal(err)
		}
	}
}
