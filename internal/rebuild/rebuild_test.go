package rebuild_test

import (
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"holdfast/internal/agent"
	"holdfast/internal/cluster"
	"holdfast/internal/database"
	"holdfast/internal/rebuild"
)

var noon = time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)

func record(epoch, generation int64) database.Record {
	return database.Record{
		Epoch: epoch, Generation: generation, Members: []string{"b1", "b2", "b3"}, Primary: "b2", Incarnation: "i2", W: 1, E: 2,
		Voters: []database.Voter{{Host: "b1", Incarnation: "i1"}, {Host: "b3", Incarnation: "i3"}}, Phase: database.Steady, Timeline: 2, Opened: true,
	}
}

func state(t *testing.T, clusterID uint64, revision int64, r database.Record) *rebuild.State {
	t.Helper()
	value, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	return &rebuild.State{
		Application: "clinic", ClusterID: clusterID, Revision: revision, Entries: []rebuild.Entry{
			{Key: agent.RecordKey("records"), Value: value, Revision: revision},
			{Key: agent.KeyPlan, Value: []byte("application: clinic"), Revision: 2},
			{Key: agent.KeyStopping, Value: []byte("true"), Revision: 3},
			{Key: agent.KeyRequests + "17", Value: []byte("{}"), Revision: 4},
		},
	}
}

func found(own, saved *rebuild.State) rebuild.Found {
	return rebuild.Found{
		Application: "clinic", Survivor: "b1", Hosts: []string{"b1", "b2", "b3"}, Now: noon,
		Own: own, OwnWhy: "its disk is empty", Saved: saved, SavedWhy: "no vault answers",
	}
}

func agreed(t *testing.T, entries []cluster.Entry, key string, into any) bool {
	t.Helper()
	i := slices.IndexFunc(entries, func(e cluster.Entry) bool { return e.Key == key })
	if i < 0 {
		return false
	}
	if into != nil {
		if err := json.Unmarshal(entries[i].Value, into); err != nil {
			t.Fatal(err)
		}
	}
	return true
}

func TestPropose(t *testing.T) {
	own, saved := state(t, 7, 100, record(4, 40)), state(t, 7, 90, record(3, 30))
	saved.At, saved.By = noon.Add(-time.Hour), "b2"
	newer := state(t, 7, 110, record(6, 60))
	newer.At = noon.Add(-time.Minute)
	other := state(t, 8, 9000, record(2, 20))
	rebuilt := state(t, 9, 5, record(1004, 1040))
	rebuilt.Recovery = 1
	putBack := state(t, 7, 200, record(2, 20)) // to an old backup, and has written much since that passes
	for _, c := range []struct {
		name  string
		found rebuild.Found
		from  string
		above int64 // the epoch that the new one must be above
	}{
		{"its own disk is newer than the saving", found(own, saved), "the agreed state on b1's own disk", 4},
		{"a saving that is newer wins", found(own, newer), "the newest saving in a vault, which is newer than b1's own disk", 6},
		{"nothing of its own", found(nil, saved), "the newest saving in a vault", 3},
		{"no vault", found(own, nil), "the agreed state on b1's own disk", 4},
		{"a saving of another cluster that was rebuilt no more often does not win by its revision", found(own, other), "the agreed state on b1's own disk", 4},
		{"a saving of a later epoch wins over an old backup whose revisions have grown since", found(putBack, newer), "the newest saving in a vault, which is newer than b1's own disk", 6},
		{"an old backup that was saved does not win over what is further", found(own, putBack), "the agreed state on b1's own disk", 4},
		{"a saving of a later cluster wins", found(own, rebuilt), "the newest saving in a vault, which is newer than b1's own disk", 1004},
		{"own data of a later cluster win", found(rebuilt, own), "the agreed state on b1's own disk", 1004},
	} {
		t.Run(c.name, func(t *testing.T) {
			p, err := rebuild.Propose(c.found)
			if err != nil {
				t.Fatal(err)
			}
			var r database.Record
			if !agreed(t, p.Entries, agent.RecordKey("records"), &r) || r.Epoch <= c.above || r.Phase != database.Recruiting || r.Opened {
				t.Errorf("the record is %+v", r)
			}
			if p.From != c.from {
				t.Errorf("from %q", p.From)
			}
			if !slices.Equal(p.Lost, []string{"b2", "b3"}) || len(p.Unknown) < 3 || len(p.Found) < 2 {
				t.Errorf("%+v", p)
			}
			if agreed(t, p.Entries, agent.KeyStopping, nil) || agreed(t, p.Entries, agent.KeyRequests+"17", nil) {
				t.Error("a stop or a request of before would be carried out")
			}
			var how agent.Recovery
			if !agreed(t, p.Entries, agent.KeyRecovery, &how) || how.Number != p.Number || how.Number < 1 {
				t.Errorf("recovery %+v", how)
			}
		})
	}
}

