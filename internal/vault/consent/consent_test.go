package consent_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"holdfast/internal/auth"
	"holdfast/internal/vault/consent"
)

// town issues certificates of one application.
type town struct {
	t     *testing.T
	ca    *auth.Authority
	trust consent.Trust
}

func newTown(t *testing.T, application string) town {
	t.Helper()
	dir := t.TempDir()
	ca, err := auth.CreateAuthority(dir, application)
	if err != nil {
		t.Fatal(err)
	}
	public, err := os.ReadFile(filepath.Join(dir, auth.CACertFile))
	if err != nil {
		t.Fatal(err)
	}
	return town{t, ca, consent.Trust{Authority: public, Application: application, Vault: "v1"}}
}

func (w town) person(name string) consent.Person {
	w.t.Helper()
	p, err := w.load(name, auth.Admin)
	if err != nil {
		w.t.Fatal(err)
	}
	return p
}

func (w town) load(name string, role auth.Role) (consent.Person, error) {
	w.t.Helper()
	c, err := w.ca.Issue(auth.HostCert{Name: name, Role: role})
	if err != nil {
		w.t.Fatal(err)
	}
	return consent.LoadPerson(c.Cert, c.Key)
}

// papers are what lies in a vault.
type papers struct {
	t   *testing.T
	all [][]byte
}

func (p *papers) ask(by consent.Person, at time.Time, d consent.Deed) consent.Case {
	p.t.Helper()
	raw, id, err := by.Ask(consent.Request{Application: "clinic", Vault: "v1", At: at, Deed: d})
	if err != nil {
		p.t.Fatal(err)
	}
	p.all = append(p.all, raw)
	return consent.Case{ID: id, Digest: d.Digest()}
}

func (p *papers) answer(by consent.Person, at time.Time, c consent.Case, agree bool) {
	p.t.Helper()
	p.vote(by, consent.Vote{Vault: "v1", Request: c.ID, Digest: c.Digest, Agree: agree, At: at})
}

func (p *papers) vote(by consent.Person, v consent.Vote) {
	p.t.Helper()
	raw, err := by.Answer(v)
	if err != nil {
		p.t.Fatal(err)
	}
	p.all = append(p.all, raw)
}

var unpin = consent.NewDeed(consent.Unpin, "b1", []string{"pin on b1, put by op at 2026-11-21T01:00:00Z: "}, nil)

func retention(weeks int) consent.Deed {
	return consent.NewDeed(consent.Retention, "", []string{"records: weekly"}, &consent.Terms{Keeps: map[string]map[string]time.Duration{"records": {"weekly": time.Duration(weeks) * 7 * 24 * time.Hour}}})
}

