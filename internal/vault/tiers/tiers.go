// Package tiers says which of many pieces are joined into one, so that pieces stay few, and what each of them says is written again
// only as often as the whole has multiplied.
package tiers

import (
	"cmp"
	"slices"
)

// Joined gives which of the pieces are joined into one, by their place in sizes (in bytes, never below 0), the smallest first. growth
// is by how many times a piece grows at least when it is among them: 2 or more. Joined is empty where each piece is so much larger
// than those that are smaller that none may be written again for their sake.
//
// So a byte of a whole of n bytes is written again at most log(n)/log(growth) times. Each of the pieces that are left out is larger
// than all that are smaller together, divided by growth-1: with 2 they at least double from each to the next.
func Joined(sizes []int64, growth int64) []int {
	order := make([]int, len(sizes))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(sizes[a], sizes[b]) })
	n, smaller := 0, int64(0)
	for i, at := range order {
		if i > 0 && sizes[at] <= smaller/(growth-1) {
			n = i + 1
		}
		smaller += sizes[at]
	}
	return order[:n]
}
