package tiers

import (
	"slices"
	"testing"

	"pgregory.net/rapid"
)

func TestWhichPiecesAreJoined(t *testing.T) {
	for _, c := range []struct {
		name   string
		growth int64
		sizes  []int64
		want   []int
	}{
		{"none of none", 2, nil, []int{}},
		{"not one by itself", 2, []int64{7}, []int{}},
		{"those that are alike", 2, []int64{3, 3, 3}, []int{0, 1, 2}},
		{"not a large one for the sake of small ones", 2, []int64{9, 1, 1, 1}, []int{1, 2, 3}},
		{"a large one when the small ones have grown to its size", 2, []int64{9, 3, 3, 3}, []int{1, 2, 3, 0}},
		{"one that is larger than the next, when all others are as large together", 2, []int64{1, 2, 4, 4}, []int{0, 1, 2, 3}},
		{"a large one that would not grow so much", 4, []int64{9, 3, 3, 3}, []int{}},
		{"a large one that grows so much", 4, []int64{9, 9, 9, 9}, []int{0, 1, 2, 3}},
		{"none of which each is larger than all before it", 2, []int64{16, 4, 1, 8, 2}, []int{}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := Joined(c.sizes, c.growth); !slices.Equal(got, c.want) {
				t.Errorf("joined %v of %v, want %v", got, c.sizes, c.want)
			}
		})
	}
}

// However pieces come, they stay few, and each byte is written again only when its piece grows so many times.
func TestPiecesStayFewAndAreRarelyWrittenAgain(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		growth := int64(rapid.IntRange(2, 5).Draw(t, "growth"))
		most := map[int64]int{2: 24, 3: 40, 4: 56, 5: 72}[growth] // 2 and the logarithm of all bytes to the base growth/(growth-1)
		var all []int64
		for range rapid.IntRange(1, 3000).Draw(t, "pieces") {
			all = append(all, int64(1)<<rapid.IntRange(0, 10).Draw(t, "size"))
			if len(all) <= most {
				continue
			}
			chosen, one := Joined(all, growth), int64(0)
			for _, i := range chosen {
				one += all[i]
			}
			left := []int64{one}
			for i, size := range all {
				switch {
				case !slices.Contains(chosen, i):
					left = append(left, size)
				case growth*size > one:
					t.Fatalf("a piece of %d is written again for one of %d", size, one)
				}
			}
			if all = left; len(all) > most {
				t.Fatalf("%d pieces are left", len(all))
			}
		}
	})
}
