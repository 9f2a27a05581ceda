package receipt

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// Report is what a number of receipts prove.
type Report struct {
	OK      bool     `json:"ok"` // no fault was found, and there was something to judge
	Trusted bool     `json:"trusted"`
	Chains  []Chain  `json:"chains"`
	Faults  []string `json:"faults,omitempty"` // of all chains, and of what belongs to none
}

// Chain is one signer's receipts.
type Chain struct {
	Chain   string    `json:"chain"`
	Signed  Signed    `json:"signed"` // by its last receipt
	Keys    []string  `json:"keys"`   // that signed it, in order
	First   int64     `json:"first"`
	Last    int64     `json:"last"`
	Count   int       `json:"count"`
	Oldest  time.Time `json:"oldest"`
	Newest  time.Time `json:"newest"`
	Kinds   []string  `json:"kinds"` // how many of which kind and outcome, in words
	Faults  []string  `json:"faults,omitempty"`
	Trusted bool      `json:"trusted"`
	// Noted is the furthest of it that a receipt of another chain names: what is behind could be cut off unseen, so only up to
	// there is it proven that nothing is missing at its end. Zero = none names it.
	Noted   int64  `json:"noted"`
	NotedBy string `json:"noted_by,omitempty"` // the receipt
}

// Verify judges receipts: each signature and who vouches for its key, and each chain: whole from its first on, in order,
// without a fork, and as long as other chains have seen it: an end, or a whole chain, that no other has noted is not missed. alone says that they are single receipts from a chain of which
// the others are elsewhere: then only signatures are judged, and order among what is there. Pure.
func Verify(all []Receipt, t Trust, alone bool) Report {
	r := Report{Trusted: t.given(), Chains: []Chain{}}
	chains := map[string][]Receipt{}
	for _, x := range all {
		chains[x.Chain] = append(chains[x.Chain], x)
	}
	for _, name := range slices.Sorted(maps.Keys(chains)) {
		c := t.chain(name, chains[name], alone)
		if !alone {
			c.Faults = append(c.Faults, cutOff(&c, chains)...)
		}
		r.Trusted = r.Trusted && c.Trusted
		for _, f := range c.Faults {
			r.Faults = append(r.Faults, name+": "+f)
		}
		r.Chains = append(r.Chains, c)
	}
	if !alone {
		r.Faults = append(r.Faults, lostChains(chains)...)
	}
	r.Trusted = r.Trusted && len(all) > 0
	r.OK = len(r.Faults) == 0 && len(all) > 0
	return r
}

// chain judges the receipts of one chain.
func (t Trust) chain(name string, all []Receipt, alone bool) Chain {
	slices.SortFunc(all, func(a, b Receipt) int {
		return cmp.Or(cmp.Compare(a.Sequence, b.Sequence), cmp.Compare(a.Hash, b.Hash))
	})
	var again []int64
	all = slices.CompactFunc(all, func(a, b Receipt) bool {
		if a.Hash == b.Hash {
			again = append(again, a.Sequence)
		}
		return a.Hash == b.Hash
	})
	c := Chain{Chain: name, First: all[0].Sequence, Last: all[len(all)-1].Sequence, Count: len(all), Trusted: true, Oldest: all[0].At, Newest: all[len(all)-1].At}
	fault := func(format string, args ...any) { c.Faults = append(c.Faults, fmt.Sprintf(format, args...)) }
	for _, n := range again {
		fault("%d: it is repeated: it was given more than once, and each sequence is there once (field sequence)", n)
	}
	kinds, announced := map[string]int{}, ""
	retired := map[string]int64{} // former keys, by the first receipt that another one signed
	for i, x := range all {
		signed, err := t.signature(x)
		if err != nil {
			fault("%d: %v", x.Sequence, err)
			signed.Trusted = false
		}
		c.Trusted = c.Trusted && signed.Trusted
		if key := signed.Key; key != "" && (len(c.Keys) == 0 || c.Keys[len(c.Keys)-1] != key) {
			at, former := retired[key]
			switch {
			case former && key != announced:
				fault("%d: signed with key %s, which counts no more since %d (field key)", x.Sequence, key, at)
			case len(c.Keys) > 0 && key != announced && !alone:
				fault("%d: signed with key %s, which the one before never named (field key)", x.Sequence, key)
			}
			if n := len(c.Keys); n > 0 {
				retired[c.Keys[n-1]] = x.Sequence
			}
			c.Keys = append(c.Keys, key)
		}
		c.Signed = signed
		if x.Kind == Key {
			announced = nextKey(x)
		}
		kinds[x.Kind+" "+x.Outcome]++
		before := Receipt{}
		if i > 0 {
			before = all[i-1]
		}
		order(x, before, i == 0, alone, fault)
	}
	for _, k := range slices.Sorted(maps.Keys(kinds)) {
		c.Kinds = append(c.Kinds, fmt.Sprintf("%d %s", kinds[k], k))
	}
	return c
}

