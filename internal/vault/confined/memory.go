package confined

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"holdfast/internal/problem"
)

// looks is how often a child's memory is looked at.
const looks = 50 * time.Millisecond

// watchMemory gives the most that a process had resident until ctx ended, and ends the work when it is beyond the cap.
func watchMemory(ctx context.Context, name string, pid int, memory int64, end context.CancelCauseFunc) (peak int64) {
	t := time.NewTicker(looks)
	defer t.Stop()
	for {
		peak = max(peak, residentPeak(strconv.Itoa(pid)))
		if peak > memory {
			end(tooLarge(name, peak, memory))
			return peak
		}
		select {
		case <-t.C:
		case <-ctx.Done():
			return peak
		}
	}
}

// residentPeak is what the kernel counted for a process, in bytes (VmHWM in proc(5)); 0 when it is not told.
func residentPeak(pid string) int64 {
	raw, err := os.ReadFile("/proc/" + pid + "/status")
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(raw)) {
		if rest, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			kb, err := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(rest), "kB")), 10, 64)
			if err == nil {
				return kb << 10
			}
		}
	}
	return 0
}

// last makes this process the first that the kernel ends when memory runs out. Where it may not say so, it stays as it is.
func last() { _ = os.WriteFile("/proc/self/oom_score_adj", []byte("1000"), 0) }

func tooLarge(name string, peak, memory int64) *problem.Problem {
	return &problem.Problem{Code: "vault.reclaim-too-large", Subject: name, Severity: problem.Degraded,
		Title:   fmt.Sprintf("freeing space took %d MiB of memory, and it may take %d", peak>>20, memory>>20),
		Meaning: "It was ended. Nothing is lost; the vault grows until it is done. Backups and the log go on.",
		Remedy:  "do it on a machine with more memory: holdfast vault status tells how much the vault holds"}
}
