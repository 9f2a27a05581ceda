package plan

import (
	"fmt"
	"math"
	"regexp"
	"strconv"
	"strings"
)

// sizePattern is a number of bytes as PostgreSQL writes it; 1 MB is 1024 times 1024 bytes.
const sizePattern = `[1-9][0-9]*(MB|GB|TB)`

var sizeWhole = regexp.MustCompile(`^([1-9][0-9]*)(MB|GB|TB)$`)

// size is a number of bytes.
func size() form[int64] {
	return text(jsonSchema{"pattern": "^" + sizePattern + "$"}, "a size such as 500MB or 20GB", parseSize)
}

// rate is a number of bytes a second.
func rate() form[int64] {
	return text(jsonSchema{"pattern": "^" + sizePattern + "/s$"}, "a rate such as 50MB/s", ParseRate)
}

// ParseRate reads a rate as plans and commands write it, such as 50MB/s, in bytes a second.
func ParseRate(s string) (int64, error) {
	number, ok := strings.CutSuffix(s, "/s")
	n, err := parseSize(number)
	if !ok || err != nil {
		return 0, fmt.Errorf("%q is not a rate (a number with MB/s or GB/s, such as 50MB/s)", s)
	}
	return n, nil
}

func parseSize(s string) (int64, error) {
	m := sizeWhole.FindStringSubmatch(s)
	if m == nil {
		return 0, fmt.Errorf("%q is not a size (a number with MB, GB or TB, such as 500MB or 20GB)", s)
	}
	unit := map[string]int64{"MB": 1 << 20, "GB": 1 << 30, "TB": 1 << 40}[m[2]]
	n, err := strconv.ParseInt(m[1], 10, 64)
	if err != nil || n > math.MaxInt64/unit {
		return 0, fmt.Errorf("%q is more than can be counted", s)
	}
	return n * unit, nil
}

// formatSize is the shortest text that parseSize reads as n.
func formatSize(n int64) string {
	for _, u := range []struct {
		name string
		size int64
	}{{"TB", 1 << 40}, {"GB", 1 << 30}} {
		if n >= u.size && n%u.size == 0 {
			return fmt.Sprintf("%d%s", n/u.size, u.name)
		}
	}
	return fmt.Sprintf("%dMB", n>>20)
}
