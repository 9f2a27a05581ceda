package backup

import (
	"context"
	"errors"
	"fmt"
	"math/big"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"holdfast/internal/plan"
)

// probed is the restored server that probes are put to.
type probed interface {
	ConnString(database string) string
	faulty
}

// runProbes asks the plan's questions of the restored databases. usual is the database that is asked when a probe names
// none. It says what each answered. A session that this host ended is an error, for it says nothing about the backup.
func runProbes(ctx context.Context, probes []plan.Probe, usual string, server probed, stopped time.Time) (bad []string, detail string, err error) {
	var said []string
	for i, p := range probes {
		if p.Database == "" {
			p.Database = usual
		}
		name := fmt.Sprintf("probe %d in %s (%s)", i+1, p.Database, oneLine(p.SQL))
		answer, err := ask(ctx, p, server.ConnString(p.Database))
		if err != nil {
			if host := hostFault(ctx, server, err); host != nil {
				return bad, "", fmt.Errorf("%s: %w", name, host)
			}
			says, ok := errors.AsType[*pgconn.PgError](err)
			if class := ""; ok {
				class = says.Code[:min(2, len(says.Code))]
				if class == "53" || class == "57" && says.Code != "57014" { // this host's lack, or a stop
					return bad, "", fmt.Errorf("%s: %w", name, err)
				}
			}
			bad = append(bad, name+": "+firstLine(err.Error()))
			continue
		}
		if wrong := judgeProbe(p, answer, stopped); wrong != "" {
			bad = append(bad, name+": "+wrong)
		}
		said = append(said, fmt.Sprintf("%d answers %s", i+1, answer.text()))
	}
	return bad, strings.Join(said, "; "), nil
}

// probeMax is how long one probe may take.
const probeMax = time.Hour

// answered is what a probe gave: one value.
type answered struct {
	null  bool
	value string
}

func (a answered) text() string {
	if a.null {
		return "nothing"
	}
	return a.value
}

// shapeError is an answer that is not one value.
type shapeError struct{ rows, columns int }

func (e shapeError) Error() string {
	return fmt.Sprintf("it gives %d rows of %d columns, and must give one value", e.rows, e.columns)
}

// ask runs one question that may only read.
func ask(ctx context.Context, p plan.Probe, conn string) (answered, error) {
	ctx, cancel := context.WithTimeout(ctx, probeMax)
	defer cancel()
	cfg, err := pgx.ParseConfig(conn)
	if err != nil {
		return answered{}, err
	}
	for name, value := range map[string]string{"default_transaction_read_only": "on", "datestyle": "ISO", "timezone": "UTC", "statement_timeout": fmt.Sprint(probeMax.Milliseconds())} {
		cfg.RuntimeParams[name] = value
	}
	c, err := pgx.ConnectConfig(ctx, cfg)
	if err != nil {
		return answered{}, err
	}
	defer func() { _ = c.Close(context.WithoutCancel(ctx)) }()          // only asked
	res := c.PgConn().ExecParams(ctx, p.SQL, nil, nil, nil, nil).Read() // one statement, its answer as text
	switch {
	case res.Err != nil:
		return answered{}, res.Err
	case len(res.FieldDescriptions) != 1 || len(res.Rows) != 1:
		return answered{}, shapeError{rows: len(res.Rows), columns: len(res.FieldDescriptions)}
	}
	raw := res.Rows[0][0]
	return answered{null: raw == nil, value: string(raw)}, nil
}

// judgeProbe says what is wrong with an answer; "" = nothing. Pure. Ages are counted back from the backup's end.
func judgeProbe(p plan.Probe, a answered, stopped time.Time) string {
	if a.null {
		return "it answers nothing (NULL)"
	}
	if p.Equals != "" && a.value != p.Equals {
		got, isNumber := new(big.Rat).SetString(a.value)
		want, wantsNumber := new(big.Rat).SetString(p.Equals)
		if !isNumber || !wantsNumber || got.Cmp(want) != 0 {
			return fmt.Sprintf("it answers %s, and must be %s", a.value, p.Equals)
		}
	}
	for _, limit := range []struct {
		words, bound string
		wrong        int
	}{{"at least", p.AtLeast, -1}, {"at most", p.AtMost, 1}} {
		if limit.bound == "" {
			continue
		}
		got, ok := new(big.Rat).SetString(a.value)
		bound, _ := new(big.Rat).SetString(limit.bound) // the plan refuses what is no number
		if !ok {
			return fmt.Sprintf("it answers %s, which is no number", a.value)
		}
		if got.Cmp(bound) == limit.wrong {
			return fmt.Sprintf("it answers %s, and must be %s %s", a.value, limit.words, limit.bound)
		}
	}
	if p.MaxAge > 0 {
		at, ok := parseMoment(a.value)
		if !ok {
			return fmt.Sprintf("it answers %s, which is no time", a.value)
		}
		if age := stopped.Sub(at); age > p.MaxAge {
			return fmt.Sprintf("it answers %s, %s before the backup, and may be %s old", a.value, age.Round(time.Second), p.MaxAge)
		}
	}
	return ""
}

// parseMoment reads a time as PostgreSQL writes it in ISO style; one without a zone is UTC.
func parseMoment(s string) (time.Time, bool) {
	for _, layout := range []string{"2006-01-02 15:04:05.999999999Z07", "2006-01-02 15:04:05.999999999Z07:00", "2006-01-02 15:04:05.999999999", time.DateOnly} {
		if at, err := time.Parse(layout, s); err == nil {
			return at, true
		}
	}
	return time.Time{}, false
}

func oneLine(s string) string {
	s = strings.Join(strings.Fields(s), " ")
	if len(s) > 60 {
		s = strings.ToValidUTF8(s[:57], "") + "..."
	}
	return s
}

func firstLine(s string) string { line, _, _ := strings.Cut(s, "\n"); return line }
