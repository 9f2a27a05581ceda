package host

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"holdfast/internal/database/gate"
)

// What a plan gave up is served on for a while, then remembered, and given up at once when anything else wants it.
func TestAFormerPortIsServedOn(t *testing.T) {
	now := time.Unix(1000, 0)
	later := now.Add(formerKept).Unix()
	old := gate.Spec{Listen: []string{"a:1"}, ReadListen: []string{"a:2"}}
	left := gate.Former{Address: "a:1", Until: 900}
	for name, c := range map[string]struct {
		before, want gate.Spec
		claimed      []string
		keep         bool
		former       []gate.Former
	}{
		"nothing changed":                                  {before: old, want: old},
		"the first plan":                                   {want: old},
		"another port for writes":                          {before: old, want: gate.Spec{Listen: []string{"a:3"}, ReadListen: []string{"a:2"}}, former: []gate.Former{{Address: "a:1", Until: later}}},
		"the two ports change places":                      {before: old, want: gate.Spec{Listen: []string{"a:2"}, ReadListen: []string{"a:1"}}},
		"no reads any more":                                {before: old, want: gate.Spec{Listen: []string{"a:1"}}},
		"something else wants the former port":             {before: old, want: gate.Spec{Listen: []string{"a:3"}, ReadListen: []string{"a:2"}}, claimed: []string{"a:1"}},
		"its time is over":                                 {before: gate.Spec{Listen: []string{"a:3"}, Former: []gate.Former{left}}, want: gate.Spec{Listen: []string{"a:3"}}, former: []gate.Former{{Address: "a:1", Until: 900, Ended: true}}},
		"its time is over, and somebody may know no other": {before: gate.Spec{Listen: []string{"a:3"}, Former: []gate.Former{left}}, want: gate.Spec{Listen: []string{"a:3"}}, keep: true, former: []gate.Former{left}},
		"back to the former port":                          {before: gate.Spec{Listen: []string{"a:3"}, Former: []gate.Former{left}}, want: gate.Spec{Listen: []string{"a:1"}}, former: []gate.Former{{Address: "a:3", Until: later}}},
	} {
		if diff := cmp.Diff(c.former, carryOver(c.before, c.want, c.claimed, now, c.keep).Former); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}
