// Package consent judges whether two persons agreed that something of a vault may go for good. One asks, naming to the last
// object what goes; another one answers within a day; both sign with the key of the certificate that they have from the
// application's authority, so that no host can ask or agree. Start at [Person.Ask] and [Judge], which is pure: who deletes
// carries out a [Deed] that it was given leave for, or nothing.
package consent

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"time"
)

const (
	// AskFor is how long after it was asked another person may agree.
	AskFor = 24 * time.Hour
	// ActFor is how long after it was agreed to it may be carried out.
	ActFor = 24 * time.Hour
	// skewMax is by how much two persons' clocks, and that of whoever deletes, may differ.
	skewMax = 5 * time.Minute
)

// The kinds of what two persons must agree to.
const (
	Unpin     = "unpin"      // a pin is taken off a backup: retention may let it go
	Release   = "release"    // a legal hold is lifted
	RetireKey = "retire-key" // earlier keys open the vault no more
	Retention = "retention"  // from now on the vault keeps things for as long as [Terms] say, and not longer
	OnePerson = "one-person" // from now on nobody is asked any more
	SetAside  = "set-aside"  // papers that no copy has whole are not waited for any more
)

// Deed is what goes, to the last name.
type Deed struct {
	Kind    string   `json:"kind"`
	Subject string   `json:"subject,omitempty"` // a backup's id; "" = the vault
	Items   []string `json:"items"`             // what goes, each named so that it is no other: sorted, none twice
	Terms   *Terms   `json:"terms,omitempty"`   // of the kind Retention alone
}

// NewDeed puts the items in order.
func NewDeed(kind, subject string, items []string, terms *Terms) Deed {
	items = slices.Compact(slices.Sorted(slices.Values(items)))
	return Deed{Kind: kind, Subject: subject, Items: append([]string{}, items...), Terms: terms}
}

// Digest is the same for two deeds that take away the same, and for no others.
func (d Deed) Digest() string {
	raw, err := json.Marshal(d)
	if err != nil {
		return "" // strings and numbers can be written; and no deed has this digest
	}
	sum := sha256.Sum256(raw)
	return hex.EncodeToString(sum[:])
}

// Terms say how long things stay at least.
type Terms struct {
	Undelete time.Duration                       `json:"undelete"` // how long what is deleted can be brought back
	Keeps    map[string]map[string]time.Duration `json:"keeps"`    // of each database, by the plan's names of the tiers
}

// Request is what one person asks for.
type Request struct {
	Format      int       `json:"format"` // 1
	Application string    `json:"application"`
	Vault       string    `json:"vault"` // its identifier
	At          time.Time `json:"at"`    // by the asker's clock
	By          string    `json:"by"`
	Reason      string    `json:"reason,omitempty"`
	Deed        Deed      `json:"deed"`
}

// Vote is another one's answer, or the asker's own refusal.
type Vote struct {
	Format  int       `json:"format"`
	Vault   string    `json:"vault"`
	Request string    `json:"request"` // SHA-256 of what the asker signed
	Digest  string    `json:"digest"`  // of the deed, as whoever answers saw it
	Agree   bool      `json:"agree"`
	At      time.Time `json:"at"`
	By      string    `json:"by"`
	Reason  string    `json:"reason,omitempty"`
}

// The states of a request.
const (
	Open    = "open"
	Agreed  = "agreed"
	Refused = "refused"
	Over    = "over" // nobody agreed in time, or nobody carried it out in time
	Void    = "void" // asked for before papers were set aside: one of those may have been its refusal
)

// Case is a request and what became of it.
type Case struct {
	ID string `json:"id"` // SHA-256 of what was signed
	Request
	Digest  string    `json:"digest"`
	State   string    `json:"state"`
	Until   time.Time `json:"until,omitzero"`    // when that is over; zero = it stands
	Second  string    `json:"second,omitempty"`  // who agreed or refused
	Agreed  time.Time `json:"agreed,omitzero"`   // when another one did, refused since or not
	Why     string    `json:"why,omitempty"`     // the second one's reason
	Ignored []string  `json:"ignored,omitempty"` // answers that do not count, and why
	key     string    // of whoever asked
}

// stands reports whether a kind counts from its agreement on until another takes its place.
func stands(kind string) bool { return kind == Retention || kind == OnePerson }

// Trust is whose certificates are persons'.
type Trust struct {
	Authority   []byte // certificates of authorities, PEM
	Application string
	Vault       string // its identifier
}

// Judge reads papers, and says of each request how it stands, the newest first. What is no request or answer to one, or is not
// signed by a person, is told in bad and counts for nothing. Pure.
func Judge(papers [][]byte, t Trust, now time.Time) (cases []Case, bad []string) {
	type signedVote struct {
		Vote
		key string
	}
	votes := map[string][]signedVote{}
	seen := map[string]bool{}
	for _, raw := range papers {
		p, err := t.open(raw)
		switch {
		case err != nil:
			bad = append(bad, err.Error())
		case seen[p.hash]:
		case p.request != nil:
			if err := p.request.check(t, p.person, now); err != nil {
				bad = append(bad, err.Error())
				continue
			}
			cases = append(cases, Case{ID: p.hash, Request: *p.request, Digest: p.request.Deed.Digest(), key: p.key})
			seen[p.hash] = true
		default:
			votes[p.vote.Request] = append(votes[p.vote.Request], signedVote{*p.vote, p.key})
			seen[p.hash] = true
		}
	}
	slices.SortFunc(cases, func(a, b Case) int { return cmp.Or(b.At.Compare(a.At), cmp.Compare(a.ID, b.ID)) })
	for i := range cases {
		c := &cases[i]
		all := votes[c.ID]
		slices.SortFunc(all, func(a, b signedVote) int { return cmp.Or(a.At.Compare(b.At), cmp.Compare(a.By, b.By)) })
		for _, v := range all {
			if err := c.take(v.Vote, v.key, t, now); err != nil {
				c.Ignored = append(c.Ignored, err.Error())
			}
		}
		c.settle(now)
	}
	slices.Sort(bad)
	return cases, bad
}