// order judges a receipt's place behind the one before it.
func order(x, before Receipt, first, alone bool, fault func(string, ...any)) {
	switch {
	case first && x.Sequence == 1 && x.Previous != "":
		fault("1: it is the first, and names one before it (field previous)")
	case first && x.Sequence > 1 && !alone:
		fault("missing are 1 to %d", x.Sequence-1)
	case first:
	case x.Sequence == before.Sequence:
		fault("%d: forked, there are two of it (%s and %s; field sequence)", x.Sequence, before.Hash[:hashShort], x.Hash[:hashShort])
	case x.Sequence > before.Sequence+1:
		if !alone {
			fault("missing are %d to %d", before.Sequence+1, x.Sequence-1)
		}
	case x.Previous != before.Hash:
		fault("%d: it follows %s, and %s is there: one was exchanged, or they are out of order (field previous)", x.Sequence, short(x.Previous), before.Hash[:hashShort])
	case x.Application != before.Application || x.Vault != before.Vault:
		fault("%d: it is of another application or vault than the one before (fields application, vault)", x.Sequence)
	}
}

func short(hash string) string {
	if hash == "" {
		return "nothing"
	}
	return hash[:min(len(hash), hashShort)]
}

// nextKey is the key that a receipt of the kind Key announces; "" = none.
func nextKey(x Receipt) string {
	if x.Kind != Key {
		return ""
	}
	var d struct {
		Next string `json:"next"`
	}
	if json.Unmarshal(x.Details, &d) != nil {
		return ""
	}
	return d.Next
}

// cutOff says what others saw of a chain that is not there, or is another; each once, with the first who saw it. It notes in c how
// far they saw it.
func cutOff(c *Chain, chains map[string][]Receipt) (faults []string) {
	last, told := Head{}, map[Head]bool{}
	by := ""
	for _, name := range slices.Sorted(maps.Keys(chains)) {
		for _, x := range chains[name] {
			head, ok := x.Seen[c.Chain]
			if !ok {
				continue
			}
			if head.Sequence > last.Sequence {
				last, by = head, x.ID()
			}
			if told[head] {
				continue
			}
			told[head] = true
			if !slices.ContainsFunc(chains[c.Chain], func(o Receipt) bool {
				return o.Sequence == head.Sequence && strings.HasPrefix(o.Hash, head.Hash)
			}) && head.Sequence <= c.Last {
				faults = append(faults, fmt.Sprintf("%d: %s saw another one (%s)", head.Sequence, x.ID(), head.Hash))
			}
		}
	}
	c.Noted, c.NotedBy = last.Sequence, by
	if last.Sequence > c.Last {
		faults = append(faults, fmt.Sprintf("missing at the end are %d to %d: %s saw them", c.Last+1, last.Sequence, by))
	}
	return faults
}

// lostChains are chains of which nothing is there, and that others saw.
func lostChains(chains map[string][]Receipt) (faults []string) {
	lost := map[string]string{}
	for _, all := range chains {
		for _, x := range all {
			for name, head := range x.Seen {
				if _, there := chains[name]; !there {
					lost[name] = fmt.Sprintf("%s: missing altogether, %s saw %d of it", name, x.ID(), head.Sequence)
				}
			}
		}
	}
	return slices.Sorted(maps.Values(lost))
}
