package plan

import (
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"regexp"
	"strconv"
	"strings"
)

const routeAllowed = `"https://clinic.example", "http://clinic.example:8080", "tcp://:9000" or none`

var hostShape = regexp.MustCompile(`^([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*$`)

// route is how clients reach a service; nil is none.
func route() form[*Route] {
	return text(jsonSchema{"pattern": `^(none|https?://[^/]*/?|tcp://:[0-9]+)$`}, "a route: "+routeAllowed, parseRoute)
}

func parseRoute(s string) (*Route, error) {
	if s == "none" {
		return nil, nil
	}
	wrong := fmt.Errorf("%q is not a route (%s)", s, routeAllowed)
	u, err := url.Parse(s)
	if err != nil || u.Opaque != "" || u.Scheme != "http" && u.Scheme != "https" && u.Scheme != "tcp" {
		return nil, wrong
	}
	if u.User != nil {
		return nil, errors.New("carries a user name or password, and is not repeated here (" + routeAllowed + ")")
	}
	if u.Path != "" && u.Path != "/" || u.RawQuery != "" || u.ForceQuery || u.Fragment != "" || strings.HasSuffix(s, "#") {
		return nil, fmt.Errorf("%q has a path, and a route takes every path (%s)", s, routeAllowed)
	}
	r := &Route{Scheme: u.Scheme, Host: u.Hostname()}
	switch u.Scheme {
	case "http":
		r.Port = 80
	case "https":
		r.Port = 443
	case "tcp":
		if r.Host != "" {
			return nil, fmt.Errorf("%q has a host name, and TCP carries none (tcp://:PORT)", s)
		}
	}
	if p := u.Port(); p != "" {
		if r.Port, err = strconv.Atoi(p); err != nil || r.Port < 1 || r.Port > 65535 {
			return nil, fmt.Errorf("%q: port %s is not a port (1 to 65535)", s, p)
		}
	}
	if r.Port == 0 {
		return nil, fmt.Errorf("%q has no port (tcp://:PORT)", s)
	}
	if _, err := netip.ParseAddr(r.Host); r.Host != "" && err != nil && !hostShape.MatchString(r.Host) {
		return nil, fmt.Errorf("%q: %q is not a host name (lower-case letters, digits, - and .)", s, r.Host)
	}
	return r, nil
}

// String is the route as the plan writes it; none when there is none.
func (r *Route) String() string {
	if r == nil {
		return "none"
	}
	host := r.Host
	if strings.Contains(host, ":") {
		host = "[" + host + "]"
	}
	if r.Scheme == "http" && r.Port == 80 || r.Scheme == "https" && r.Port == 443 {
		return r.Scheme + "://" + host
	}
	return fmt.Sprintf("%s://%s:%d", r.Scheme, host, r.Port)
}
