package stored

import (
	"fmt"
	"testing"
	"time"

	"pgregory.net/rapid"

	"holdfast/internal/database"
)

// model is one database whose standbys always hold everything: only the vault is at issue. LSNs are counted by commits.
type model struct {
	now    time.Duration
	record database.Record
	mode   Mode
	stale  bool // the host of the next primary follows an older plan

	written, acked database.LSN // acked: the highest that a client was told of
	waits          bool         // the server's names ask the vault
	between        bool         // a change was cut short; waits and old are as before it
	old            bool         // some walsender acts on names of before that did not
	vault          database.LSN // what the vault has that the archivist stores in
	others         map[string]database.LSN
	plans, stores  string // the vault that the primary's plan names, and the archivist's
	silent         bool   // the archivist is not heard
	noticed        bool   // it was, since it stores there
	away           bool
	votes          bool // they stand, and the vault's position can be told
	returns, gone  int  // in how many looks whoever votes is back when it was cut off, and how many of them are left
	needs, plan    int  // how many votes the server's names need, and how many the plan and its standbys need
	given          func(m *model) int

	claim Claim
	rev   int
	late  []lateWrite // writes of which nobody heard what became, and that may take effect still
	down  bool        // the cluster store does not answer

	// what the host's agent remembers, lost when it restarts
	memory Memory
	left   int64 // as storer.leaves
	sure   bool
	mark   database.LSN

	planted func(m *model, d *Decision) // a defect, or nil
}

// lateWrite is a write at the revision that it expects.
type lateWrite struct {
	rev   int
	claim Claim
}

// heard reports whether as many votes as the server needs tell the vault's position.
func (m *model) heard() bool { return m.votes && m.gone == 0 && m.given(m) >= m.needs }

// release tells clients of what nobody waits for any more.
func (m *model) release() {
	switch {
	case !m.waits || m.old:
		m.acked = m.written
	case m.heard():
		m.acked = max(m.acked, min(m.vault, m.written))
	}
}

func (m *model) check() error {
	if m.claim.Holds(m.record, m.stores) && m.acked > m.vault {
		return fmt.Errorf("%d is acknowledged, the vault has %d, and the claim of epoch %d stands (%s)", m.acked, m.vault, m.claim.Epoch, m.claim.Why)
	}
	return nil
}

// look is what the host of the primary does. It may be cut off before it acts, or not hear how a write went, which may
// come into effect much later.
func (m *model) look(cut, midway, unheard bool) {
	v := View{Settled: m.left == m.record.Epoch,
		Vault: m.plans, Voted: m.stores,
		Now: m.now, Self: m.record.Primary, Leads: m.record.Phase == database.Steady, Epoch: m.record.Epoch, Claim: m.claim, Read: !m.down,
		Server: Server{Open: true, Asks: m.waits && !m.between, Between: m.between, InForce: m.waits && m.sure && !m.between, Mark: m.mark, Flushed: m.written}}
	if m.silent {
		v.Voted = ""
	}
	m.noticed = m.noticed || !m.silent
	if m.waits && !m.between {
		v.Server.More, v.Server.Less = m.needs > m.plan, m.needs < m.plan
	}
	if m.heard() {
		v.Server.Held = m.vault
	}
	m.gone = max(0, m.gone-1)
	d, memory := Decide("orders", m.mode, DefaultTimes(), v, m.memory)
	m.memory = memory
	if m.planted != nil {
		m.planted(m, &d)
	}
	switch {
	case cut:
	case d.Write != nil && m.down:
	case d.Write != nil && unheard:
		m.left = 0
		m.late = append(m.late, lateWrite{m.rev, *d.Write})
	case d.Write != nil:
		m.left = 0
		m.claim, m.rev = *d.Write, m.rev+1
		if !d.Write.On {
			m.left = d.Write.Epoch
		}
	case d.Ask && midway:
		m.between, m.sure, m.gone = true, false, m.returns
	case d.Ask && d.Vault: // the driver: between both settings nothing is acknowledged, and walsenders of before end
		m.gone = m.returns
		m.waits, m.old, m.sure, m.mark, m.between, m.needs = true, false, true, m.written, false, m.plan
	case d.Ask:
		m.waits, m.sure, m.between = false, false, false
	}
	m.release()
}

// deliver lets the oldest write that nobody heard of take effect, unless another one came before it.
func (m *model) deliver() {
	if len(m.late) == 0 {
		return
	}
	if w := m.late[0]; w.rev == m.rev {
		m.claim, m.rev = w.claim, m.rev+1
	}
	m.late = m.late[1:]
}

// move has the archivist store in the other vault, which may have been in use before. It does not come back before the
// primary's host has noticed that it left, and the claim is gone: a plan goes through the store that has the claim, and an
// archivist takes seconds to move.
func (m *model) move() {
	if !m.noticed || m.claim.On && m.claim.Vault != m.stores || len(m.late) > 0 {
		return
	}
	m.noticed = false
	m.others[m.stores] = m.vault
	m.stores = map[string]string{"main": "new", "new": "main"}[m.stores]
	m.vault = m.others[m.stores]
}

