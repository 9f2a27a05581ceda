package api

import (
	"strings"
	"testing"
)

func TestAnUnknownNameSaysWhichWasMeant(t *testing.T) {
	for _, c := range []struct {
		name  string
		known []string
		want  string
	}{
		{"recrods", []string{"orders", "records"}, "did you mean records? The plan has: orders, records"},
		{"zebra", []string{"orders", "records"}, "name one of: orders, records"},
		{"x", nil, "holdfast plan show"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := UnknownName("database", c.name, c.known)
			if p.Code != "api.unknown" || p.Subject != c.name || !strings.Contains(p.Remedy, c.want) || p.Meaning == "" {
				t.Errorf("refused with %s", p.Text())
			}
		})
	}
}