func TestTwoPersonsAgree(t *testing.T) {
	w, other := newTown(t, "clinic"), newTown(t, "clinic")
	anna, ben, carl := w.person("anna"), w.person("ben"), w.person("carl")
	annaAgain, stranger := w.person("anna"), other.person("ben")
	at := time.Now()
	hour := func(n int) time.Time { return at.Add(time.Duration(n) * time.Hour) }
	for name, c := range map[string]struct {
		do    func(p *papers)
		now   time.Time
		state string
		leave bool
	}{
		"one asks and another agrees":                    {func(p *papers) { p.answer(ben, hour(1), p.ask(anna, at, unpin), true) }, hour(2), consent.Agreed, true},
		"one asks and nobody answers":                    {func(p *papers) { p.ask(anna, at, unpin) }, hour(2), consent.Open, false},
		"nobody answers within a day":                    {func(p *papers) { p.ask(anna, at, unpin) }, hour(25), consent.Over, false},
		"whoever asked agrees":                           {func(p *papers) { p.answer(anna, hour(1), p.ask(anna, at, unpin), true) }, hour(2), consent.Open, false},
		"whoever asked agrees with a second certificate": {func(p *papers) { p.answer(annaAgain, hour(1), p.ask(anna, at, unpin), true) }, hour(2), consent.Open, false},
		"another authority's person agrees":              {func(p *papers) { p.answer(stranger, hour(1), p.ask(anna, at, unpin), true) }, hour(2), consent.Open, false},
		"another agrees after a day":                     {func(p *papers) { p.answer(ben, hour(25), p.ask(anna, at, unpin), true) }, hour(26), consent.Over, false},
		"another agreed before it was asked":             {func(p *papers) { p.answer(ben, hour(-1), p.ask(anna, at, unpin), true) }, hour(1), consent.Open, false},
		"another agrees in the future":                   {func(p *papers) { p.answer(ben, hour(3), p.ask(anna, at, unpin), true) }, hour(1), consent.Open, false},
		"it was not carried out within a day":            {func(p *papers) { p.answer(ben, hour(1), p.ask(anna, at, unpin), true) }, hour(26), consent.Over, false},
		"another refuses":                                {func(p *papers) { p.answer(ben, hour(1), p.ask(anna, at, unpin), false) }, hour(2), consent.Refused, false},
		"one refuses after another agreed": {func(p *papers) {
			q := p.ask(anna, at, unpin)
			p.answer(ben, hour(1), q, true)
			p.answer(carl, hour(2), q, false)
		}, hour(3), consent.Refused, false},
		"whoever asked takes it back, and another agrees": {func(p *papers) {
			q := p.ask(anna, at, unpin)
			p.answer(anna, hour(1), q, false)
			p.answer(ben, hour(2), q, true)
		}, hour(3), consent.Refused, false},
		"another agrees to something else": {func(p *papers) {
			q := p.ask(anna, at, unpin)
			p.vote(ben, consent.Vote{Vault: "v1", Request: q.ID, Digest: retention(1).Digest(), Agree: true, At: hour(1)})
		}, hour(2), consent.Open, false},
		"another agrees in another vault": {func(p *papers) {
			q := p.ask(anna, at, unpin)
			p.vote(ben, consent.Vote{Vault: "v2", Request: q.ID, Digest: q.Digest, Agree: true, At: hour(1)})
		}, hour(2), consent.Open, false},
		"two agree, of whom one may not": {func(p *papers) {
			q := p.ask(anna, at, unpin)
			p.answer(annaAgain, hour(1), q, true)
			p.answer(ben, hour(2), q, true)
		}, hour(3), consent.Agreed, true},
	} {
		t.Run(name, func(t *testing.T) {
			p := &papers{t: t}
			c.do(p)
			cases, _ := consent.Judge(p.all, w.trust, c.now)
			if len(cases) != 1 || cases[0].State != c.state {
				t.Fatalf("got %+v, want one that is %s", cases, c.state)
			}
			if _, ok := consent.Leave(cases, unpin); ok != c.leave {
				t.Errorf("leave %v, want %v", ok, c.leave)
			}
		})
	}
}

// Leave is for exactly what was named: another pin on the same backup, one thing more, one thing less are something else.
func TestLeaveIsForExactlyWhatWasNamed(t *testing.T) {
	w := newTown(t, "clinic")
	p, at := &papers{t: t}, time.Now()
	both := consent.NewDeed(consent.RetireKey, "", []string{"key/1", "key/2"}, nil)
	p.answer(w.person("ben"), at, p.ask(w.person("anna"), at, both), true)
	cases, _ := consent.Judge(p.all, w.trust, at)
	for name, d := range map[string]consent.Deed{
		"one less":     consent.NewDeed(consent.RetireKey, "", []string{"key/1"}, nil),
		"one more":     consent.NewDeed(consent.RetireKey, "", []string{"key/1", "key/2", "key/3"}, nil),
		"another kind": consent.NewDeed(consent.Unpin, "", []string{"key/1", "key/2"}, nil),
		"another one":  consent.NewDeed(consent.RetireKey, "other", []string{"key/1", "key/2"}, nil),
	} {
		if _, ok := consent.Leave(cases, d); ok {
			t.Errorf("%s was given leave", name)
		}
	}
	if _, ok := consent.Leave(cases, consent.NewDeed(consent.RetireKey, "", []string{"key/2", "key/1", "key/2"}, nil)); !ok {
		t.Error("the same in another order was not given leave")
	}
}

// A paper that was changed, is signed by a host, by the machine's shared certificate or in another's name counts for nothing,
// and does not hide the real one.
func TestPapersOfNobodyCountForNothing(t *testing.T) {
	w := newTown(t, "clinic")
	for name, role := range map[string]auth.Role{"h1": auth.Host, "operator": auth.Admin, "Anna": auth.Admin, "anna ": auth.Admin} {
		if _, err := w.load(name, role); err == nil {
			t.Errorf("%q of role %s signs as a person", name, role)
		}
	}
	p, at := &papers{t: t}, time.Now()
	anna, ben := w.person("anna"), w.person("ben")
	q := p.ask(anna, at, unpin)
	real := p.all[0]
	for i := range real {
		if i%97 != 0 {
			continue
		}
		forged := append([]byte{}, real...)
		forged[i] ^= 1
		cases, _ := consent.Judge([][]byte{forged}, w.trust, at)
		if len(cases) == 1 && cases[0].ID != q.ID {
			t.Fatalf("byte %d was changed, and it counts as %+v", i, cases[0])
		}
	}
	other := newTown(t, "clinic")
	foreign, _, err := other.person("anna").Ask(consent.Request{Application: "clinic", Vault: "v1", At: at, Deed: unpin})
	if err != nil {
		t.Fatal(err)
	}
	cases, bad := consent.Judge([][]byte{foreign, []byte("{}"), []byte("x"), real}, w.trust, at)
	if len(cases) != 1 || cases[0].ID != q.ID || len(bad) != 3 {
		t.Errorf("got %+v, bad %q", cases, bad)
	}
	p.answer(ben, at, q, true)
	for name, trust := range map[string]consent.Trust{
		"no authority":        {Application: "clinic", Vault: "v1"},
		"another authority":   {Authority: other.trust.Authority, Application: "clinic", Vault: "v1"},
		"another vault":       {Authority: w.trust.Authority, Application: "clinic", Vault: "v2"},
		"another application": {Authority: w.trust.Authority, Application: "shop", Vault: "v1"},
	} {
		if cases, bad := consent.Judge(p.all, trust, at); len(cases) != 0 || len(bad) == 0 {
			t.Errorf("%s: got %+v, %q", name, cases, bad)
		}
	}
}