func TestTheFurthestSavingIsTheOneToBeginWith(t *testing.T) {
	at := func(s *rebuild.State, minutes int) rebuild.State {
		s.At = noon.Add(time.Duration(minutes) * time.Minute)
		return *s
	}
	first, last := at(state(t, 7, 100, record(4, 40)), 0), at(state(t, 7, 110, record(6, 60)), 5)
	putBack, passed := at(state(t, 7, 900, record(3, 30)), 9), at(state(t, 7, 990, record(7, 70)), 20)
	voters := at(state(t, 7, 120, record(6, 61)), 6)
	rebuilt := at(state(t, 9, 5, record(2, 20)), 1)
	rebuilt.Recovery = 1
	none := at(state(t, 7, 130, record(0, 0)), 30)
	none.Entries = none.Entries[1:]
	for name, c := range map[string]struct {
		all        []rebuild.State
		best, over int64 // revisions; 0 = nil
	}{
		"none": {nil, 0, 0},
		"the latest, in whatever order they come":   {[]rebuild.State{last, first}, 110, 0},
		"not one that was put back":                 {[]rebuild.State{first, last, putBack}, 110, 900},
		"until that one is further":                 {[]rebuild.State{first, last, putBack, passed}, 990, 0},
		"its voters alone are later":                {[]rebuild.State{last, voters, putBack}, 120, 900},
		"one that was rebuilt is later than others": {[]rebuild.State{last, rebuilt, putBack}, 5, 0},
		"a later one that knows no database":        {[]rebuild.State{last, none}, 130, 0},
	} {
		t.Run(name, func(t *testing.T) {
			revision := func(s *rebuild.State) int64 {
				if s == nil {
					return 0
				}
				return s.Revision
			}
			best, over := rebuild.Furthest(c.all)
			if revision(best) != c.best || revision(over) != c.over {
				t.Errorf("revision %d passing over %d, want %d and %d", revision(best), revision(over), c.best, c.over)
			}
		})
	}
	p, err := rebuild.Propose(rebuild.Found{Application: "clinic", Survivor: "b1", Hosts: []string{"b1", "b2"}, Now: noon, Saved: &last, PassedOver: &putBack})
	if err != nil || !strings.Contains(strings.Join(p.Found, "\n"), "passed over") {
		t.Errorf("%v, found %q", err, p.Found)
	}
}

func TestProposeIsAboveEveryPromise(t *testing.T) {
	f := found(state(t, 7, 100, record(4, 40)), nil)
	f.Promises = []rebuild.Promise{{Database: "records", Host: "b1", Promise: database.Promise{Epoch: 12, Generation: 400, Incarnation: "i1"}}}
	f.Heard = 3
	p, err := rebuild.Propose(f)
	if err != nil {
		t.Fatal(err)
	}
	var r database.Record
	if !agreed(t, p.Entries, agent.RecordKey("records"), &r) || r.Epoch <= 12 || r.Generation <= 400 {
		t.Errorf("the record is %+v", r)
	}
	if p.Number != 4 {
		t.Errorf("number %d, though rebuilding 3 was heard of", p.Number)
	}
}

// A record from before the last failover is never called the last one: whoever was its primary may lack what another
// acknowledged since.
func TestARecordThatIsOlderThanAPromiseIsSaidToBe(t *testing.T) {
	led := record(2, 20) // by b1
	led.Primary, led.Incarnation = "b1", "i1"
	unmade := led
	unmade.Phase = database.Recruiting
	promised := func(epoch, generation int64, incarnation string) []rebuild.Promise {
		return []rebuild.Promise{{Database: "records", Host: "b1", Promise: database.Promise{Epoch: epoch, Generation: generation, Incarnation: incarnation}}}
	}
	for _, c := range []struct {
		name  string
		own   database.Record
		saved *database.Record // of a saving that loses to the survivor's own disk
		said  []rebuild.Promise
		want  int64 // epoch that is known of; 0 = the record is the last
		next  string
		means string
		do    string // part of the last thing to do
	}{
		{"the primary's own promise is the record's", led, nil, promised(2, 20, "i1"), 0, "holds every commit of its last known epoch; it opens once a standby follows", "", ""},
		{"other voters within the epoch", led, nil, promised(2, 25, "i1"), 0, "holds every commit", "", ""},
		{"the primary promised two epochs more", led, nil, promised(4, 40, "i1"), 4, "was its primary in epoch 2, which is not the last", "of epochs 3 to 4, and commits that were acknowledged then may be on b2 and b3 alone", "opens by itself once a standby follows"},
		{"its data were made anew since", led, nil, promised(3, 30, "i9"), 3, "in epoch 2, which is not the last", "of epoch 3, and", "nor by force"},
		{"a standby promised more", record(2, 20), nil, promised(3, 30, "i1"), 3, "was a standby in epoch 2, which is not the last", "of epoch 3, and", "went another way"},
		{"an election that was under way has ended since", unmade, nil, promised(2, 25, "i1"), 2, "which is not the last", "of epoch 2 since", "opens by itself"},
		{"a saving that loses knows of more", led, new(record(5, 50)), promised(2, 20, "i1"), 5, "which is not the last", "of epochs 3 to 5", "opens by itself"},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := found(state(t, 7, 100, c.own), nil)
			if c.saved != nil {
				f.Saved, f.Own.Recovery = state(t, 8, 9, *c.saved), 1
			}
			f.Promises = c.said
			p, err := rebuild.Propose(f)
			if err != nil {
				t.Fatal(err)
			}
			d := p.Databases[0]
			if !strings.Contains(d.Next, c.next) || d.Epoch <= c.want {
				t.Errorf("epoch %d; %s", d.Epoch, d.Next)
			}
			if c.want == 0 {
				if d.Older != nil {
					t.Errorf("said to be old: %+v", d.Older)
				}
				return
			}
			if strings.Contains(d.Next, "every commit") {
				t.Errorf("it says %q, which nobody can know", d.Next)
			}
			if d.Older == nil || d.Older.Epoch != c.want || !strings.Contains(d.Older.Means, c.means) || !strings.Contains(d.Older.Do[len(d.Older.Do)-1], c.do) {
				t.Errorf("said to be %+v", d.Older)
			}
		})
	}
}

