package cli

import (
	"bytes"
	"encoding/json"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"holdfast/internal/api"
	"holdfast/internal/database"
	"holdfast/internal/problem"
)

// What could not be exported for want of room is exported by the same command when there is room, into the same folder; a list
// of another salvage is not overwritten.
func TestAnExportIsTakenUpAgain(t *testing.T) {
	room := false
	x := api.Salvaged{Database: "records", Host: "b1", ID: "epoch-7-0a1b"}
	client := fakeAgent(t, func(w http.ResponseWriter, r *http.Request) {
		switch {
		case !strings.HasSuffix(r.URL.Path, "/bundle"):
			_ = json.NewEncoder(w).Encode(api.SalvagePage{Salvage: database.Salvage{ID: x.ID, Database: x.Database, Host: x.Host}}) // a client that left needs none
		case room:
			_, _ = w.Write([]byte("-- rows\n")) // as above
		default:
			w.WriteHeader(http.StatusConflict)
			_ = json.NewEncoder(w).Encode(problem.Problem{Code: "database.salvage-no-room", Title: "no room"}) // as above
		}
	})
	cmd, out := &cobra.Command{}, &bytes.Buffer{}
	cmd.SetContext(t.Context())
	cmd.SetOut(out)
	dir := filepath.Join(t.TempDir(), "lost")
	list, rows := filepath.Join(dir, "report.json"), filepath.Join(dir, "rows.sql")

	var p *problem.Problem
	if err := exportSalvage(cmd, client, x, dir); !errors.As(err, &p) || p.Code != "database.salvage-no-room" {
		t.Fatalf("without room: %v", err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("it left %v, %v", left, err)
	}
	room = true
	if err := os.WriteFile(list, []byte(`{"id":"epoch-7-0a1b","database":"records","host":"b1"}`), 0o600); err != nil { // by a release of before
		t.Fatal(err)
	}
	if err := exportSalvage(cmd, client, x, dir); err != nil {
		t.Fatalf("with room: %v", err)
	}
	if text, err := os.ReadFile(rows); err != nil || string(text) != "-- rows\n" {
		t.Errorf("the rows: %q, %v", text, err)
	}
	if err := exportSalvage(cmd, client, x, dir); err == nil || !strings.Contains(err.Error(), "rows.sql is there already") {
		t.Errorf("once more: %v", err)
	}
	if err := os.Remove(rows); err != nil {
		t.Fatal(err)
	}
	other := x
	other.ID = "epoch-8-0a1b"
	if err := exportSalvage(cmd, client, other, dir); err == nil || !strings.Contains(err.Error(), "report.json is there already") {
		t.Errorf("another one: %v", err)
	}
}

func TestNothingPutAsideIsAnEmptyList(t *testing.T) {
	client := fakeAgent(t, func(w http.ResponseWriter, r *http.Request) {
		var answer any
		if r.URL.Path == "/v1/status" {
			answer = api.Status{Databases: []api.DatabaseStatus{{Name: "records"}}}
		}
		_ = json.NewEncoder(w).Encode(answer) // a client that left needs none
	})
	all, _, err := salvagesOf(t.Context(), client, "records")
	if text, jsonErr := json.Marshal(all); errors.Join(err, jsonErr) != nil || string(text) != "[]" {
		t.Errorf("%s, %v", text, err)
	}
}
