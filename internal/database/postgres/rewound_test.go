package postgres

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestARewoundServerNeedsTheLogFromWhereItsRecoveryBegins(t *testing.T) {
	const size = 16 << 20
	const label = "START WAL LOCATION: 0/6000028 (file 000000020000000000000006)\nCHECKPOINT LOCATION: 0/60020D0\n"
	for name, c := range map[string]struct {
		label string
		log   []string
		want  string // "" = it may start
	}{
		"all of it is there, on two timelines": {label, []string{"000000020000000000000006", "000000020000000000000007", "000000030000000000000007", "000000030000000000000008"}, ""},
		"more than that is there":              {label, []string{"000000020000000000000004", "000000020000000000000006", "000000030000000000000007"}, ""},
		"nothing was rewound":                  {"", nil, "no such file"},
		"its beginning is gone":                {label, []string{"000000020000000000000007", "000000030000000000000008"}, "segment 6"},
		"its beginning alone is gone":          {label, []string{"000000020000000000000005", "000000020000000000000007"}, "segment 6"},
		"a part in the middle is gone":         {label, []string{"000000020000000000000006", "000000030000000000000008"}, "segment 7"},
		"it ends before its beginning":         {label, []string{"000000020000000000000005"}, "segment 6"},
		"there is no log":                      {label, nil, "segment 6"},
		"the label is cut short":               {"START WAL LOC", []string{"000000020000000000000006"}, "no first line"},
	} {
		t.Run(name, func(t *testing.T) {
			data := t.TempDir()
			if err := os.Mkdir(filepath.Join(data, "pg_wal"), 0o700); err != nil {
				t.Fatal(err)
			}
			files := map[string]string{}
			for _, n := range c.log {
				files[filepath.Join("pg_wal", n)] = ""
			}
			if c.label != "" {
				files[labelFile] = c.label
			}
			for path, text := range files {
				if err := os.WriteFile(filepath.Join(data, path), []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			err := logWhole(data, size)
			switch {
			case c.want == "" && err != nil:
				t.Error(err)
			case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}
