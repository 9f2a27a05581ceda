package cli

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"holdfast/internal/restore"
	"holdfast/internal/restore/forecast"
	"holdfast/internal/vault"
)

// timed is how long a restore was expected to take, how long it took, and what was lost.
type timed struct {
	Began    time.Time         `json:"began,omitzero"` // by this machine's clock
	Expected forecast.Forecast `json:"expected"`
	Measured *measured         `json:"measured,omitempty"` // missing = nothing was restored
	Loss     wouldLose         `json:"loss"`
}

// measured is what the phases took. They follow each other without a gap: their sum is the whole. One that was not come to, or that
// the server did not tell apart from the one before, is missing.
type measured struct {
	Phases   []measuredPhase `json:"phases"`
	Seconds  float64         `json:"seconds"`
	Replayed int64           `json:"replayed_bytes"`        // as the server told; 0 = it did not, or replayed some of it twice
	Off      *float64        `json:"off_percent,omitempty"` // by how much more (or less, below 0) was expected; missing = the whole was not known
	Missed   bool            `json:"missed"`                // by more than a quarter
}

type measuredPhase struct {
	Name    string  `json:"name"`
	Seconds float64 `json:"seconds"`
}

// wouldLose is what would have been lost, had everything but the vault been lost when the restore began.
type wouldLose struct {
	Newest  time.Time `json:"newest_restorable,omitzero"`
	Seconds *float64  `json:"rpo_seconds,omitempty"` // missing = not known
	How     string    `json:"how"`
	Commit  time.Time `json:"newest_commit,omitzero"` // that came back, by the original's clock
}

// lossAt is what a catalogue, read before the restore began, says of the newest moment that can be restored. Pure.
func lossAt(began time.Time, c restore.Catalogue) wouldLose {
	ch, err := restore.Choose(c, restore.Target{Kind: restore.Latest})
	if err != nil {
		return wouldLose{How: "nothing can be restored to the latest moment"}
	}
	l := wouldLose{Newest: ch.Covered, How: "the log in the vault is whole up to newest_restorable, by the clock of the database's host; the restore began at began, by this machine's"}
	if l.Newest.Before(ch.Backup.Stopped) {
		l.Newest, l.How = ch.Backup.Stopped, "the end of the newest base backup, by the clock of the database's host: until when the log behind it is whole is not known; the restore began at began, by this machine's clock"
	}
	s := began.Sub(l.Newest).Seconds()
	if s < 0 { // began is after the catalogue was read, so one clock could not say so
		l.How = fmt.Sprintf("the clocks disagree: newest_restorable, %s by the clock of the database's host, lies behind the beginning of the restore, %s by this machine's",
			momentText(l.Newest), momentText(began))
		return l
	}
	l.Seconds = &s
	return l
}

// phase is the phase of a name; false when it was not measured.
func (m measured) phase(name string) (measuredPhase, bool) {
	for _, p := range m.Phases {
		if p.Name == name {
			return p, true
		}
	}
	return measuredPhase{}, false
}

// measure notes what was measured. took has the phases by their names, in the order of the forecast.
func (t *timed) measure(took map[string]time.Duration, replayed int64) {
	m := measured{Replayed: replayed}
	sum := time.Duration(0)
	for _, p := range t.Expected.Phases {
		d, come := took[p.Name]
		if !come {
			continue
		}
		sum += d
		m.Phases = append(m.Phases, measuredPhase{p.Name, d.Seconds()})
	}
	m.Seconds = sum.Seconds()
	if t.Expected.Known && sum > 0 {
		off := 100 * (t.Expected.Seconds - m.Seconds) / m.Seconds
		m.Off, m.Missed = &off, forecast.Missed(t.Expected.Total, sum)
	}
	t.Measured = &m
}

// measureRestore notes what a restore took that ended with its server stopped.
func (t *timed) measureRestore(took restore.Times) { t.measure(took.Took(), took.Replayed) }

// failed takes back what only a restore that was answered for can say: how far off the forecast was, and what would have been lost.
func (t *timed) failed() {
	if t.Measured != nil {
		t.Measured.Off, t.Measured.Missed = nil, false
	}
	t.Loss = wouldLose{How: "it was not restored", Commit: t.Loss.Commit}
}

// figures are those of a receipt: each phase expected and measured, and the whole.
func (t timed) figures(f map[string]float64) {
	if t.Measured == nil {
		return
	}
	for _, p := range t.Expected.Phases {
		if p.Known {
			f["expected_"+p.Name+"_seconds"] = p.Seconds
		}
	}
	if t.Expected.Known {
		f["expected_rto_seconds"] = t.Expected.Seconds
	}
	for _, p := range t.Measured.Phases {
		f[p.Name+"_seconds"] = p.Seconds
	}
	f["rto_seconds"] = t.Measured.Seconds
	if t.Loss.Seconds != nil {
		f["rpo_seconds"] = *t.Loss.Seconds
	}
}

// foresight is from what a forecast is made.
type foresight struct {
	options restore.Options // vault, choice, directory
	checks  bool
	runs    []forecast.Run
	limit   restore.SampleLimit // the zero value = nothing is read on trial
}

