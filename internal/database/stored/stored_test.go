package stored

import (
	"testing"
	"time"

	"holdfast/internal/database"
)

// leading is a primary of epoch 3 with everything as it should be.
func leading() View {
	return View{Now: time.Hour, Self: "h1", Leads: true, Epoch: 3, Read: true,
		Server: Server{Open: true, Asks: true, InForce: true, Mark: 100, Flushed: 200, Held: 200},
		Vault:  "main", Voted: "main",
		Claim: Claim{Epoch: 3, On: true, Vault: "main", Primary: "h1", Why: "it has everything"}, Settled: true}
}

func TestWhatThePrimarysHostDoesAboutTheVault(t *testing.T) {
	const minute = time.Minute
	level := Memory{Begun: true, Epoch: 3, Mark: 100, MarkAt: time.Hour - minute, Level: true, LevelAt: time.Hour - minute, Voted: "main"}
	moved := level
	moved.Voted = "old"
	lacking := Memory{Begun: true, Epoch: 3, Mark: 150, MarkAt: time.Hour - minute}
	for name, c := range map[string]struct {
		mode    Mode
		change  func(*View)
		memory  Memory
		want    string // ask, leave, claim, unclaim, "" = nothing
		problem string
	}{
		"all is well":                            {Strict, nil, level, "", ""},
		"a host that does not lead asks nothing": {Strict, func(v *View) { v.Leads = false; v.Server.Asks = false }, level, "", ""},
		"what opened with the vault is claimed once the vault has what was there": {Strict, func(v *View) { v.Claim = Claim{Epoch: 2, On: true} }, level, "claim", ""},
		"nothing is claimed while the vault lacks what was there at opening":      {Strict, func(v *View) { v.Claim, v.Server.Held = Claim{}, 99 }, level, "", "database.waits-for-vault"},
		"another vault in the plan ends the claim":                                {Strict, func(v *View) { v.Vault, v.Voted = "new", "new" }, level, "unclaim", ""},
		"also before the archivist has heard of it":                               {Strict, func(v *View) { v.Vault = "new" }, level, "unclaim", ""},
		"so does an archivist whose log goes elsewhere":                           {Strict, func(v *View) { v.Voted = "new" }, level, "unclaim", ""},
		"a silent archivist ends nothing":                                         {Strict, func(v *View) { v.Voted = "" }, level, "", ""},
		"votes for another vault are no claim":                                    {Strict, func(v *View) { v.Claim, v.Voted = Claim{}, "old" }, level, "", ""},
		"nor are votes for nobody knows which":                                    {Strict, func(v *View) { v.Claim, v.Voted = Claim{}, "" }, level, "", ""},
		"a new vault is claimed once it has what the old one acknowledged":        {Strict, func(v *View) { v.Claim = Claim{} }, moved, "claim", ""},
		"and not before that":                                                     {Strict, func(v *View) { v.Claim, v.Server.Held = Claim{}, 199 }, moved, "", ""},
		"nothing is claimed that is not in force":                                 {Strict, func(v *View) { v.Claim, v.Server.InForce = Claim{}, false }, level, "ask", ""},
		"nothing is written over what a later epoch agreed":                       {Strict, func(v *View) { v.Claim = Claim{Epoch: 4} }, level, "", ""},
		"nor is anything left then":                                               {Relaxed, func(v *View) { v.Claim, v.Server.Held = Claim{Epoch: 4}, 120 }, lacking, "", "database.waits-for-vault"},
		"nothing is written while what is agreed is not known":                    {Strict, func(v *View) { v.Claim, v.Read = Claim{}, false }, level, "", ""},
		"strict never leaves":                                                     {Strict, func(v *View) { v.Server.Held = 120 }, lacking, "", "database.waits-for-vault"},
		"relaxed agrees before it leaves":                                         {Relaxed, func(v *View) { v.Server.Held = 120 }, lacking, "unclaim", "database.waits-for-vault"},
		"relaxed waits when nothing can be agreed":                                {Relaxed, func(v *View) { v.Server.Held, v.Read = 120, false }, lacking, "", "database.waits-for-vault"},
		"relaxed leaves once that is agreed":                                      {Relaxed, func(v *View) { v.Server.Held, v.Server.Flushed, v.Claim.On = 120, 1<<30, false }, lacking, "leave", "database.waits-for-vault"},
		"relaxed leaves at once what the epoch before had left": {Relaxed, func(v *View) {
			v.Server.Held, v.Server.Flushed, v.Claim = 0, 1<<30, Claim{Epoch: 2}
		}, Memory{Begun: true, Epoch: 3, Mark: 150, MarkAt: time.Hour - time.Second, Deserted: true}, "unclaim", ""},
		"relaxed waits a while before it comes back": {Relaxed, func(v *View) { v.Server.Asks, v.Claim.On = false, false },
			Memory{Begun: true, Epoch: 3, Mark: 100, MarkAt: time.Hour, Level: true, LevelAt: time.Hour - time.Second}, "", "database.vault-left"},
		"relaxed comes back":                                  {Relaxed, func(v *View) { v.Server.Asks, v.Claim.On = false, false }, level, "ask", "database.vault-left"},
		"strict comes as soon as the vault is level":          {Strict, func(v *View) { v.Server.Asks, v.Claim = false, Claim{} }, level, "ask", "database.vault-left"},
		"nobody waits for a vault that is far behind":         {Strict, func(v *View) { v.Server.Asks, v.Claim, v.Server.Flushed = false, Claim{}, 1<<30 }, level, "", "database.vault-left"},
		"nobody waits for votes that are not there":           {Strict, func(v *View) { v.Server.Asks, v.Claim, v.Server.Held = false, Claim{}, 0 }, level, "", "database.vault-left"},
		"a hand that took the vault away ends the claim":      {Strict, func(v *View) { v.Server.Asks = false }, level, "unclaim", "database.vault-left"},
		"a plan without the vault ends the claim first":       {Off, nil, level, "unclaim", ""},
		"then the server stops asking":                        {Off, func(v *View) { v.Claim.On = false }, level, "leave", ""},
		"a plan without the vault agrees on it once an epoch": {Off, func(v *View) { v.Claim = Claim{Epoch: 2} }, level, "unclaim", ""},
		"and nothing more is done":                            {Off, func(v *View) { v.Claim.On, v.Claim.Done, v.Server.Asks = false, true, false }, level, "", ""},
		"that nobody asks any more is agreed too":             {Off, func(v *View) { v.Claim.On, v.Server.Asks = false, false }, level, "done", ""},
		"and in each epoch anew":                              {Off, func(v *View) { v.Claim, v.Server.Asks = Claim{Epoch: 2, Done: true}, false }, level, "done", ""},
		"not of a server that is closed or cannot be read":    {Off, func(v *View) { v.Claim.On, v.Server.Asks, v.Server.Open = false, false, false }, level, "", ""},
		"nor where nothing was ever agreed":                   {Off, func(v *View) { v.Claim, v.Server.Asks = Claim{}, false }, level, "", ""},
		"a plan that asks again is told first":                {Strict, func(v *View) { v.Claim.On, v.Claim.Done, v.Server.Asks = false, true, false }, level, "unclaim", "database.vault-left"},
		"so is a server that asks though nobody should":       {Off, func(v *View) { v.Claim.On, v.Claim.Done = false, true }, level, "unclaim", ""},
		"a change that was cut short goes on":                 {Strict, func(v *View) { v.Server.Asks, v.Server.Between, v.Server.Held = false, true, 0 }, lacking, "ask", "database.waits-for-vault"},
		"one that was to leave goes on leaving":               {Relaxed, func(v *View) { v.Server.Asks, v.Server.Between, v.Claim.On = false, true, false }, lacking, "leave", ""},
		"one that the plan took back is agreed first":         {Off, func(v *View) { v.Server.Asks, v.Server.Between, v.Claim = false, true, Claim{} }, lacking, "unclaim", ""},
		"what was left and is level before it was done stays": {Relaxed, func(v *View) { v.Claim.On = false }, level, "claim", ""},
		"a claim that may still come is written over before relaxed leaves": {Relaxed, func(v *View) {
			v.Server.Held, v.Server.Flushed, v.Claim.On, v.Settled = 120, 1<<30, false, false
		}, lacking, "unclaim", "database.waits-for-vault"},
		"before a change that was to leave goes on": {Relaxed, func(v *View) {
			v.Server.Asks, v.Server.Between, v.Claim.On, v.Settled = false, true, false, false
		}, lacking, "unclaim", ""},
		"and before a plan without the vault is followed":       {Off, func(v *View) { v.Claim.On, v.Settled = false, false }, level, "unclaim", ""},
		"relaxed leaves a vault that is away also from between": {Relaxed, func(v *View) { v.Server.Asks, v.Server.Between, v.Server.Held = false, true, 120 }, lacking, "unclaim", "database.waits-for-vault"},
		"votes for more standbys than there are end at once":    {Strict, func(v *View) { v.Server.More, v.Server.Held = true, 0 }, lacking, "ask", "database.waits-for-vault"},
		"votes for more standbys come once the vault is level":  {Strict, func(v *View) { v.Server.Less = true }, level, "ask", ""},
		"and not before": {Strict, func(v *View) { v.Server.Less, v.Server.Held = true, 120 }, lacking, "", "database.waits-for-vault"},
		"a wrong number does not keep relaxed from leaving":       {Relaxed, func(v *View) { v.Server.More, v.Server.Held = true, 0 }, lacking, "unclaim", "database.waits-for-vault"},
		"names that a hand wrote meanwhile end the claim":         {Strict, func(v *View) { v.Server.InForce, v.Server.Foreign = false, true }, level, "unclaim", ""},
		"also when an agent has just begun":                       {Strict, func(v *View) { v.Server.InForce, v.Server.Foreign = false, true }, Memory{}, "unclaim", ""},
		"also when the room has opened with the vault since":      {Strict, func(v *View) { v.Server.Foreign = true }, level, "unclaim", ""},
		"then everything is asked for anew":                       {Strict, func(v *View) { v.Claim, v.Server.Foreign = Claim{}, true }, level, "ask", ""},
		"a mark that is not noted yet is nobody else's doing":     {Strict, func(v *View) { v.Server.InForce, v.Server.Mark = false, 0 }, level, "", ""},
		"an agent that has just begun believes what was agreed":   {Strict, func(v *View) { v.Server.InForce = false }, level, "", ""},
		"a mark that was not noted is noted by asking once more":  {Strict, func(v *View) { v.Claim, v.Server.InForce, v.Server.Mark = Claim{}, false, 0 }, level, "ask", ""},
		"nothing is claimed without a mark, whatever is in force": {Strict, func(v *View) { v.Claim, v.Server.Mark = Claim{}, 0 }, level, "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			v := leading()
			if c.change != nil {
				c.change(&v)
			}
			d, _ := Decide("orders", c.mode, DefaultTimes(), v, c.memory)
			got := map[bool]string{true: "ask", false: "leave"}[d.Vault]
			if !d.Ask {
				got = ""
			}
			if d.Write != nil {
				got = map[bool]string{true: "claim", false: "unclaim"}[d.Write.On]
				if d.Write.Done {
					got = "done"
				}
				if d.Ask || d.Write.Epoch != 3 || d.Write.Primary != "h1" || d.Write.Vault != v.Vault || d.Write.Why == "" {
					t.Errorf("writes %+v", d)
				}
			}
			if got != c.want {
				t.Errorf("does %q because %q, want %q", got, d.Because, c.want)
			}
			said := ""
			for _, p := range d.Problems {
				said += p.Code
			}
			if said != c.problem {
				t.Errorf("says %q, want %q", said, c.problem)
			}
		})
	}
}

func TestAClaimCountsForItsEpochAlone(t *testing.T) {
	r := database.Record{Epoch: 3, Phase: database.Steady, Primary: "h1"}
	c := Claim{Epoch: 3, On: true, Vault: "main", Primary: "h1"}
	if !c.Holds(r, "main") {
		t.Error("a claim does not hold in its epoch")
	}
	for name, change := range map[string]func(*database.Record, *Claim){
		"a later epoch":        func(r *database.Record, _ *Claim) { r.Epoch = 4 },
		"an election":          func(r *database.Record, _ *Claim) { r.Phase = database.Recruiting },
		"another primary":      func(r *database.Record, _ *Claim) { r.Primary = "h2" },
		"another vault":        func(_ *database.Record, c *Claim) { c.Vault = "old" },
		"a vault that is left": func(_ *database.Record, c *Claim) { c.On = false },
	} {
		r, c := r, c
		change(&r, &c)
		if c.Holds(r, "main") {
			t.Errorf("it holds in %s", name)
		}
	}
}
