package plan

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"
)

// Each case of the archive is a wrong plan, NAME/plan, and every line that is said about it, NAME/want.
func TestParseReportsEveryMistakeWithItsPlace(t *testing.T) {
	file := filepath.Join("testdata", "mistakes.txtar")
	archive, err := txtar.ParseFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i+1 < len(archive.Files); i += 2 {
		given, want := archive.Files[i], &archive.Files[i+1]
		name := strings.TrimSuffix(given.Name, "/plan")
		if want.Name != name+"/want" {
			t.Fatalf("%s is followed by %s, want %s/want", given.Name, want.Name, name)
		}
		t.Run(name, func(t *testing.T) {
			p, mistakes := Parse("holdfast.yaml", given.Data)
			var got strings.Builder
			for _, m := range mistakes {
				fmt.Fprintln(&got, m)
			}
			if os.Getenv("UPDATE") != "" {
				want.Data = []byte(got.String())
			}
			if diff := cmp.Diff(string(want.Data), got.String()); diff != "" {
				t.Errorf("mistakes (-want +got):\n%s", diff)
			}
			if len(mistakes) == 0 || p != nil {
				t.Errorf("a wrong plan gave %d mistakes and the plan %v", len(mistakes), p)
			}
			if strings.Contains(got.String(), "hunter2") {
				t.Errorf("a secret is repeated:\n%s", &got)
			}
		})
	}
	if os.Getenv("UPDATE") != "" {
		if err := os.WriteFile(file, txtar.Format(archive), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func TestParseRefusesFilesThatNoPlanNeeds(t *testing.T) {
	_, mistakes := Parse("holdfast.yaml", []byte(strings.Repeat("# much\n", 20000)))
	want := []Mistake{{File: "holdfast.yaml", Line: 1, Column: 1, What: "the file has 140000 bytes (at most 65536)"}}
	if diff := cmp.Diff(want, mistakes); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestMistakesAreErrorsThatEditorsCanFollow(t *testing.T) {
	var err error = Mistake{File: "x.yaml", Line: 3, Column: 7, What: "service web: port 0 is not a port (1 to 65535)"}
	if got, want := err.Error(), "x.yaml:3:7: service web: port 0 is not a port (1 to 65535)"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}