// check refuses a request that is not what it should be.
func (r Request) check(t Trust, by person, now time.Time) error {
	switch {
	case r.Format != 1 || r.Deed.Kind == "":
		return fmt.Errorf("a request of %s is of another version", by.name)
	case r.Vault != t.Vault || r.Application != t.Application:
		return fmt.Errorf("a request of %s is about another vault", by.name)
	case r.By != by.name:
		return fmt.Errorf("a request that says it is of %s was signed by %s", r.By, by.name)
	case r.At.After(now.Add(skewMax)):
		return fmt.Errorf("a request of %s is of the future", by.name)
	case !slices.IsSorted(r.Deed.Items) || (r.Deed.Terms != nil) != (r.Deed.Kind == Retention):
		return fmt.Errorf("a request of %s does not say in order what goes", by.name)
	}
	return nil
}

// take counts one answer. Whoever refuses is heard whenever that is; who asked cannot agree.
func (c *Case) take(v Vote, key string, t Trust, now time.Time) error {
	switch {
	case v.Format != 1 || v.Vault != t.Vault || v.Digest != c.Digest:
		return fmt.Errorf("an answer of %s is about something else", v.By)
	case !v.Agree:
		if c.State != Refused {
			c.State, c.Second, c.Why = Refused, v.By, v.Reason
		}
		return nil
	case v.By == c.By || key == c.key:
		return fmt.Errorf("%s agreed to what %s asked for, and is the same person", v.By, c.By)
	case v.At.Before(c.At.Add(-skewMax)), v.At.After(now.Add(skewMax)):
		return fmt.Errorf("%s agreed at a moment that cannot be: %s", v.By, v.At.UTC().Format(time.RFC3339))
	case v.At.After(c.At.Add(AskFor)):
		return fmt.Errorf("%s agreed more than %s after it was asked", v.By, AskFor)
	case !c.Agreed.IsZero():
		return nil
	}
	c.Agreed = v.At
	if c.State == "" {
		c.State, c.Second, c.Why = Agreed, v.By, v.Reason
	}
	return nil
}

// settle says until when it is so.
func (c *Case) settle(now time.Time) {
	switch c.State {
	case "":
		c.State, c.Until = Open, c.At.Add(AskFor)
	case Agreed:
		if stands(c.Deed.Kind) || c.Deed.Kind == SetAside {
			return
		}
		c.Until = c.Agreed.Add(ActFor)
	default:
		return
	}
	if !now.Before(c.Until) {
		c.State = Over
	}
}

// Without judges what papers that nobody can read leave of the cases. Each may have been a refusal, or what two persons last
// agreed to. left are those that stop everything: of the others two persons agreed, by name, that they are not waited for. And
// as such a one may have refused whatever was asked for until then, all of that is void, for good, also when somebody takes
// the setting aside back: nothing that may have been refused counts again, and two persons agree anew. Pure.
func Without(cases []Case, unreadable []string) (left []string) {
	var until time.Time
	aside := map[string]bool{}
	for _, c := range cases {
		if c.Deed.Kind != SetAside || c.Agreed.IsZero() {
			continue
		}
		for _, at := range []time.Time{c.At, c.Agreed} { // by two persons' clocks
			if at = at.Add(skewMax); at.After(until) {
				until = at
			}
		}
		for _, name := range c.Deed.Items {
			aside[name] = aside[name] || c.State == Agreed
		}
	}
	for i := range cases {
		c := &cases[i]
		if c.Deed.Kind == SetAside || c.At.After(until) || c.State != Open && c.State != Agreed {
			continue
		}
		c.State, c.Until = Void, time.Time{}
		c.Ignored = append(c.Ignored, fmt.Sprintf("what two persons set aside may have been a refusal of it: what is asked for after %s counts", until.UTC().Format(time.RFC3339)))
	}
	for _, name := range unreadable {
		if !aside[name] {
			left = append(left, name)
		}
	}
	return left
}

// Leave finds the request by which two persons agreed to exactly this deed, and which may be carried out now.
func Leave(cases []Case, d Deed) (Case, bool) {
	i := slices.IndexFunc(cases, func(c Case) bool { return c.State == Agreed && c.Digest == d.Digest() })
	if i < 0 {
		return Case{}, false
	}
	return cases[i], true
}

// Standing is what two persons last agreed to of what stands: terms of retention, or that one person is enough. on is false
// when they never agreed to either, or to the latter last. One that somebody takes back after it was agreed to leaves nothing
// in its place: then terms are nil, and nothing may go until two agree anew. So nobody brings back earlier terms alone. The same
// is so of what is void, and where papers were set aside: one of them may have been the agreement.
func Standing(cases []Case) (terms *Terms, on bool) {
	var last *Case
	anew := false
	for i, c := range cases {
		if c.State == Void && stands(c.Deed.Kind) || c.Deed.Kind == SetAside && !c.Agreed.IsZero() {
			anew = true
			continue
		}
		if stands(c.Deed.Kind) && !c.Agreed.IsZero() && (last == nil || c.Agreed.After(last.Agreed)) {
			last = &cases[i]
		}
	}
	switch {
	case last == nil:
		return nil, anew
	case last.State == Refused:
		return nil, true
	}
	return last.Deed.Terms, last.Deed.Kind == Retention
}
