package cli

import (
	"fmt"
	"io"
	"strings"
	"time"

	"holdfast/internal/restore"
	"holdfast/internal/restore/forecast"
)

// progressLine tells how far something is: one line that is redrawn on a terminal, else a line for each new
// phase. What it cannot write is no reason to end the work.
type progressLine struct {
	out   io.Writer
	live  bool
	phase string
	since time.Time // when the phase began
	wide  int       // runes on the terminal's line

	expected forecast.Forecast // of a restore; the zero value = none was made
}

func newProgressLine(out io.Writer) *progressLine {
	return &progressLine{out: out, live: isTerminal(out)}
}

// show says which phase it is and how far; detail may be empty.
func (l *progressLine) show(phase, detail string) {
	fresh := phase != l.phase
	if fresh {
		l.phase, l.since = phase, time.Now()
	}
	switch {
	case l.live:
		text := strings.TrimSpace(phase + " " + detail)
		pad := max(0, l.wide-len([]rune(text)))
		l.wide = len([]rune(text))
		_, _ = fmt.Fprintf(l.out, "\r%s%s", text, strings.Repeat(" ", pad))
	case fresh:
		_, _ = fmt.Fprintln(l.out, phase)
	}
}

// end leaves the terminal's line empty for what comes.
func (l *progressLine) end() {
	if l.live && l.wide > 0 {
		_, _ = fmt.Fprintf(l.out, "\r%s\r", strings.Repeat(" ", l.wide))
		l.wide = 0
	}
}

// restored shows a restore's progress, with the rate of its phase.
func (l *progressLine) restored(p restore.Progress) {
	phase := map[string]string{"files": "restoring files", "log": "fetching the log"}[p.Phase]
	if phase == "" {
		phase = p.Phase
	}
	if p.Phase == "log" && p.Done >= p.Total || p.Phase == forecast.Replay { // the last word before the server replays it
		l.show("replaying the log"+l.then(", expected to take ", forecast.Start, forecast.Replay), "")
		return
	}
	if p.Phase == forecast.Checks {
		l.show("asking the restored server", "")
		return
	}
	if phase != l.phase {
		l.show(phase, "")
	}
	l.show(phase, progressText(p.Done, p.Total, time.Since(l.since))+l.then(", then about ", forecast.Start, forecast.Replay, forecast.Checks))
}

// then is what phases to come are expected to take together; "" when that is not known.
func (l *progressLine) then(words string, phases ...string) string {
	sum := time.Duration(0)
	for _, name := range phases {
		p := l.expected.Phase(name)
		if p.Name != "" && !p.Known {
			return ""
		}
		sum += p.Expected
	}
	if sum <= 0 {
		return ""
	}
	return words + roundText(sum)
}

// progressText is "45 % of 1.2 GiB, 210 MiB/s, 3s left".
func progressText(done, total int64, took time.Duration) string {
	if total <= 0 {
		return sizeText(done)
	}
	text := fmt.Sprintf("%d %% of %s", 100*min(done, total)/total, sizeText(total))
	if s := took.Seconds(); s >= 1 && done > 0 {
		rate := float64(done) / s
		text += fmt.Sprintf(", %s/s", sizeText(int64(rate)))
		if left := time.Duration(float64(total-done) / rate * float64(time.Second)); left >= time.Second {
			text += fmt.Sprintf(", %s left", left.Round(time.Second))
		}
	}
	return text
}

// farText is "512.0 MiB of 1.2 GiB (41 %), 210.0 MiB/s, 3s left", as far as it is known; "" = nothing of it is.
func farText(done, total, rate int64, left time.Duration) string {
	if total <= 0 {
		return ""
	}
	text := fmt.Sprintf("%s of %s (%d %%)", sizeText(done), sizeText(total), 100*min(done, total)/total)
	if rate > 0 {
		text += fmt.Sprintf(", %s/s", sizeText(rate))
	}
	if left >= time.Second {
		text += fmt.Sprintf(", %s left", left.Round(time.Second))
	}
	return text
}

// sizeText is a number of bytes for a person.
func sizeText(n int64) string {
	units := []string{"B", "KiB", "MiB", "GiB", "TiB", "PiB"}
	v, i := float64(n), 0
	for v >= 1024 && i < len(units)-1 {
		v, i = v/1024, i+1
	}
	if i == 0 {
		return fmt.Sprintf("%d B", n)
	}
	return fmt.Sprintf("%.1f %s", v, units[i])
}

// momentText is a time as --at takes it, in the zone of the one who reads it.
func momentText(t time.Time) string {
	if t.IsZero() {
		return "unknown"
	}
	return t.Local().Format("2006-01-02 15:04:05Z07:00")
}

// firstText is the first whole second within a window, so that it may be asked for as it is told; [momentText] of its end is
// within it too. A window without a whole second begins as it does.
func firstText(from, to time.Time) string {
	whole := from.Add(time.Second - 1).Truncate(time.Second)
	if from.IsZero() || whole.After(to) {
		return from.Local().Format(momentLayout)
	}
	return momentText(whole)
}

// ageText is a duration for a person, in at most two units.
func ageText(d time.Duration) string {
	switch d = max(d, 0); {
	case d < time.Minute:
		return d.Round(time.Second).String()
	case d < time.Hour:
		return fmt.Sprintf("%dm", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh %dm", int(d.Hours()), int(d.Minutes())%60)
	}
	return fmt.Sprintf("%dd %dh", int(d.Hours())/24, int(d.Hours())%24)
}

// tookText is a measured duration, in tenths of a second.
func tookText(d time.Duration) string { return d.Round(100 * time.Millisecond).String() }
