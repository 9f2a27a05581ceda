package host

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"holdfast/internal/api"
	"holdfast/internal/database"
	"holdfast/internal/database/postgres"
)

// salvages reads what this host's servers put aside.
type salvages struct{ servers map[string]*postgres.Server }

// List implements api.Salvages.
func (s salvages) List() ([]api.Salvaged, error) {
	out := []api.Salvaged{}
	var bad []error
	for name, server := range s.servers {
		entries, err := os.ReadDir(server.PreservedDir())
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			bad = append(bad, err)
		}
		for _, e := range entries {
			if strings.HasPrefix(e.Name(), ".") {
				continue // on its way
			}
			r, err := s.Report(name, e.Name())
			if errors.Is(err, fs.ErrNotExist) {
				continue // likewise
			}
			if err != nil {
				bad = append(bad, err)
				continue
			}
			out = append(out, api.Salvaged{
				Database: name, Host: r.Host, ID: r.ID, Made: r.Made, Given: r.Given, Bytes: r.Bytes, Commits: len(r.Commits), Acknowledged: r.Acknowledged(),
			})
		}
	}
	return out, errors.Join(bad...)
}

// Report implements api.Salvages.
func (s salvages) Report(name, id string) (database.Salvage, error) {
	server, ok := s.servers[name]
	if !ok || id == "" || strings.HasPrefix(id, ".") || id != filepath.Base(id) {
		return database.Salvage{}, fs.ErrNotExist
	}
	text, err := os.ReadFile(filepath.Join(server.PreservedDir(), id, postgres.ReportFile))
	if err != nil {
		return database.Salvage{}, err
	}
	var r database.Salvage
	if err := json.Unmarshal(text, &r); err != nil {
		return database.Salvage{}, fmt.Errorf("read the report %s: %w", id, err)
	}
	return r, nil
}
