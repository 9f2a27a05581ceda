package plan

import (
	"fmt"
	"slices"
)

// claim is one port that something listens on, on some hosts.
type claim struct {
	port  int
	by    string  // in words, for the other one's message
	path  keyPath // of the value that causes it
	at    Place
	said  bool     // the file states this port, rather than a default or the ports before it
	hosts []string // none = every host
	route *Route   // not nil = the edge's, which serves many host names on one port
}

// portClashes refuses two listeners on one port of one host.
func portClashes(ms *mistakes, p *Plan, f planFile) {
	claims := append(ownPorts(ms, p, f), wantedPorts(ms, p, f)...)
	for i, later := range claims {
		if later.port > 65535 {
			ms.add(later.at, later.path, "leads to port %d for %s (at most 65535)", later.port, later.by)
			continue
		}
		for _, earlier := range claims[:i] {
			if earlier.port != later.port || !shareHost(earlier, later) {
				continue
			}
			blamed, other := later, earlier
			if earlier.said && !later.said {
				blamed, other = earlier, later
			}
			why, clash := collide(blamed, other)
			if !clash {
				continue
			}
			ms.add(blamed.at, blamed.path, "%s", why)
			break // one clash is enough to move the port
		}
	}
}

func shareHost(a, b claim) bool {
	if len(a.hosts) == 0 || len(b.hosts) == 0 {
		return true
	}
	return slices.ContainsFunc(a.hosts, func(h string) bool { return slices.Contains(b.hosts, h) })
}

// collide says why blamed cannot have its port while other has it; two routes may share one.
func collide(blamed, other claim) (why string, clash bool) {
	if a, b := other.route, blamed.route; a != nil && b != nil && a.Scheme != "tcp" {
		switch {
		case a.Scheme == b.Scheme && a.Host == b.Host:
			return fmt.Sprintf("%s is %s (allowed: a host name or port of its own)", b, other.by), true
		case a.Scheme == b.Scheme:
			return "", false
		}
	}
	if blamed.route != nil {
		return fmt.Sprintf("leads to port %d, which is %s (allowed: a port of its own on each host)", blamed.port, other.by), true
	}
	return fmt.Sprintf("%d is %s (allowed: a port of its own on each host)", blamed.port, other.by), true
}

// ownPorts are the ports that Holdfast itself listens on.
func ownPorts(ms *mistakes, p *Plan, f planFile) []claim {
	var claims []claim
	own := func(key, by string, port int, otherwise Place) {
		path := keyPath{"ports", key}
		at, stated := ms.where[path.String()]
		if !stated {
			at = otherwise
		}
		claims = append(claims, claim{port: port, by: by, path: path, at: at, said: stated})
	}
	top := ms.where["ports"]
	own("agent", "Holdfast's port agent", p.Ports.Agent, top)
	own("gossip", "Holdfast's port gossip", p.Ports.Gossip, top)
	own("etcd_client", "Holdfast's port etcd_client", p.Ports.EtcdClient, top)
	own("etcd_peer", "Holdfast's port etcd_peer", p.Ports.EtcdPeer, top)
	for i, d := range f.databases.value {
		own("gate", "Holdfast's gate of database "+d.name, p.Ports.Gate+i, d.at)
		own("server", "Holdfast's server of database "+d.name, p.Ports.Server+i, d.at)
	}
	if len(f.databases.value) > 0 {
		for i := range ScratchPorts {
			own("scratch", "one of Holdfast's ports scratch", p.Ports.Scratch+i, f.databases.at)
		}
	}
	return claims
}

// wantedPorts are those that the plan's databases and services listen on.
func wantedPorts(ms *mistakes, p *Plan, f planFile) []claim {
	var claims []claim
	want := func(path keyPath, by string, port int, at Place, hosts []string, route *Route) {
		if port > 0 {
			_, said := ms.where[path.String()]
			claims = append(claims, claim{port: port, by: by, path: path, at: at, said: said, hosts: hosts, route: route})
		}
	}
	for i, d := range f.databases.value {
		path := keyPath{"databases", d.name, "listen", "write"}
		at, stated := ms.where[path.String()]
		if stated && !d.value.listen.value.write.written() {
			continue // what is wrong with it was said
		}
		if !stated {
			at = d.at
		}
		want(path, "the port of database "+d.name, p.Databases[i].WritePort, at, nil, nil)
		read := d.value.listen.value.read
		want(keyPath{"databases", d.name, "listen", "read"}, "the read-only port of database "+d.name, p.Databases[i].ReadPort, read.at, nil, nil)
	}
	for i, s := range f.services.value {
		want(keyPath{"services", s.name, "port"}, "the port of service "+s.name, s.value.port.value, s.value.port.at, p.Services[i].Hosts, nil)
	}
	for _, s := range f.services.value {
		if r := s.value.route.value; r != nil {
			want(keyPath{"services", s.name, "route"}, "the route of service "+s.name, r.Port, s.value.route.at, nil, r)
		}
	}
	return claims
}
