package postgres

import (
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"holdfast/internal/durable"
	"holdfast/internal/pgdata"
	"holdfast/internal/problem"
)

// Data that were moved, or are reached by another path, keep their tablespaces; a second copy of them takes none away.
func TestAClaimFollowsTheDataThatMoved(t *testing.T) {
	const tables, leave, gone = "PG_18_1", "leave its tables", "put them back there"
	for name, c := range map[string]struct {
		database, host string
		there          string // what lies where the claim says: "" nothing, "other" another directory, "same" ours by another path
		unlinked       bool   // our data do not lead to the tablespace
		taken          bool
		advice         string // part of it
	}{
		"moved":                                {"orders", "b1", "", false, true, ""},
		"by another path":                      {"orders", "b1", "same", false, true, ""},
		"by another path, after the data went": {"orders", "b1", "same", true, true, ""},
		"a second directory of the same data":  {"orders", "b1", "other", false, false, leave},
		"tables of data that are gone":         {"orders", "b1", "", true, false, gone},
		"tables that our data do not lead to":  {"orders", "b1", "other", true, false, leave},
		"another database of this host":        {"bills", "b1", "other", false, false, leave},
		"another database, whose data moved":   {"bills", "b1", "", false, false, gone},
		"another host":                         {"orders", "b2", "", false, false, "what is left of a server that is gone"},
		"another host that is there, somehow":  {"orders", "b2", "same", false, false, "what is left of a server that is gone"},
		"another database, by our second path": {"bills", "b1", "same", false, false, leave},
	} {
		t.Run(name, func(t *testing.T) {
			top := t.TempDir()
			must := func(err error) {
				t.Helper()
				if err != nil {
					t.Fatal(err)
				}
			}
			dir, before, fast := filepath.Join(top, "now"), filepath.Join(top, "before"), filepath.Join(top, "fast")
			s := &Server{
				cfg: Config{Database: "orders", Host: "b1", Major: 18}, log: slog.New(slog.DiscardHandler),
				at: layout{dir: dir, data: filepath.Join(dir, "data")},
			}
			links := filepath.Join(s.at.data, pgdata.Spaces)
			must(os.MkdirAll(links, 0o700))
			must(os.MkdirAll(filepath.Join(fast, tables), 0o700))
			if !c.unlinked {
				must(os.Symlink(fast, filepath.Join(links, "16400")))
			}
			switch c.there {
			case "other":
				must(os.Mkdir(before, 0o700))
			case "same":
				must(os.Symlink(dir, before))
			}
			file := filepath.Join(fast, claimFile)
			text, err := json.Marshal(claim{c.database, c.host, before})
			must(err)
			must(durable.WriteFile(file, text, 0o600))

			if err := s.checkSpaces(); !c.unlinked && (err == nil) != c.taken {
				t.Errorf("before a start it says %v", err)
			}
			err = s.prepareSpaces([]space{{dir: fast}})
			var p *problem.Problem
			if refused := errors.As(err, &p) && p.Code == "database.tablespace-shared"; refused == c.taken || err != nil && !refused {
				t.Fatalf("it says %v", err)
			}
			var now claim
			text, err = os.ReadFile(file)
			must(err)
			must(json.Unmarshal(text, &now))
			if (now == claim{"orders", "b1", dir}) != c.taken {
				t.Errorf("it is claimed by %v", now)
			}
			if p != nil && (!strings.Contains(p.Remedy, c.advice) || strings.Contains(p.Title, "which is gone") != (c.advice == gone)) {
				t.Errorf("it says: %s; and advises: %s", p.Title, p.Remedy)
			}
			if _, err := os.Stat(filepath.Join(fast, tables)); err != nil {
				t.Errorf("the tables are gone: %v", err)
			}
		})
	}
}
