package api

import (
	"encoding/json"
	"testing"

	"holdfast/internal/agent"
	"holdfast/internal/cluster"
	"holdfast/internal/database"
	"holdfast/internal/database/stored"
	"holdfast/internal/plan"
)

func TestWhatIsSaidOfCommitsThatWaitForTheVault(t *testing.T) {
	rec := database.Record{Epoch: 3, Phase: database.Steady, Primary: "h1"}
	claim := stored.Claim{Epoch: 3, On: true, Vault: "main", Primary: "h1", Why: "the vault has everything"}
	for name, c := range map[string]struct {
		mode  string
		claim *stored.Claim
		raw   string
		said  bool
		holds bool
		gap   string
	}{
		"nobody asks for it":                        {"", nil, "", false, false, ""},
		"nothing is agreed yet":                     {"strict", nil, "", true, false, ""},
		"it is agreed":                              {"strict", &claim, "", true, true, ""},
		"what an earlier epoch agreed says nothing": {"strict", &stored.Claim{Epoch: 2, On: true, Vault: "main", Primary: "h1"}, "", true, false, ""},
		"it was agreed of another vault":            {"strict", &stored.Claim{Epoch: 3, On: true, Vault: "old", Primary: "h1", Why: "the vault has everything"}, "", true, false, ""},
		"log is lost, whatever was agreed":          {"strict", &claim, "", true, false, "0/5000000 to 0/6000000 is lost"},
		"it is lost where the plan gave it up":      {"", &claim, "", true, false, "0/5000000 to 0/6000000 is lost"},
		"it was left":                               {"relaxed", &stored.Claim{Epoch: 3, Primary: "h1", Why: "away"}, "", true, false, ""},
		"the plan gave it up, and it still holds":   {"", &claim, "", true, true, ""},
		"the plan gave it up":                       {"", &stored.Claim{Epoch: 3, Primary: "h1"}, "", false, false, ""},
		"what nobody can read promises nothing":     {"strict", nil, `{"later":1}`, true, false, ""},
	} {
		s := agent.Snapshot{Agreed: map[string]cluster.Entry{}}
		value := []byte(c.raw)
		if c.claim != nil {
			var err error
			if value, err = json.Marshal(c.claim); err != nil {
				t.Fatal(err)
			}
		}
		if len(value) > 0 {
			s.Agreed[agent.KeyRoot+stored.KeyPrefix+"orders"] = cluster.Entry{Value: value, Revision: 1}
		}
		got := describeByVault(plan.Database{Name: "orders", ByVault: c.mode}, "main", rec, s, &ArchiveStatus{Vault: "main", Gap: c.gap})
		if (got != nil) != c.said || got != nil && (got.Holds != c.holds || got.Why == "") {
			t.Errorf("%s: %+v", name, got)
		}
		if got != nil && c.gap != "" && got.Why != c.gap {
			t.Errorf("%s: because %q", name, got.Why)
		}
	}
	value, err := json.Marshal(claim)
	if err != nil {
		t.Fatal(err)
	}
	s := agent.Snapshot{Agreed: map[string]cluster.Entry{agent.KeyRoot + stored.KeyPrefix + "orders": {Value: value, Revision: 1}}}
	if got := describeByVault(plan.Database{Name: "orders", ByVault: "strict"}, "main", rec, s, &ArchiveStatus{Vault: "new"}); got.Holds || got.Why == claim.Why {
		t.Errorf("the log goes to another vault: %+v", got)
	}
}
