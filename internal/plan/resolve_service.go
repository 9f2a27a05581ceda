package plan

import (
	"errors"
	"fmt"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

const stopGrace = 10 * time.Second

func resolveService(ms *mistakes, p *Plan, file planFile, s named[serviceFile]) Service {
	path, f := keyPath{"services", s.name}, s.value
	svc := Service{
		Name: s.name, Run: f.run.value, Instances: f.instances.or(1), Port: f.port.value, Route: f.route.value,
		StopGrace: f.stopGrace.or(stopGrace),
	}
	stated := func(key string) bool { return ms.where[path.to(key).String()] != Place{} }
	svc.Hosts = resolveHosts(ms, p, path.to("hosts"), f.hosts)
	candidates := p.ServiceHosts(svc)
	listWrong := f.hosts.written() && len(svc.Hosts) < len(f.hosts.value)
	if f.instances.written() && !listWrong && len(candidates) > 0 && svc.Instances > len(candidates) {
		ms.add(f.instances.at, path.to("instances"), "%d need as many hosts, and there are %d (1 to %d)", svc.Instances, len(candidates), len(candidates))
	}
	if f.run.written() {
		judgeProgram(ms, path, f.run, file.release.value, ms.where["release"] != Place{})
	}
	if svc.Route != nil && !stated("port") {
		ms.add(f.route.at, path.to("route"), "leads nowhere: the service has no port (add port: 1 to 65535)")
	}
	for _, c := range []struct {
		key   string
		check located[Check]
		into  **Check
	}{{"live", f.live, &svc.Live}, {"ready", f.ready, &svc.Ready}} {
		if !c.check.written() {
			continue
		}
		check := c.check.value
		*c.into = &check
		if check.Kind != "exec" && !stated("port") {
			ms.add(c.check.at, path.to(c.key), "asks over %s, and the service has no port (add port, or use exec)", check.Kind)
		}
	}
	if f.tls.written() {
		svc.TLS = &TLSFiles{Cert: f.tls.value.certificate.value, Key: f.tls.value.key.value}
		if !(stated("route") && !f.route.written()) && (svc.Route == nil || svc.Route.Scheme != "https") {
			ms.add(f.tls.at, path.to("tls"), "has no https route to serve (allowed: with route: https://...)")
		}
	}
	for _, v := range f.env.value {
		value := resolveEnv(ms, p, file, svc, path.to("env").to(v.name), v)
		svc.Env = append(svc.Env, EnvVar{Name: v.name, Value: value})
	}
	return svc
}

// judgeProgram refuses a program that no host could find.
func judgeProgram(ms *mistakes, path keyPath, run located[[]string], release string, hasRelease bool) {
	program := run.value[0]
	switch {
	case rooted(program):
	case slices.Contains(strings.Split(program, "/"), ".."):
		ms.add(run.at, path.to("run"), "%q leads out of the release (allowed: a path inside it, or a whole path)", program)
	case strings.Contains(program, "/") && !hasRelease && release == "":
		ms.add(run.at, path.to("run"), "%q is relative, and the plan has no release (add release, or write a whole path)", program)
	}
}

// resolveEnv checks the templates of one variable, and that no secret stands in it. A reference to a
// relative file comes back resolved.
func resolveEnv(ms *mistakes, p *Plan, file planFile, svc Service, path keyPath, v named[string]) string {
	at := v.valueAt
	if IsSecret(v.value) {
		secret, err := parseSecret(filepath.Dir(ms.file), v.value)
		if err != nil {
			ms.add(at, path, "%s", err)
		}
		return string(secret)
	}
	keys, err := templatesIn(v.value)
	if err != nil {
		ms.add(at, path, "%s", err)
		return v.value
	}
	for _, key := range keys {
		if err := judgeTemplate(p, file, svc, key); err != nil {
			ms.add(at, path, "%s", err)
		}
	}
	if len(keys) == 0 && v.value != "" && secretName(v.name) {
		ms.add(at, path, "is named like a secret and has a literal value, which is not repeated here (env:NAME, file:/path or exec:/path/to/program)")
		return v.value
	}
	if u, err := url.Parse(v.value); err == nil && u.User != nil {
		if _, has := u.User.Password(); has {
			ms.add(at, path, "carries a password in an address, which is not repeated here (a template, env:NAME, file:/path or exec:/path/to/program)")
		}
	}
	return v.value
}

var errUnknownTemplate = errors.New("allowed: ${databases.NAME.write_url}, ${databases.NAME.read_url}, ${host.address}, ${instance.port}, ${instance.id}, ${root}")

func judgeTemplate(p *Plan, file planFile, svc Service, key string) error {
	switch key {
	case "host.address", "instance.id", "root":
		return nil
	case "instance.port":
		if svc.Port == 0 {
			return errors.New("uses ${instance.port}, and the service has no port (add port)")
		}
		return nil
	}
	name, which, ok := DatabaseURL(key)
	if !ok {
		return fmt.Errorf("uses ${%s}, which is unknown (%w)", key, errUnknownTemplate)
	}
	db, ok := p.DatabaseNamed(name)
	if !ok {
		return fmt.Errorf("uses ${%s}, and no database is called %s (%s)", key, name,
			namesOr(p.Databases, func(d Database) string { return d.Name }, "the plan has no databases"))
	}
	if which == "read_url" && db.ReadPort == 0 {
		return fmt.Errorf("uses ${%s}, and database %s has no read-only listener (add listen: { read: PORT })", key, name)
	}
	if _, _, ok := db.Login(); !ok {
		i := slices.IndexFunc(file.databases.value, func(d named[databaseFile]) bool { return d.name == name })
		for _, r := range file.databases.value[i].value.roles.value {
			if r.value.owns.at != (Place{}) {
				return nil // a role is there, and what is wrong with it was said
			}
		}
		return fmt.Errorf("uses ${%s}, and database %s has no role that owns a database (add roles: { NAME: { password: ..., owns: [NAME] } })", key, name)
	}
	return nil
}

// Login is the role and the database inside the cluster that ${databases.NAME.write_url} leads to: the
// first role that owns one, and the first that it owns.
func (d Database) Login() (role Role, database string, ok bool) {
	for _, r := range d.Roles {
		if len(r.Owns) > 0 {
			return r, r.Owns[0], true
		}
	}
	return Role{}, "", false
}

// logsInAs reports whether d's address holds the same role, password and database as that of other.
func (d Database) logsInAs(other Database) bool {
	was, in, _ := d.Login()
	is, into, _ := other.Login()
	return was.Name == is.Name && was.Password == is.Password && in == into
}

// secretName reports whether a variable's name says that its value is a secret. Names of what merely
// belongs to one (its file, its age) do not.
func secretName(name string) bool {
	words := strings.Split(strings.ToUpper(name), "_")
	switch words[len(words)-1] {
	case "FILE", "PATH", "DIR", "ID", "NAME", "TTL", "LENGTH", "EXPIRY":
		return false
	}
	for _, w := range words {
		if strings.HasSuffix(w, "KEY") || strings.HasSuffix(w, "KEYS") {
			return true
		}
		for _, s := range []string{"PASSWORD", "PASSWD", "PASSPHRASE", "SECRET", "TOKEN", "CREDENTIAL"} {
			if strings.Contains(w, s) {
				return true
			}
		}
	}
	return false
}
