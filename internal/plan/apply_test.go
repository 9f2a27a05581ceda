package plan

import (
	"strings"
	"testing"
)

// What can be changed while the application runs is told apart from what cannot, by name.
func TestOnlyWhatCanChangeAtRunTimeIsApplied(t *testing.T) {
	base := `application: clinic
sites: { east: { hosts: { a: { address: 10.0.0.1 }, b: { address: 10.0.0.2 }, c: { address: 10.0.0.3 } } } }
services: { web: { run: /bin/web, instances: 2 } }
databases: { records: { postgres: 15, standbys: 1, acknowledged_by: 1 } }
`
	read := func(text string) *Plan {
		p, mistakes := Parse("holdfast.yaml", []byte(text))
		if p == nil {
			t.Fatalf("%v\n%s", mistakes, text)
		}
		return p
	}
	old := read(base)
	tests := []struct {
		name, from, to string
		fixed          string // "" = it can be applied
	}{
		{"a standby more", "standbys: 1,", "standbys: 2,", ""},
		{"another host", "standbys: 1,", "standbys: 1, hosts: [a, c],", ""},
		{"an asynchronous one", "standbys: 1,", "standbys: 2, members: { c: { mode: async } }, policy: relaxed,", ""},
		{"no acknowledgement", "acknowledged_by: 1", "acknowledged_by: 0", ""},
		{"a service", "instances: 2", "instances: 3", "service web"},
		{"a host and a standby on it", "c: { address: 10.0.0.3 }", "c: { address: 10.0.0.3 }, d: { address: 10.0.0.4 }", "host d"},
		{"a port and a standby", "standbys: 1,", "standbys: 2, listen: { write: 6000 },", "database records"},
		{"a database", "databases: {", "databases: { more: { postgres: 15 },", "database more"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			next := read(strings.Replace(base, tt.from, tt.to, 1))
			fixed := Fixed(old, next)
			switch {
			case tt.fixed == "" && len(fixed) > 0:
				t.Fatalf("refused: %v", fixed)
			case tt.fixed != "" && (len(fixed) == 0 || fixed[0].Subject != tt.fixed):
				t.Fatalf("refused %v, want %s", fixed, tt.fixed)
			}
			if tt.fixed != "" {
				return
			}
			before, err := next.Show()
			if err != nil {
				t.Fatal(err)
			}
			if after, err := old.Overlay(next).Show(); err != nil || string(after) != string(before) {
				t.Fatalf("%v\n%s\nis not\n%s", err, after, before)
			}
		})
	}
}
