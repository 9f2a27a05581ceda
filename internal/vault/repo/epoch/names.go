package epoch

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// What the names of index blobs begin with.
const (
	openings    = "xe"
	uncompacted = "xn"
	singles     = "xs"
	checkpoints = "xr"
	watermarks  = "xw"
)

func uncompactedPrefix(epoch int) string { return fmt.Sprintf("%s%d_", uncompacted, epoch) }
func singlePrefix(epoch int) string      { return fmt.Sprintf("%s%d_", singles, epoch) }
func checkpointPrefix(first, last int) string {
	return fmt.Sprintf("%s%d_%d_", checkpoints, first, last)
}
func openingName(epoch int) string     { return fmt.Sprintf("%s%d", openings, epoch) }
func watermarkName(t time.Time) string { return fmt.Sprintf("%s%d", watermarks, t.Unix()) }
func watermarkOf(name string) (time.Time, bool) {
	seconds, err := strconv.ParseInt(strings.TrimPrefix(name, watermarks), 10, 64)
	return time.Unix(seconds, 0), err == nil
}

// digitsMax bounds the number of an epoch, so that no sum of two overflows. An epoch lasts a day.
const digitsMax = 9

func number(s string) (int, bool) {
	if len(s) > digitsMax || s == "" || s[0] < '0' || s[0] > '9' {
		return 0, false
	}
	n, err := strconv.Atoi(s)
	return n, err == nil
}

// epochOf reads <prefix><epoch>, or <prefix><epoch>_<anything>.
func epochOf(name, prefix string) (int, bool) {
	rest, ok := strings.CutPrefix(name, prefix)
	if !ok {
		return 0, false
	}
	digits, _, _ := strings.Cut(rest, "_")
	return number(digits)
}

// rangeOf reads xr<first>_<last>_<anything>.
func rangeOf(name string) (first, last int, ok bool) {
	parts := strings.SplitN(strings.TrimPrefix(name, checkpoints), "_", 3)
	if len(parts) < 3 {
		return 0, 0, false
	}
	first, firstOK := number(parts[0])
	last, lastOK := number(parts[1])
	return first, last, firstOK && lastOK && first <= last
}

// byEpoch sorts blobs into epochs; what has no epoch in its name is left out.
func byEpoch(blobs []Blob, prefix string) map[int][]Blob {
	out := map[int][]Blob{}
	for _, b := range blobs {
		if n, ok := epochOf(b.Name, prefix); ok {
			out[n] = append(out[n], b)
		}
	}
	return out
}

// completeSet is one set of blobs named …-s<set>-c<count> of which none is missing; nil = there is none. A set that a killed
// compaction left is passed over. Whichever of several it is, they say the same; it is always the one whose name is least.
func completeSet(blobs []Blob) []Blob {
	sets := map[string][]Blob{}
	for _, b := range blobs {
		if parts := strings.Split(b.Name, "-"); len(parts) >= 3 && strings.HasPrefix(parts[1], "s") && strings.HasPrefix(parts[2], "c") {
			key := parts[1] + "-" + parts[2]
			sets[key] = append(sets[key], b)
		}
	}
	least := ""
	for key, set := range sets {
		_, count, _ := strings.Cut(key, "-c")
		if n, ok := number(count); ok && n == len(set) && (least == "" || key < least) {
			least = key
		}
	}
	return sets[least]
}

func sortByName(blobs []Blob) {
	slices.SortFunc(blobs, func(a, b Blob) int { return cmp.Compare(a.Name, b.Name) })
}

func namesOf(blobs []Blob) []string {
	var names []string
	for _, b := range blobs {
		names = append(names, b.Name)
	}
	return names
}