// promote makes another host the primary: it has everything that was acknowledged, and opens as its plan says.
func (m *model) promote() {
	m.record.Epoch++
	m.record.Primary = fmt.Sprintf("h%d", m.record.Epoch%3)
	m.memory, m.left, m.needs = Memory{}, 0, m.plan
	m.waits = m.mode != Off && !m.stale
	m.old, m.sure, m.mark, m.between = false, m.waits, m.written, false
	m.release()
}

func newModel() *model {
	return &model{record: database.Record{Epoch: 1, Phase: database.Steady, Primary: "h1"}, mode: Strict, plans: "main", stores: "main", others: map[string]database.LSN{}, votes: true, waits: true, sure: true, written: 1, mark: 1,
		needs: 2, plan: 2, given: func(m *model) int { return max(m.needs, m.plan) }}
}

// run draws what happens, and checks the claim after each step.
func (m *model) run(t *rapid.T) error {
	m.returns = rapid.IntRange(0, 15).Draw(t, "returns")
	for range rapid.IntRange(1, 80).Draw(t, "steps") {
		m.now += time.Duration(rapid.IntRange(1, 4000).Draw(t, "ms")) * time.Millisecond
		switch rapid.IntRange(0, 20).Draw(t, "what") {
		case 0, 1:
			m.written += database.LSN(rapid.SampledFrom([]int{1, 1, 3, levelBytes * 2}).Draw(t, "commits"))
			m.release()
		case 2, 3, 4:
			if !m.away {
				m.vault = min(m.written, m.vault+database.LSN(rapid.SampledFrom([]int{1, levelBytes, levelBytes * 8}).Draw(t, "stored")))
				m.release()
			}
		case 5:
			m.away = !m.away
		case 6:
			m.votes = !m.votes
		case 7:
			m.down = !m.down
		case 8:
			m.mode = rapid.SampledFrom([]Mode{Off, Strict, Relaxed}).Draw(t, "mode")
			m.stale = rapid.Bool().Draw(t, "stale")
		case 9:
			m.memory, m.sure, m.left = Memory{}, false, 0 // the agent restarts
		case 10:
			m.promote()
		case 11:
			m.plan = rapid.IntRange(1, 3).Draw(t, "plan")
		case 12:
			m.deliver()
		case 13:
			m.move()
		case 14:
			m.plans = rapid.SampledFrom([]string{"main", "new"}).Draw(t, "planned")
		case 15:
			m.silent = !m.silent
		default:
			m.look(rapid.IntRange(0, 4).Draw(t, "cut") == 0, rapid.IntRange(0, 4).Draw(t, "midway") == 0, rapid.IntRange(0, 3).Draw(t, "unheard") == 0)
		}
		if err := m.check(); err != nil {
			return err
		}
	}
	return nil
}

func TestNoClaimStandsForACommitThatTheVaultLacks(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		if err := newModel().run(t); err != nil {
			t.Fatal(err)
		}
	})
}

// Whatever happened, once all is well the plan's wish comes true by itself.
func TestThePlansWishComesTrue(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := newModel()
		if err := m.run(t); err != nil {
			t.Fatal(err)
		}
		m.away, m.down, m.votes, m.silent, m.plans = false, false, true, false, m.stores
		for range 120 {
			m.now += 500 * time.Millisecond
			m.vault = m.written
			m.look(false, false, false)
			if err := m.check(); err != nil {
				t.Fatal(err)
			}
		}
		if m.mode != Off && m.needs != m.plan {
			t.Fatalf("the server waits for %d votes, the plan needs %d", m.needs, m.plan)
		}
		if m.claim.Done != (m.mode == Off) && m.claim.Epoch > 0 || m.claim.Done && m.claim.Epoch != m.record.Epoch {
			t.Fatalf("the plan wants %q, and agreed is %+v", m.mode, m.claim)
		}
		if want := m.mode != Off; m.waits != want || m.claim.Holds(m.record, m.plans) != want {
			t.Fatalf("the plan wants %q, and the server waits: %v, it is claimed: %v (%+v)", m.mode, m.waits, m.claim.Holds(m.record, m.plans), m.claim)
		}
	})
}

