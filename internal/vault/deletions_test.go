package vault_test

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"holdfast/internal/auth"
	"holdfast/internal/redact"
	"holdfast/internal/vault"
	"holdfast/internal/vault/consent"
)

// persons makes an authority and persons that it knows.
func persons(t *testing.T, names ...string) (authority []byte, all map[string]consent.Person) {
	t.Helper()
	dir := t.TempDir()
	ca, err := auth.CreateAuthority(dir, "clinic")
	if err != nil {
		t.Fatal(err)
	}
	if authority, err = os.ReadFile(filepath.Join(dir, auth.CACertFile)); err != nil {
		t.Fatal(err)
	}
	all = map[string]consent.Person{}
	for _, n := range names {
		c, err := ca.Issue(auth.HostCert{Name: n, Role: auth.Admin})
		if err != nil {
			t.Fatal(err)
		}
		if all[n], err = consent.LoadPerson(c.Cert, c.Key); err != nil {
			t.Fatal(err)
		}
	}
	return authority, all
}

// asks puts a request into a vault, and agrees puts an answer beside it.
func asks(t *testing.T, v *vault.Vault, by consent.Person, d consent.Deed, err error) (id string) {
	t.Helper()
	if err != nil || len(d.Items) == 0 {
		t.Fatalf("deed %+v, %v", d, err)
	}
	raw, id, err := by.Ask(consent.Request{Application: "clinic", Vault: v.Identity().ID, At: time.Now(), Deed: d})
	if err == nil {
		err = v.PutPaper(t.Context(), raw)
	}
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func answers(t *testing.T, v *vault.Vault, by consent.Person, id string, d consent.Deed, agree bool) {
	t.Helper()
	raw, err := by.Answer(consent.Vote{Vault: v.Identity().ID, Request: id, Digest: d.Digest(), Agree: agree, At: time.Now()})
	if err == nil {
		err = v.PutPaper(t.Context(), raw)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// Where two must agree neither a pin nor a hold nor an old key goes by one, and what they agreed to is that and nothing else.
func TestNothingGoesForGoodUnlessTwoPersonsAgreedToIt(t *testing.T) {
	authority, who := persons(t, "anna", "ben")
	conf, _, _ := pair(t)
	conf.Deletions = vault.Deletions{TwoPersons: true, Authority: authority}
	v := createIn(t, place{conf: conf})
	ctx := t.Context()
	b := store(t, v, sample())
	pin := vault.Note{Backup: b.ID, Kind: vault.Pin, By: "anna", At: time.Unix(3e9, 0)}
	for _, n := range []vault.Note{pin, {Backup: b.ID, Kind: vault.Hold, By: "anna", At: time.Unix(3e9, 0), Reason: "a case"}} {
		if err := v.PutNote(ctx, n); err != nil {
			t.Fatal(err)
		}
	}
	unpin := func() error { return v.DropNotes(ctx, b.ID, vault.Pin) }
	wantProblem(t, unpin(), "vault.needs-two-persons")
	wantProblem(t, v.DropNotes(ctx, b.ID, vault.Hold), "vault.needs-two-persons")
	wantProblem(t, v.Lift(ctx, b.ID, "anna", "over", time.Now()), "vault.needs-two-persons")
	wantProblem(t, v.MayLetGo(ctx), "vault.needs-two-persons") // how long things stay was never agreed

	d, err := v.UnpinDeed(ctx, b.ID)
	id := asks(t, v, who["anna"], d, err)
	wantProblem(t, unpin(), "vault.needs-two-persons")
	answers(t, v, who["anna"], id, d, true) // in another session
	wantProblem(t, unpin(), "vault.needs-two-persons")
	answers(t, v, who["ben"], id, d, true)
	wantProblem(t, v.DropNotes(ctx, b.ID, vault.Pin, vault.Hold), "vault.needs-two-persons") // more than they agreed to
	if err := unpin(); err != nil {
		t.Errorf("two agreed: %v", err)
	}
	pin.At = pin.At.Add(time.Minute)
	if err := v.PutNote(ctx, pin); err != nil {
		t.Fatal(err)
	}
	wantProblem(t, unpin(), "vault.needs-two-persons") // a later pin is another one

	d, err = v.ReleaseDeed(ctx, b.ID)
	id = asks(t, v, who["ben"], d, err)
	answers(t, v, who["anna"], id, d, true)
	if err := v.Lift(ctx, b.ID, "somebody", "over", time.Now()); err != nil {
		t.Errorf("two agreed: %v", err)
	}
	notes, err := v.Notes(ctx)
	if err != nil || len(notes) != 2 || notes[0].Kind != vault.Lifted || notes[0].By != "ben, and anna agreed" {
		t.Errorf("notes %+v, %v", notes, err)
	}

	// No hold stands now: one person alone does not change who lifted it, and why.
	wantProblem(t, v.Lift(ctx, b.ID, "anna", "another reason", time.Now()), "backup.no-hold")
	if again, err := v.Notes(ctx); err != nil || !cmp.Equal(notes, again) {
		t.Errorf("the record changed: %s, %v", cmp.Diff(notes, again), err)
	}

	// Who has no authority's certificate cannot tell who agreed; and the plan alone does not end what two agreed to.
	terms := consent.NewDeed(consent.Retention, "", []string{"records"}, &consent.Terms{Undelete: time.Hour})
	id = asks(t, v, who["anna"], terms, nil)
	answers(t, v, who["ben"], id, terms, true)
	if err := v.MayLetGo(ctx); err != nil {
		t.Errorf("two agreed how long things stay: %v", err)
	}
	syncAll(t, v)
	if s := scrub(t, v); len(s.Damage()) > 0 {
		t.Errorf("a scrub finds %+v", s.Damage())
	}
	for name, who := range map[string]vault.Deletions{"the plan says one person": {Authority: authority}, "nobody can be told from another": {}} {
		thief := conf
		thief.Deletions = who
		wantProblem(t, openAll(t, thief).DropNotes(ctx, b.ID, vault.Pin), "vault.needs-two-persons")
		if name == "nobody can be told from another" {
			wantProblem(t, openAll(t, thief).MayLetGo(ctx), "vault.needs-two-persons")
		}
	}
	end := consent.NewDeed(consent.OnePerson, "", []string{"alone"}, nil)
	id = asks(t, v, who["anna"], end, nil)
	answers(t, v, who["ben"], id, end, true)
	one := conf
	one.Deletions.TwoPersons = false
	if err := openAll(t, one).DropNotes(ctx, b.ID, vault.Pin); err != nil {
		t.Errorf("two agreed that one is enough: %v", err)
	}
}

// A copy that is away may hold a refusal: nothing is carried out without it.
func TestARefusalInACopyThatIsAwayCounts(t *testing.T) {
	authority, who := persons(t, "anna", "ben")
	conf, _, away := pair(t)
	conf.Deletions = vault.Deletions{TwoPersons: true, Authority: authority}
	v := createIn(t, place{conf: conf})
	ctx := t.Context()
	b := store(t, v, sample())
	if err := v.PutNote(ctx, vault.Note{Backup: b.ID, Kind: vault.Pin, By: "anna", At: time.Unix(3e9, 0)}); err != nil {
		t.Fatal(err)
	}
	d, err := v.UnpinDeed(ctx, b.ID)
	id := asks(t, v, who["anna"], d, err)
	answers(t, v, who["ben"], id, d, true)
	syncAll(t, v)
	if err := os.Rename(away, away+".gone"); err != nil {
		t.Fatal(err)
	}
	half := conf
	half.Filled, half.Others = true, []vault.Place{{Copy: "away", URL: "file://" + away, Filled: true}}
	if err := openAll(t, half).DropNotes(ctx, b.ID, vault.Pin); err == nil {
		t.Error("the pin was lifted while a copy was away")
	}
	if err := os.Rename(away+".gone", away); err != nil {
		t.Fatal(err)
	}
	if err := openAll(t, half).DropNotes(ctx, b.ID, vault.Pin); err != nil {
		t.Errorf("with every copy: %v", err)
	}
}

// A paper that no copy has whole stops what goes for good, and says so by its name. Two persons may set it aside; then what they
// had agreed to until then is void, for it may have been a refusal of that.
func TestALostPaperIsSetAsideByTwoAndRevivesNothing(t *testing.T) {
	for _, how := range []string{"a flipped bit", "emptied"} {
		t.Run(how, func(t *testing.T) { lostPaper(t, how) })
	}
}

func lostPaper(t *testing.T, how string) {
	authority, who := persons(t, "anna", "ben")
	conf, home, away := pair(t)
	conf.Deletions = vault.Deletions{TwoPersons: true, Authority: authority}
	v := createIn(t, place{conf: conf})
	ctx := t.Context()
	b := store(t, v, sample())
	if err := v.PutNote(ctx, vault.Note{Backup: b.ID, Kind: vault.Pin, By: "anna", At: time.Unix(3e9, 0)}); err != nil {
		t.Fatal(err)
	}
	unpin := func() error { return v.DropNotes(ctx, b.ID, vault.Pin) }
	terms := consent.NewDeed(consent.Retention, "", []string{"records"}, &consent.Terms{Undelete: time.Hour})
	answers(t, v, who["ben"], asks(t, v, who["anna"], terms, nil), terms, true)
	d, err := v.UnpinDeed(ctx, b.ID)
	id := asks(t, v, who["anna"], d, err)
	answers(t, v, who["ben"], id, d, true)
	syncAll(t, v)
	before := files(t, away, "deletions")
	answers(t, v, who["ben"], id, d, false) // he thinks better of it
	wantProblem(t, unpin(), "vault.needs-two-persons")
	syncAll(t, v)
	name := ""
	for _, f := range files(t, away, "deletions") {
		if !slices.Contains(before, f) {
			name = filepath.Join("deletions", filepath.Base(f))
		}
	}

	whole := spoil(t, filepath.Join(home, name), how)
	wantProblem(t, unpin(), "vault.needs-two-persons") // the other copy has it
	spoil(t, filepath.Join(away, name), how)
	wantProblem(t, unpin(), "vault.paper-lost")
	wantProblem(t, v.MayLetGo(ctx), "vault.paper-lost")
	now, err := v.Requested(ctx, time.Now())
	if err != nil || !now.TwoPersons || now.Terms != nil || len(now.Lost) != 1 || now.Lost[0] != name {
		t.Fatalf("requested: %+v, %v", now, err)
	}
	if _, err := v.GiveUp(ctx, []string{name}); err == nil {
		t.Error("one person gave it up")
	}

	d, err = v.SetAsideDeed(ctx)
	id = asks(t, v, who["anna"], d, err)
	wantProblem(t, unpin(), "vault.paper-lost")
	answers(t, v, who["anna"], id, d, true)
	wantProblem(t, unpin(), "vault.paper-lost")
	answers(t, v, who["ben"], id, d, true)
	wantProblem(t, unpin(), "vault.needs-two-persons") // what was refused is not agreed to by that
	wantProblem(t, v.MayLetGo(ctx), "vault.needs-two-persons")
	if _, err := v.GiveUp(ctx, []string{name}); err != nil {
		t.Errorf("two persons set it aside: %v", err)
	}
	wantProblem(t, unpin(), "vault.needs-two-persons")
	// From now on what they agree to counts again; what is asked for at once may have been asked for before, by another clock.
	later := time.Now().Add(10 * time.Minute)
	raw, id, err := who["anna"].Ask(consent.Request{Application: "clinic", Vault: v.Identity().ID, At: later, Deed: terms})
	if err == nil {
		err = v.PutPaper(ctx, raw)
	}
	if err != nil {
		t.Fatal(err)
	}
	raw, err = who["ben"].Answer(consent.Vote{Vault: v.Identity().ID, Request: id, Digest: terms.Digest(), Agree: true, At: later})
	if err == nil {
		err = v.PutPaper(ctx, raw)
	}
	if err != nil {
		t.Fatal(err)
	}
	if now, err = v.Requested(ctx, later); err != nil || now.Terms == nil || len(now.Lost) > 0 {
		t.Errorf("agreed anew: %+v, %v", now, err)
	}
	// Whole again it says what it said.
	if err := os.WriteFile(filepath.Join(home, name), whole, 0o600); err != nil {
		t.Fatal(err)
	}
	wantProblem(t, unpin(), "vault.needs-two-persons")
}

// An old key is retired by two, and the trash is not ended sooner than two agreed, whatever the plan says now.
func TestAnOldKeyAndTheTrashNeedTwoPersons(t *testing.T) {
	authority, who := persons(t, "anna", "ben")
	dir := filepath.Join(t.TempDir(), "vault")
	conf := config(dir)
	conf.Trash = time.Second
	v := createIn(t, place{dir, conf})
	ctx := t.Context()
	log := v.Log(7, 1<<20)
	if err := log.PutSegment(ctx, 1, 0, make([]byte, 1<<20), time.Unix(9, 0)); err != nil {
		t.Fatal(err)
	}
	held, err := log.Held(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := log.Drop(ctx, held, time.Now().Add(time.Hour), nil); err != nil {
		t.Fatal(err)
	}
	two := conf
	two.Deletions = vault.Deletions{TwoPersons: true, Authority: authority}
	strict := openAll(t, two)
	terms := consent.NewDeed(consent.Retention, "", []string{"what is deleted stays for an hour"}, &consent.Terms{Undelete: time.Hour})
	id := asks(t, strict, who["anna"], terms, nil)
	answers(t, strict, who["ben"], id, terms, true)
	for deadline := time.Now().Add(5 * time.Minute); oldest(t, v) < 2*conf.Trash; time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("nothing in the trash grows old")
		}
	}
	if freed, err := strict.Reclaim(ctx, vault.ReclaimOptions{Alone: true}); err != nil || freed.Ended != 0 || countTrash(t, v) != 1 {
		t.Errorf("two agreed to an hour: %+v, %v", freed, err)
	}

	none := two
	none.Trash = -1 // what one person can write into a plan
	none.Deletions.TwoPersons = false
	wantProblem(t, openAll(t, none).MayLetGo(ctx), "vault.needs-two-persons")

	if err := strict.Rotate(ctx, conf.Key, redact.Secret("a fresh key")); err != nil {
		t.Fatal(err)
	}
	fresh := openAll(t, withKey(two, "a fresh key"))
	_, err = fresh.Retire(ctx)
	wantProblem(t, err, "vault.needs-two-persons")
	closed(t, opens(t, conf)) // the old key still opens it
	d, err := fresh.RetireDeed(ctx)
	id = asks(t, fresh, who["ben"], d, err)
	answers(t, fresh, who["anna"], id, d, true)
	if n, err := fresh.Retire(ctx); err != nil || n != len(d.Items) {
		t.Errorf("two agreed to %q: %d, %v", d.Items, n, err)
	}
	_, err = vault.Open(ctx, conf)
	wantProblem(t, err, "vault.wrong-key")
}

// Another authority in the root of whoever runs a command makes no persons, and does not make those of before nobody: nothing goes
// then, also where the note of the vault's own authority is older than the papers by it, or missing.
func TestAnotherAuthorityLetsNothingGo(t *testing.T) {
	authority, who := persons(t, "anna", "ben")
	others, thief := persons(t, "anna", "ben")
	dir := filepath.Join(t.TempDir(), "vault")
	conf := config(dir)
	conf.Deletions = vault.Deletions{TwoPersons: true, Authority: authority}
	v := createIn(t, place{dir, conf})
	ctx := t.Context()
	b := store(t, v, sample())
	for _, kind := range []string{vault.Pin, vault.Hold} {
		if err := v.PutNote(ctx, vault.Note{Backup: b.ID, Kind: kind, By: "anna", At: time.Unix(3e9, 0)}); err != nil {
			t.Fatal(err)
		}
	}
	terms := consent.NewDeed(consent.Retention, "", []string{"records"}, &consent.Terms{Undelete: time.Hour})
	id := asks(t, v, who["anna"], terms, nil)
	answers(t, v, who["ben"], id, terms, true)
	copied := map[string]vault.Deletions{
		"another authority":               {Authority: others},
		"both, the other one first":       {Authority: append(append([]byte{}, others...), authority...)},
		"both, the vault's own one first": {Authority: append(append([]byte{}, authority...), others...)},
	}
	refused := func(without string) {
		t.Helper()
		for name, d := range copied {
			c := conf
			c.Deletions = d
			w := openAll(t, c)
			wantProblem(t, w.DropNotes(ctx, b.ID, vault.Pin), "vault.needs-two-persons")
			if now, err := w.Requested(ctx, time.Now()); err != nil || !now.TwoPersons {
				t.Errorf("%s%s: %+v, %v", name, without, now, err)
			}
		}
		c := conf
		c.Deletions = copied["another authority"]
		wantProblem(t, openAll(t, c).MayLetGo(ctx), "vault.needs-two-persons")
		raw, _, err := thief["anna"].Ask(consent.Request{Application: "clinic", Vault: v.Identity().ID, At: time.Now(), Deed: terms})
		if err == nil {
			err = openAll(t, c).PutPaper(ctx, raw)
		}
		if err == nil {
			t.Error("a request by another authority's person was stored" + without)
		}
	}
	refused("")
	// Two of the other authority's persons, stored with the vault's own in sight, count for nothing and stop nothing.
	id = asks(t, v, thief["anna"], terms, nil)
	answers(t, v, thief["ben"], id, terms, true)
	if now, err := v.Requested(ctx, time.Now()); err != nil || now.Terms == nil || len(now.Cases) != 1 || len(now.Bad) != 2 {
		t.Errorf("papers of strangers: %+v, %v", now, err)
	}
	if err := os.Remove(filepath.Join(dir, "deletions", "authority.aes")); err != nil {
		t.Fatal(err)
	}
	refused(", without the note")
	if now, err := v.Requested(ctx, time.Now()); err != nil || now.Terms != nil || !now.TwoPersons || now.Waits == "" {
		t.Errorf("without the note and with strangers' papers: %+v, %v", now, err)
	}
}
