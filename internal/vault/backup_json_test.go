package vault_test

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"holdfast/internal/vault"
)

// Who reads the JSON is told seconds, and what is read again is what was written, by this version or one of before.
func TestAValidationTellsSeconds(t *testing.T) {
	b := vault.Backup{ID: "x", Validation: &vault.Validation{Passed: true, At: time.Unix(9, 0).UTC(), Took: 1500 * time.Millisecond,
		Checks: []vault.Check{{Name: "heap", Outcome: "passed", Took: 250 * time.Millisecond}}}}
	raw, err := json.Marshal([]vault.Backup{b})
	if err != nil {
		t.Fatal(err)
	}
	var read []struct {
		Validation struct {
			Passed  bool
			Seconds float64 `json:"took_seconds"`
			Took    int64   `json:"took"`
			Checks  []struct {
				Name    string
				Seconds float64 `json:"took_seconds"`
			}
		}
	}
	if err := json.Unmarshal(raw, &read); err != nil {
		t.Fatal(err)
	}
	v := read[0].Validation
	if !v.Passed || v.Seconds != 1.5 || v.Took != 1_500_000_000 || len(v.Checks) != 1 || v.Checks[0].Name != "heap" || v.Checks[0].Seconds != 0.25 {
		t.Errorf("%s", raw)
	}
	var again []vault.Backup
	if err := json.Unmarshal(raw, &again); err != nil || !cmp.Equal(again, []vault.Backup{b}) {
		t.Errorf("read again: %v\n%s", err, cmp.Diff(again, []vault.Backup{b}))
	}
}
