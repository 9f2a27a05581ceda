package cli

import (
	"testing"

	"holdfast/internal/agent"
	"holdfast/internal/api"
)

// What goes on of a name and nobody asked for is ended by its own id; what somebody asked for is ended by taking that back.
func TestWhatIsEndedOfAName(t *testing.T) {
	st := api.Status{
		Databases: []api.DatabaseStatus{
			{Name: "records", Archive: &api.ArchiveStatus{Running: []agent.Run{{ID: "r1", Kind: agent.ChoreBase, Host: "h1"}, {ID: "r2", Kind: agent.ChoreProve, Host: "h1"}, {ID: "r3", Kind: agent.ChoreBase, Host: "h1", Request: "q"}}}},
			{Name: "stock", Archive: &api.ArchiveStatus{Running: []agent.Run{{ID: "r4"}}}},
			{Name: "bare"},
		},
		Files: []api.FilesStatus{
			{Name: "letters", Host: "h2", Files: agent.Files{Run: &agent.FilesRun{ID: "f1"}}},
			{Name: "letters", Host: "h3", Files: agent.Files{Run: &agent.FilesRun{ID: "f2", Request: "q"}}},
			{Name: "letters", Host: "h4"},
		},
	}
	for name, want := range map[string][]string{"records": {"backup r1 ", "backup r2 "}, "letters": {"files f1 h2"}, "bare": nil, "stock": {"backup r4 "}} {
		var got []string
		for _, r := range runsToEnd(st, name) {
			if r.end.Kind != "cancel" || r.end.Subject != name || r.words == "" {
				t.Errorf("%s: %+v", name, r)
			}
			got = append(got, r.end.Room+" "+r.end.Args[agent.ArgRun]+" "+r.end.Args[agent.ArgOn])
		}
		if len(got) != len(want) {
			t.Errorf("%s: %q, want %q", name, got, want)
			continue
		}
		for i := range got {
			if got[i] != want[i] {
				t.Errorf("%s: %q, want %q", name, got, want)
			}
		}
	}
}
