// Package kernelpath spares the processes of a host the way through the gate: a rule in the kernel leads new connections
// to a database's listener straight to the primary's server, and no process is in their path. The gate goes on listening
// on that address and port, so taking the rule away is all it takes to go through the gate again.
//
// Start at [Path]. table.go has our one table of rules and its transactions, rule.go the rule itself, sockets.go and
// conntrack.go end connections that a rule led, probe.go says whether this host can do all of that. Only a gate uses a
// Path, under its own lock and by its own judgement of epochs; the table's tag refuses once more.
//
// A rule reaches only what this host's own processes send, in the gate's network namespace. Containers and other machines
// come through the gate. Nothing but our own table is changed: no setting of the kernel, no rule of others.
package kernelpath

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/mdlayher/netlink"
)

// Config says whose connections are led.
type Config struct {
	Application string // with Host and Database it names the table
	Host        string
	Database    string
	Listen      []netip.AddrPort // where clients connect: this host's own addresses, never loopback
	Left        []netip.AddrPort // where clients connected once: led no more, but their connections may live
	Peers       []netip.Addr     // the database's hosts, which also talk to its servers as servers
}

// Path is the short way of one database on one host.
type Path struct {
	cfg   Config
	table string
}

// StaleError refuses a change because the table follows a higher order.
type StaleError struct{ Have, Want Tag }

func (e *StaleError) Error() string {
	return fmt.Sprintf("epoch %d generation %d is behind the rules' epoch %d generation %d",
		e.Want.Epoch, e.Want.Generation, e.Have.Epoch, e.Have.Generation)
}

// Open probes whether this host can do what a path needs. The error says what it cannot.
func Open(cfg Config) (*Path, error) {
	p := &Path{cfg: cfg, table: tablePrefix(cfg.Application, cfg.Host) + cfg.Database}
	if err := p.probe(); err != nil {
		return nil, err
	}
	return p, nil
}

// Now reads what the table says; ok is false when there is none. One of our name that is not ours is an error.
func (p *Path) Now() (tag Tag, ok bool, err error) {
	all, err := tables()
	if err != nil {
		return Tag{}, false, err
	}
	for _, t := range all {
		if t.name == p.table {
			tag, _, err = parseComment(t.comment)
			if err != nil {
				return Tag{}, false, fmt.Errorf("read table %s: %w", t.name, err)
			}
			return tag, true, nil
		}
	}
	return Tag{}, false, nil
}

// triesMax is how often a transaction is tried against others' changes of their own rules.
const triesMax = 50

// Set makes the rules lead to tag.Target, or to the gate if there is none, in one transaction. A tag below the table's
// is refused with a [*StaleError]. The rules concern new connections; [Path.Cut] ends those that exist.
func (p *Path) Set(tag Tag) error {
	tag.Target = netip.AddrPortFrom(tag.Target.Addr().Unmap(), tag.Target.Port())
	changes, err := replacement(p.table, p.cfg.Listen, tag)
	if err == nil {
		err = p.change(tag, changes)
	}
	if err != nil {
		return fmt.Errorf("change the rules of %s for epoch %d: %w", p.cfg.Database, tag.Epoch, err)
	}
	return nil
}

// change commits unless the table is above tag, and nobody changed anything between the look and the change.
func (p *Path) change(tag Tag, changes []netlink.Message) error {
	for range triesMax {
		gen, err := generation()
		if err != nil {
			return err
		}
		now, ok, err := p.Now()
		if err != nil {
			return err
		}
		if ok && now.above(tag) {
			return &StaleError{Have: now, Want: tag}
		}
		if err := commit(gen, changes); !errors.Is(err, errMoved) {
			return err
		}
	}
	return errMoved
}

// Remove takes the table away, if it is there and ours.
func (p *Path) Remove() error {
	if _, ok, err := p.Now(); err != nil || !ok {
		return err
	}
	changes, err := removal(p.table)
	if err == nil {
		err = commit(0, changes)
	}
	if err != nil {
		return fmt.Errorf("remove table %s: %w", p.table, err)
	}
	return nil
}

// noServer leaves the sockets of the server alone.
var noServer netip.AddrPort

// Cut ends every connection that a rule led, and counts them: client sockets to the listener that are not the gate's,
// then what the kernel remembers of where they were led; and if server is on this host, its own sockets, except those of
// the database's hosts, which are standbys' too: the clients on those hosts are cut by their own gates. It is done twice,
// for a connection may have been half made during the first time.
func (p *Path) Cut(server netip.AddrPort) (ended int, err error) {
	for range 2 {
		n, cutErr := p.cutOnce(server)
		ended, err = ended+n, errors.Join(err, cutErr)
	}
	return ended, err
}

func (p *Path) cutOnce(server netip.AddrPort) (ended int, err error) {
	doomed, err := p.doomed(server)
	for _, s := range doomed {
		if destroyErr := s.destroy(); destroyErr != nil {
			err = errors.Join(err, destroyErr)
		} else {
			ended++
		}
	}
	return ended, errors.Join(err, p.forgetLed())
}

// doomed lists the sockets that Cut ends.
func (p *Path) doomed(server netip.AddrPort) (doomed []socket, err error) {
	type ends struct{ local, remote netip.AddrPort }
	for _, listen := range p.known() {
		clients, err := connected(0, listen.Port())
		if err != nil {
			return nil, err
		}
		accepted, err := connected(listen.Port(), 0) // after the clients, so that each client of the gate is in it
		if err != nil {
			return nil, err
		}
		gates := map[ends]bool{}
		for _, s := range accepted {
			gates[ends{s.remote, s.local}] = true
		}
		for _, s := range clients {
			if s.remote == listen && !gates[ends{s.local, s.remote}] {
				doomed = append(doomed, s)
			}
		}
	}
	if !server.IsValid() {
		return doomed, nil
	}
	sessions, err := connected(server.Port(), 0)
	for _, s := range sessions {
		if s.local == server && !slices.Contains(p.cfg.Peers, s.remote.Addr()) {
			doomed = append(doomed, s)
		}
	}
	return doomed, err
}

// known are the addresses that connections may have been led from.
func (p *Path) known() []netip.AddrPort { return slices.Concat(p.cfg.Listen, p.cfg.Left) }

// forgetLed makes the kernel forget where it led connections to the listener. Those of the gate were led nowhere.
func (p *Path) forgetLed() error {
	var errs []error
	for _, family := range families(p.known()) {
		all, err := flows(family)
		if err != nil {
			return err
		}
		for _, f := range all {
			if f.led() && slices.Contains(p.known(), f.to) {
				errs = append(errs, f.forget())
			}
		}
	}
	return errors.Join(errs...)
}