// expect reads a sample and says what a restore is expected to take. That none could be read is said, and no error.
func (f foresight) expect(ctx context.Context) (forecast.Forecast, error) {
	var s forecast.Sample
	var err error
	if f.limit.Bytes > 0 {
		if s, err = restore.Sample(ctx, f.options, f.limit); err != nil && ctx.Err() != nil {
			return forecast.Forecast{}, err
		}
	}
	out := forecast.Expect(restore.Work(f.options.Choice, f.checks), f.runs, s)
	if err != nil {
		out.Phases[0].Because += fmt.Sprintf("; nothing could be read on trial: %v", err)
	}
	return out, nil
}

// A restore that is begun spends at most the hundredth part of its bytes on a sample, and a small one nothing.
const (
	sampledFrom = 1 << 30 // bytes
	sampledPart = 100
)

// sampleBefore is what is read before a restore that is not a dry run. Pure.
func sampleBefore(c restore.Choice) restore.SampleLimit {
	w := restore.Work(c, false)
	if w.Data+w.Log < sampledFrom {
		return restore.SampleLimit{}
	}
	return restore.SampleLimit{Bytes: min((w.Data+w.Log)/sampledPart, restore.SampleOf(c).Bytes), Time: time.Second}
}

// foresee is the forecast of a restore, with the evidence that lies in the vault and beside the target.
func foresee(ctx context.Context, cmd *cobra.Command, v *vault.Vault, c restore.Catalogue, f foresight, beside string) (forecast.Forecast, []forecast.Run, error) {
	runs, err := evidence(ctx, v, c.Database, c.Backups, beside)
	if ctx.Err() != nil {
		return forecast.Forecast{}, nil, ctx.Err()
	}
	if err != nil {
		_, _ = fmt.Fprintf(cmd.ErrOrStderr(), "what all earlier restores took could not be read, so less is known of this one: %s\n", printable(strings.ReplaceAll(err.Error(), "\n", "; ")))
	}
	f.runs = runs
	line := newProgressLine(cmd.ErrOrStderr())
	defer line.end()
	if f.limit.Bytes > 0 {
		line.show("reading a part on trial", "")
	}
	out, err := f.expect(ctx)
	return out, runs, err
}

// forecastText says how long it is expected to take, and why, one line for each phase.
func forecastText(f forecast.Forecast) string {
	var s strings.Builder
	fmt.Fprintf(&s, "  takes        %s\n", wholeText(f))
	for _, p := range f.Phases {
		fmt.Fprintf(&s, "    %-10s %s: %s\n", p.Name, expectedText(p), p.Because)
	}
	if f.Assumes != "" {
		fmt.Fprintf(&s, "    assumed    %s\n", f.Assumes)
	}
	return s.String()
}

func wholeText(f forecast.Forecast) string {
	switch {
	case f.Known:
		return "about " + roundText(f.Total)
	case f.Total > 0:
		return "not known; longer than " + roundText(f.Total)
	}
	return "not known"
}

func expectedText(p forecast.Phase) string {
	if !p.Known {
		return "not known"
	}
	return roundText(p.Expected)
}

// roundText is an expected duration, no finer than it can be known.
func roundText(d time.Duration) string {
	switch {
	case d < 10*time.Second:
		return d.Round(100 * time.Millisecond).String()
	case d < 10*time.Minute:
		return d.Round(time.Second).String()
	}
	return ageText(d.Round(time.Minute))
}

// timesText sets what was expected beside what was measured.
func timesText(t timed) string {
	var s strings.Builder
	if t.Measured == nil {
		return ""
	}
	row := func(name string, known bool, expected float64, took string) {
		text := "not known"
		if known {
			text = tookText(seconds(expected))
		}
		fmt.Fprintf(&s, "  %-10s expected %-10s measured %s\n", name, text, took)
	}
	for _, e := range t.Expected.Phases {
		took := "nothing: it was not come to, or not told apart"
		if p, ok := t.Measured.phase(e.Name); ok {
			took = tookText(seconds(p.Seconds))
		}
		row(e.Name, e.Known, e.Seconds, took)
	}
	row("whole", t.Expected.Known, t.Expected.Seconds, tookText(seconds(t.Measured.Seconds)))
	if t.Measured.Missed {
		fmt.Fprintf(&s, "  THE FORECAST MISSED: it was %.0f %% off. The next one learns from this.\n", *t.Measured.Off)
	}
	s.WriteString(lossText(t))
	return s.String()
}

func lossText(t timed) string {
	if t.Loss.Seconds == nil {
		return "  lost       not known: " + t.Loss.How + "\n"
	}
	text := fmt.Sprintf("  lost       %s: the newest moment that could be restored was %s, and the restore began at %s\n",
		tookText(seconds(*t.Loss.Seconds)), momentText(t.Loss.Newest), momentText(t.Began))
	if !t.Loss.Commit.IsZero() {
		text += fmt.Sprintf("             the newest commit that came back is of %s\n", momentText(t.Loss.Commit))
	}
	return text
}

// writeForecast tells a person before a restore begins.
func writeForecast(to io.Writer, f forecast.Forecast) {
	_, _ = io.WriteString(to, "it is expected to take:\n"+forecastText(f)) // what cannot be told is no reason not to restore
}