// Where the survivor has nothing of its own, the saving is what it begins with, and may be from before a failover too.
func TestASavingFromBeforeTheLastFailoverIsSaidToBe(t *testing.T) {
	f := found(nil, state(t, 7, 100, record(2, 20)))
	f.Saved.Promises = []rebuild.Promise{{Database: "records", Host: "b3", Promise: database.Promise{Epoch: 3, Generation: 30, Incarnation: "i3"}}}
	p, err := rebuild.Propose(f)
	if err != nil {
		t.Fatal(err)
	}
	if o := p.Databases[0].Older; o == nil || o.Epoch != 3 || !strings.Contains(o.Told, "b3 had promised it, says the saving") {
		t.Errorf("said to be %+v", o)
	}
}

func TestProposeRefuses(t *testing.T) {
	if _, err := rebuild.Propose(found(nil, nil)); !errors.Is(err, rebuild.ErrNothingLeft) || !strings.Contains(err.Error(), "no vault answers") {
		t.Errorf("nothing left: %v", err)
	}
	foreign := state(t, 7, 100, record(4, 40))
	foreign.Application = "bakery"
	if _, err := rebuild.Propose(found(foreign, nil)); err == nil || !strings.Contains(err.Error(), "bakery") {
		t.Errorf("another application's: %v", err)
	}
	broken := state(t, 7, 100, record(4, 40))
	broken.Entries[0].Value = []byte("{")
	if _, err := rebuild.Propose(found(broken, nil)); err == nil {
		t.Error("a record that cannot be read was passed on")
	}
}

func TestStateIsReadBack(t *testing.T) {
	s := *state(t, 7, 100, record(4, 40))
	s.Files = map[string][]byte{"ca/ca.key": []byte("secret")}
	b, err := s.Encode()
	if err != nil {
		t.Fatal(err)
	}
	got, err := rebuild.Decode(b)
	if err != nil || got.Revision != 100 || len(got.Entries) != 4 || string(got.Files["ca/ca.key"]) != "secret" {
		t.Fatalf("%+v, %v", got, err)
	}
	for _, bad := range []string{`{"schema":2,"application":"x"}`, `{}`, `[]`} {
		if _, err := rebuild.Decode([]byte(bad)); err == nil {
			t.Errorf("%s was taken", bad)
		}
	}
}

func TestDigestChangesWithWhatIsAgreedAlone(t *testing.T) {
	all := map[string]cluster.Entry{"holdfast/plan": {Key: "holdfast/plan", Value: []byte("a"), Revision: 1}}
	before := rebuild.Digest(rebuild.Lasting(all))
	all[agent.KeyController] = cluster.Entry{Key: agent.KeyController, Value: []byte("b"), Revision: 2}
	all[agent.KeySaved+"main"] = cluster.Entry{Key: agent.KeySaved + "main", Value: []byte("c"), Revision: 3}
	if rebuild.Digest(rebuild.Lasting(all)) != before {
		t.Error("an office or a saving is no change")
	}
	all["holdfast/plan"] = cluster.Entry{Key: "holdfast/plan", Value: []byte("d"), Revision: 4}
	if rebuild.Digest(rebuild.Lasting(all)) == before {
		t.Error("a change of the plan is one")
	}
}
