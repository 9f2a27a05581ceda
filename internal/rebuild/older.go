package rebuild

import (
	"cmp"
	"fmt"
	"strings"

	"holdfast/internal/database"
)

// Older says that a database's record is from before an epoch that somebody who is left has heard of: an old backup
// of etcd, or a saving from before the last failover.
type Older struct {
	Epoch int64    `json:"epoch"` // the highest that anybody who is left has heard of
	Told  string   `json:"told"`  // by whom, in words
	Means string   `json:"means"` // in words: what may be lost
	Do    []string `json:"do"`    // in order
}

// word is what one source tells of how far a database had got.
type word struct {
	epoch, generation int64
	told              string
}

// olderThan compares the record that the new cluster begins with to everything else that was found; nil = nothing
// tells of a later one. Within one epoch that had its primary already only voters change: every commit is the same one's.
func (f Found) olderThan(name string, r database.Record) *Older {
	last := word{epoch: r.Epoch, generation: r.Generation}
	for _, w := range f.words(name) {
		if cmp.Or(cmp.Compare(w.epoch, last.epoch), cmp.Compare(w.generation, last.generation)) > 0 {
			last = w
		}
	}
	unmade := r.Phase == database.Recruiting || r.Phase == database.Promoting
	if r.Phase == database.Creating || last.told == "" || last.epoch == r.Epoch && !unmade {
		return nil
	}
	lost := f.lost()
	return &Older{
		Epoch: last.epoch, Told: last.told,
		Means: fmt.Sprintf("another host may have been the primary %s, and commits that were acknowledged then may be on %s alone", since(r, last.epoch), lost),
		Do: append([]string{
			"look for a newer agreed state first: holdfast cluster recover --dry-run on each host whose disk is left, and etcd's newest data put back there if there are any",
			"bring " + lost + " back with their disks if that can be: they may hold those commits",
		}, f.without(name, r)...),
	}
}

// words are all that was found of one database beside the record it begins with; that one is no later than itself.
func (f Found) words(name string) []word {
	var out []word
	promises := func(list []Promise, form string) {
		for _, x := range list {
			if x.Database == name {
				out = append(out, word{x.Promise.Epoch, x.Promise.Generation, fmt.Sprintf(form, x.Host)})
			}
		}
	}
	promises(f.Promises, "%s's own server promised it")
	promises(promisesOf(f.Saved), "%s had promised it, says the saving in a vault")
	record := func(s *State, told string) {
		if r, ok := recordsOf(s)[name]; ok {
			out = append(out, word{r.Epoch, r.Generation, told})
		}
	}
	record(f.Own, "the agreed state on "+f.Survivor+"'s own disk has it")
	record(f.Saved, "the saving in a vault has it")
	return out
}

func since(r database.Record, last int64) string {
	switch {
	case last <= r.Epoch:
		return fmt.Sprintf("of epoch %d since", r.Epoch)
	case last == r.Epoch+1:
		return fmt.Sprintf("of epoch %d", last)
	default:
		return fmt.Sprintf("of epochs %d to %d", r.Epoch+1, last)
	}
}

// without says what becomes of the survivor's copy when those commits are given up.
func (f Found) without(name string, r database.Record) []string {
	made := f.incarnation(name)
	switch {
	case !r.Holds(f.Survivor) || made == "":
		return nil
	case r.Primary != f.Survivor:
		return []string{fmt.Sprintf("%s's copy serves after a forced failover only if its log took no timeline that this record does not know; else it is refused (\"went another way\"), and the database comes from its vault: holdfast restore database %s", f.Survivor, name)}
	case made != r.Incarnation:
		return []string{fmt.Sprintf("%s's copy was made anew after it had been the primary, so it does not come back by itself, nor by force: the database comes from its vault: holdfast restore database %s", f.Survivor, name)}
	default:
		return []string{fmt.Sprintf("take no standby in before you have decided: %s opens by itself %s, and what only %s hold is not in it then", f.Survivor, standbys(r.W), f.lost())}
	}
}

// incarnation is that of the survivor's own copy; "" = it has none.
func (f Found) incarnation(name string) string {
	for _, p := range f.Promises {
		if p.Database == name && p.Host == f.Survivor {
			return p.Promise.Incarnation
		}
	}
	return ""
}

// lost names the hosts that are written off.
func (f Found) lost() string {
	var out []string
	for _, h := range f.Hosts {
		if h != f.Survivor {
			out = append(out, h)
		}
	}
	if len(out) == 0 {
		return "other hosts"
	}
	return strings.Join(out, " and ")
}