// Whoever votes is cut off when the vault is asked again, and may take seconds to come back: relaxed waits for it as long as for
// a vault that is away, and does not leave at once.
func TestRelaxedComesBackToAVaultWhoseVotesTakeTheirTime(t *testing.T) {
	for _, returns := range []int{1, 2, 8, 18} {
		m := newModel()
		m.mode, m.returns = Relaxed, returns
		m.claim, m.rev, m.waits, m.sure = Claim{Epoch: 1, Primary: "h1", Why: "it was away"}, 1, false, false
		m.left = 1
		asked := 0
		for range 120 {
			m.now += 500 * time.Millisecond
			m.written++
			m.vault = m.written
			before := m.waits
			m.look(false, false, false)
			if m.waits != before {
				asked++
			}
			if err := m.check(); err != nil {
				t.Fatal(err)
			}
		}
		if asked != 1 || !m.claim.Holds(m.record, "main") {
			t.Errorf("votes that are back after %d looks: the server was told %d times, and the claim is %+v", returns, asked, m.claim)
		}
	}
}

// Whatever happened, relaxed does not wait for long for a vault that is away, as long as something can be agreed.
func TestRelaxedGoesOnWithoutTheVault(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := newModel()
		if err := m.run(t); err != nil {
			t.Fatal(err)
		}
		m.mode, m.stale, m.away, m.down = Relaxed, false, true, false
		for range 60 {
			m.now += 500 * time.Millisecond
			m.written++
			m.look(false, false, false)
			if err := m.check(); err != nil {
				t.Fatal(err)
			}
		}
		if m.acked != m.written {
			t.Fatalf("%d of %d is acknowledged: the server waits: %v, the claim is %+v", m.acked, m.written, m.waits, m.claim)
		}
	})
}

// A claim of which nobody heard what became takes effect only unless the vault was left meanwhile; where that is not written
// once more before the vault is left, it stands for commits that the vault lacks.
func TestAClaimThatComesLateDoesNotStandForAVaultThatIsLeft(t *testing.T) {
	run := func(planted func(*model, *Decision)) error {
		m := newModel()
		m.mode, m.planted = Relaxed, planted
		m.claim, m.rev = Claim{Epoch: 1, Primary: "h1", Why: "it was away"}, 1
		m.vault = m.written
		for range 2 {
			m.now += 500 * time.Millisecond
			m.look(false, false, true)
		}
		if len(m.late) == 0 || !m.late[0].claim.On {
			return fmt.Errorf("nothing is claimed: %+v", m.late)
		}
		m.away = true
		for range 60 {
			m.now += 500 * time.Millisecond
			m.written += 2 * levelBytes // not level any more
			m.look(false, false, false)
		}
		m.deliver()
		if m.waits {
			return fmt.Errorf("the vault is not left")
		}
		return m.check()
	}
	if err := run(nil); err != nil {
		t.Error(err)
	}
	if run(func(m *model, d *Decision) {
		if m.left == 0 && !m.claim.On && d.Write != nil && !d.Write.On {
			d.Write, d.Ask, d.Vault = nil, true, false
		}
	}) == nil {
		t.Error("the model finds no claim that comes late")
	}
}

// An archivist that gives as many votes as the plan needs, and not as many as the server waits for, stops writes for ever
// once the plan has fewer standbys; unless the server is told of that number too.
func TestTheModelFindsVotesThatAreTooFew(t *testing.T) {
	stuck := func(recount bool) bool {
		m := newModel()
		m.given = func(m *model) int { return m.plan }
		if !recount {
			m.planted = func(_ *model, d *Decision) { d.Ask = false }
		}
		m.plan = 1
		for range 120 {
			m.now += 500 * time.Millisecond
			m.vault = m.written
			m.written++
			m.look(false, false, false)
		}
		return m.acked < m.written-2
	}
	if !stuck(false) {
		t.Error("not found")
	}
	if stuck(true) {
		t.Error("a server that is told of the number still waits")
	}
}

// The model finds what it is for.
func TestPlantedDefectsAreFound(t *testing.T) {
	for name, planted := range map[string]func(*model, *Decision){
		"the vault is left before that is agreed": func(m *model, d *Decision) {
			if d.Write != nil && !d.Write.On {
				m.waits, m.sure = false, false
			}
		},
		"it is claimed before the vault has what was there": func(m *model, d *Decision) {
			if m.waits && m.sure && !m.claim.On && !m.down {
				d.Write = &Claim{Epoch: m.record.Epoch, On: true, Vault: m.plans, Primary: m.record.Primary}
			}
		},
		"what was voted for another vault is claimed of this one": func(m *model, d *Decision) {
			if m.waits && m.sure && !m.claim.On && !m.down && m.heard() && m.vault >= m.mark && m.plans == m.stores {
				d.Write = &Claim{Epoch: m.record.Epoch, On: true, Vault: m.plans, Primary: m.record.Primary}
			}
		},
		"walsenders of before go on": func(m *model, d *Decision) {
			if d.Ask && d.Vault {
				d.Ask, m.old, m.waits, m.sure, m.mark = false, !m.waits, true, true, m.written
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			for seed := range 5000 {
				m := newModel()
				m.planted = planted
				err := rapid.Custom(func(t *rapid.T) error { return m.run(t) }).Example(seed)
				if err != nil {
					return
				}
			}
			t.Error("not found")
		})
	}
}
