package backup

import (
	"time"

	"holdfast/internal/restore"
	"holdfast/internal/restore/forecast"
	"holdfast/internal/vault"
)

// The figures by which a validation tells how long a restore would take.
const (
	figureLog      = "log_bytes"
	figureLimit    = "limit_bytes_per_second" // it was held to that: its time says nothing
	figureReplay   = "replay_seconds"
	figureReplayed = "replayed_bytes"
)

func restoreFigures(r restore.Result, limit int64) map[string]float64 {
	f := map[string]float64{figureLog: float64(r.Log)}
	if limit > 0 {
		f[figureLimit] = float64(limit)
	}
	return f
}

func recoveryFigures(t restore.Times) map[string]float64 {
	if t.Replayed <= 0 {
		return nil
	}
	return map[string]float64{figureReplay: t.Replay.Seconds(), figureReplayed: float64(t.Replayed)}
}

// TrialRuns are the validations of backups as a forecast takes them. They say when a fetch was held to a rate only since they
// carry figures; one of before tells of the start alone. Pure.
func TrialRuns(backups []vault.Backup) []forecast.Run {
	var out []forecast.Run
	for _, b := range backups {
		if b.Validated() {
			out = append(out, trialRun(b))
		}
	}
	return out
}

func trialRun(b vault.Backup) forecast.Run {
	r := forecast.Run{Name: "the trial of " + b.ID, At: b.Validation.At, Machine: b.Host, Polite: true, Took: map[string]time.Duration{}}
	checks, asked := time.Duration(0), false
	for _, c := range b.Validation.Checks {
		switch c.Name {
		case "restore":
			log, told := c.Figures[figureLog]
			r.Work.Data, r.Work.Log = b.Bytes, int64(log)
			if _, held := c.Figures[figureLimit]; told && !held {
				r.Took[forecast.Fetch] = c.Took
			}
		case "recovery":
			r.Work.Replay = int64(c.Figures[figureReplayed])
			replay := time.Duration(c.Figures[figureReplay] * float64(time.Second))
			r.Took[forecast.Start] = max(c.Took-replay, 0)
			if r.Work.Replay > 0 {
				r.Took[forecast.Replay] = replay
			}
		case "databases", "probes":
			checks, asked = checks+c.Took, true
		}
	}
	if asked {
		r.Took[forecast.Checks] = checks
	}
	return r
}
