package main

import (
	"fmt"
	"io"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"holdfast/examples/clinic/client"
)

// row is one measured step.
type row struct {
	title    string
	edge     client.Figures // writes and reads together, see [onePath]
	listener client.Figures
	lost     int           // acknowledged rows that are gone
	whole    time.Duration // from the fault until all was redundant again; 0 = nothing was to be regained
	took     time.Duration
	broken   bool // a promise
}

// onePath joins what clients saw on two paths: the longer gap, all failures.
func onePath(a, b client.Figures) client.Figures {
	if b.LongestGap > a.LongestGap {
		a.LongestGap, a.GapFrom = b.LongestGap, b.GapFrom
	}
	a.Acknowledged += b.Acknowledged
	a.Failed += b.Failed
	a.Slow += b.Slow
	return a
}

// figures are the row's cells after its title.
func (r row) figures() []string {
	whole := "-"
	if r.whole > 0 {
		whole = seconds(r.whole)
	}
	return []string{
		seconds(r.edge.LongestGap), fmt.Sprint(r.edge.Failed),
		seconds(r.listener.LongestGap), fmt.Sprint(r.listener.Failed),
		fmt.Sprint(r.lost), whole, seconds(r.took),
	}
}

// seconds prints a duration to a hundredth, the same unit everywhere so that columns can be compared.
func seconds(d time.Duration) string { return fmt.Sprintf("%.2f s", d.Seconds()) }

// heads of the table, in two lines.
var heads = [2][]string{
	{"", "edge", "edge", "listener", "listener", "acked", "whole", "the step"},
	{"STEP", "gap", "failed", "gap", "failed", "rows lost", "again", "took"},
}

// writeTable prints the rows aligned: the titles to the left, the figures to the right.
func writeTable(w io.Writer, rows []row) error {
	grid := [][]string{heads[0], heads[1], nil}
	for _, r := range rows {
		grid = append(grid, append([]string{r.title}, r.figures()...))
	}
	width := make([]int, len(heads[0]))
	for _, line := range grid {
		for i, cell := range line {
			width[i] = max(width[i], utf8.RuneCountInString(cell))
		}
	}
	total := 2 * (len(width) - 1)
	for _, n := range width {
		total += n
	}
	for i, line := range grid {
		var b strings.Builder
		switch {
		case line == nil:
			b.WriteString(strings.Repeat("-", total))
		default:
			for k, cell := range line {
				pad := strings.Repeat(" ", width[k]-utf8.RuneCountInString(cell))
				if k == 0 {
					b.WriteString(cell + pad)
				} else {
					b.WriteString("  " + pad + cell)
				}
			}
		}
		if i >= 3 && rows[i-3].broken {
			b.WriteString("  BROKEN")
		}
		if _, err := fmt.Fprintln(w, strings.TrimRight(b.String(), " ")); err != nil {
			return err
		}
	}
	return nil
}

// size prints bytes for people.
func size(bytes int64) string {
	switch {
	case bytes >= 1<<30:
		return fmt.Sprintf("%.2f GiB", float64(bytes)/(1<<30))
	case bytes >= 1<<20:
		return fmt.Sprintf("%.0f MiB", float64(bytes)/(1<<20))
	}
	return fmt.Sprintf("%.0f KiB", float64(bytes)/(1<<10))
}

// speaker tells the story, one line at a time. A reader that has gone is no reason to leave processes behind, so
// writing never fails.
type speaker struct {
	mu sync.Mutex
	to io.Writer
}

func (s *speaker) line(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, _ = fmt.Fprintf(s.to, format+"\n", args...)
}

// head begins a step.
func (s *speaker) head(format string, args ...any) { s.line("\n"+format, args...) }

// tell is a sentence of the step that runs.
func (s *speaker) tell(format string, args ...any) { s.line("  "+format, args...) }

// command shows what a person would type.
func (s *speaker) command(text string) { s.line("  $ %s", text) }

// quoteWidth bounds a line of what a command printed, in characters.
const quoteWidth = 112

func clip(text string, width int) string {
	if utf8.RuneCountInString(text) <= width {
		return text
	}
	return string([]rune(text)[:width-1]) + "…"
}

// quote repeats what a command printed.
func (s *speaker) quote(text string) {
	for l := range strings.Lines(strings.TrimRight(text, "\n")) {
		s.line("    %s", clip(strings.TrimRight(l, "\n"), quoteWidth))
	}
}