// What stands is what two persons agreed to last. Nobody alone ends it or brings earlier terms back.
func TestWhatStandsIsWhatTwoPersonsAgreedToLast(t *testing.T) {
	w := newTown(t, "clinic")
	anna, ben := w.person("anna"), w.person("ben")
	at := time.Now()
	hour := func(n int) time.Time { return at.Add(time.Duration(n) * time.Hour) }
	end := consent.NewDeed(consent.OnePerson, "", []string{"alone"}, nil)
	p := &papers{t: t}
	standing := func(step string, wantOn bool, weeks int) {
		t.Helper()
		cases, bad := consent.Judge(p.all, w.trust, hour(1000))
		terms, on := consent.Standing(cases)
		got := 0
		if terms != nil {
			got = int(terms.Keeps["records"]["weekly"] / (7 * 24 * time.Hour))
		}
		if on != wantOn || got != weeks || len(bad) > 0 {
			t.Errorf("%s: on %v with %d weeks, want %v with %d; %q", step, on, got, wantOn, weeks, bad)
		}
	}
	standing("nothing", false, 0)
	p.ask(anna, hour(1), retention(1))
	standing("one person asked", false, 0)
	p.answer(ben, hour(3), p.ask(anna, hour(2), retention(4)), true)
	standing("two agreed to four weeks", true, 4)
	last := p.ask(ben, hour(10), retention(2))
	standing("one wants two weeks", true, 4)
	p.answer(anna, hour(11), last, true)
	standing("two agreed to two weeks", true, 2)
	over := p.ask(anna, hour(20), end)
	standing("one wants to be alone", true, 2)
	before := len(p.all)
	p.answer(ben, hour(21), over, true)
	standing("two agreed that one is enough", false, 0)
	p.all = p.all[:before]
	p.answer(anna, hour(30), last, false)
	standing("one takes back what two agreed to: nothing goes, and four weeks do not come back", true, 0)
}

