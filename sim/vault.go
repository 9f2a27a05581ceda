package sim

import (
	"math/rand/v2"
	"time"

	"holdfast/internal/database"
	"holdfast/internal/database/databasetest"
)

// VaultAway is a vault that nobody reaches: nothing is brought there, and no copy is made of it. Only in worlds with one.
const VaultAway FaultKind = "vault away"

// archive is what was brought away, and the dice of its own that bring it: a world with a vault in its plan is another
// world, one without is the same as ever.
type archive struct {
	databasetest.Vault

	dice *rand.Rand
	next time.Duration // virtual; when the next base backup is due
}

// Vault implements [databasetest.World].
func (w *World) Vault() *databasetest.Vault { return &w.archive.Vault }

// startVault has some host bring the log away each second, and now and then a base backup. Who does it acts on what it knows
// of the record, which may be old: then it takes what a former primary wrote after the histories parted.
func (w *World) startVault() {
	a := &w.archive
	a.dice = rand.New(rand.NewPCG(w.opt.Seed, 0x7a017))
	orders := [][]database.CopySource{
		{database.CopyVault, database.CopyStandby, database.CopyPrimary},
		{database.CopyStandby, database.CopyVault, database.CopyPrimary},
		{database.CopyVault, database.CopyPrimary},
	}
	w.policy.CopyFrom = orders[a.dice.IntN(len(orders))]
	w.at(time.Second, w.bringAway)
}

func (w *World) bringAway() {
	a := &w.archive
	defer w.at(time.Second, w.bringAway)
	h := w.hosts[a.dice.IntN(len(w.hosts))]
	if !h.up || h.frozen || h.agent == nil || h.agent.paused || a.Away {
		return
	}
	r := h.agent.record
	if r.Phase != database.Steady || !r.Opened {
		return
	}
	primary := w.host(r.Primary)
	if primary != h && !w.open(primary, h) || !primary.up || primary.frozen {
		return
	}
	a.Receive(primary.srv)
	if w.now >= a.next {
		if a.Base(h.srv) {
			a.next = w.now + time.Duration(5+a.dice.IntN(40))*time.Second
			w.note(h.name, "base backup %d lies in the vault", a.Bases())
		}
	}
}