// Whatever a lost paper was, setting it aside brings nothing back that it may have refused or ended.
func TestWhatALostPaperMayHaveRefusedNeverCountsAgain(t *testing.T) {
	w := newTown(t, "clinic")
	anna, ben, carol := w.person("anna"), w.person("ben"), w.person("carol")
	begin := time.Now().Add(time.Hour)
	at := func(minutes int) time.Time { return begin.Add(time.Duration(minutes) * time.Minute) }
	aside := func(names ...string) consent.Deed { return consent.NewDeed(consent.SetAside, "", names, nil) }
	one := consent.NewDeed(consent.OnePerson, "", []string{"one is enough"}, nil)
	for name, c := range map[string]struct {
		papers func(p *papers)
		lost   []string
		left   int
		leave  bool // the pin may be taken off
		on     bool // two persons are needed
		terms  bool // and agreed how long things stay
	}{
		"nothing is lost": {func(p *papers) {
			p.answer(ben, at(3), p.ask(anna, at(1), retention(4)), true)
			p.answer(ben, at(3), p.ask(anna, at(2), unpin), true)
		}, nil, 0, true, true, true},
		"one is lost": {func(p *papers) {
			p.answer(ben, at(3), p.ask(anna, at(2), unpin), true)
		}, []string{"x"}, 1, true, false, false}, // the vault stops all as long as one is left
		"one person wants to set it aside": {func(p *papers) {
			p.answer(ben, at(3), p.ask(anna, at(2), unpin), true)
			p.ask(anna, at(10), aside("x"))
		}, []string{"x"}, 1, true, false, false},
		"two set it aside: what was agreed to before is void, terms too": {func(p *papers) {
			p.answer(ben, at(3), p.ask(anna, at(1), retention(4)), true)
			p.answer(ben, at(3), p.ask(anna, at(2), unpin), true)
			p.answer(ben, at(11), p.ask(anna, at(10), aside("x")), true)
		}, []string{"x"}, 0, false, true, false},
		"another one is lost besides": {func(p *papers) {
			p.answer(ben, at(11), p.ask(anna, at(10), aside("x")), true)
		}, []string{"x", "y"}, 1, false, true, false},
		"what is agreed to before, and what within five minutes after it, is void by anybody's clock": {func(p *papers) {
			p.answer(ben, at(11), p.ask(anna, at(10), aside("x")), true)
			p.answer(ben, at(13), p.ask(anna, at(12), unpin), true)
		}, []string{"x"}, 0, false, true, false},
		"what is asked for later counts": {func(p *papers) {
			p.answer(ben, at(11), p.ask(anna, at(10), aside("x")), true)
			p.answer(ben, at(21), p.ask(anna, at(20), unpin), true)
			p.answer(ben, at(21), p.ask(carol, at(20), retention(2)), true)
		}, []string{"x"}, 0, true, true, true},
		"an answer from later to a request from before does not end what was agreed to anew": {func(p *papers) {
			old := p.ask(carol, at(1), one)
			p.answer(ben, at(11), p.ask(anna, at(10), aside("x")), true)
			p.answer(ben, at(21), p.ask(anna, at(20), retention(2)), true)
			p.answer(anna, at(30), old, true)
		}, []string{"x"}, 0, false, true, true},
		"the lost one may have said that two are needed; that one is enough is agreed to anew": {func(p *papers) {
			p.answer(ben, at(2), p.ask(anna, at(1), one), true)
			p.answer(ben, at(11), p.ask(anna, at(10), aside("x")), true)
		}, []string{"x"}, 0, false, true, false},
		"and then it is": {func(p *papers) {
			p.answer(ben, at(11), p.ask(anna, at(10), aside("x")), true)
			p.answer(ben, at(21), p.ask(anna, at(20), one), true)
		}, []string{"x"}, 0, false, false, false},
		"who takes the setting aside back brings nothing back, also when the lost one's remains were deleted": {func(p *papers) {
			p.answer(ben, at(3), p.ask(anna, at(2), unpin), true)
			c := p.ask(anna, at(10), aside("x"))
			p.answer(ben, at(11), c, true)
			p.answer(ben, at(12), c, false)
		}, nil, 0, false, true, false},
		"and where they lie there it is waited for again": {func(p *papers) {
			c := p.ask(anna, at(10), aside("x"))
			p.answer(ben, at(11), c, true)
			p.answer(ben, at(12), c, false)
		}, []string{"x"}, 1, false, true, false},
		"it stands, however long ago it was agreed to": {func(p *papers) {
			p.answer(ben, at(-20), p.ask(anna, at(-30), aside("x")), true)
			p.answer(ben, at(3000), p.ask(anna, at(2990), unpin), true)
		}, []string{"x"}, 0, true, true, false},
	} {
		t.Run(name, func(t *testing.T) {
			p := &papers{t: t}
			c.papers(p)
			now := at(60)
			if strings.HasPrefix(name, "it stands") {
				now = at(3010) // more than two days later
			}
			cases, bad := consent.Judge(p.all, w.trust, now)
			left := consent.Without(cases, c.lost)
			_, leave := consent.Leave(cases, unpin)
			terms, on := consent.Standing(cases)
			if len(bad) > 0 || len(left) != c.left || leave != c.leave || on != c.on || (terms != nil) != c.terms {
				t.Errorf("left %q, leave %v, on %v, terms %v, bad %q; cases %+v", left, leave, on, terms, bad, cases)
			}
		})
	}
}

func TestADigestIsOfWhatGoes(t *testing.T) {
	seen := map[string]string{}
	for name, d := range map[string]consent.Deed{
		"unpin": unpin, "four weeks": retention(4), "two weeks": retention(2), "nothing": consent.NewDeed(consent.Unpin, "b1", nil, nil),
		"joined": consent.NewDeed(consent.Unpin, "b1", []string{"a,b"}, nil), "apart": consent.NewDeed(consent.Unpin, "b1", []string{"a", "b"}, nil),
	} {
		if other, twice := seen[d.Digest()]; twice || len(d.Digest()) != 64 || strings.Trim(d.Digest(), "0123456789abcdef") != "" {
			t.Errorf("%s and %s have the digest %q", name, other, d.Digest())
		}
		seen[d.Digest()] = name
	}
}
