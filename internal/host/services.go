package host

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"

	"holdfast/internal/agent"
	"holdfast/internal/durable"
	"holdfast/internal/plan"
	"holdfast/internal/service"
	"holdfast/internal/service/probe"
	"holdfast/internal/service/process"
)

// services are this host's side of the plan's services.
type services struct {
	cfg     Config
	plan    func() *plan.Plan // the one that counts
	self    plan.Host
	release release
	runtime *process.Runtime
	prober  *probe.Prober
	user    account
	ctx     context.Context // bounds the reading of secrets
}

// account is whom instances run as. An agent that is root gives its services no rights of its own: they could
// read every key of this host.
type account struct{ uid, gid int } // zero = as the agent

// unprivileged is the account for services: nobody, where the agent is root.
func unprivileged() (account, error) {
	if os.Geteuid() != 0 {
		return account{}, nil
	}
	u, err := user.Lookup("nobody")
	if err != nil {
		return account{}, fmt.Errorf("find an account for services: %w", err)
	}
	uid, errU := strconv.Atoi(u.Uid)
	gid, errG := strconv.Atoi(u.Gid)
	return account{uid, gid}, errors.Join(errU, errG)
}

// authorityFile is the application's authority where services can read it.
func authorityFile(dir string) string { return filepath.Join(dir, "ca.crt") }

// showAuthority puts it there; it is no secret.
func showAuthority(dir string) error {
	pem, err := os.ReadFile(filepath.Join(certDir(dir), "ca.crt"))
	if err != nil {
		return fmt.Errorf("read the application's authority: %w", err)
	}
	return durable.WriteFile(authorityFile(dir), pem, 0o644)
}

// version names what an instance is started with: the release, the command, its port and environment, and where the
// databases that it uses answer; so that a change of any of these is a new version, and nothing else restarts what
// runs. Secrets are references in it.
func (s *services) version(svc plan.Service) string {
	p, env := s.plan(), []string(nil)
	for _, v := range svc.Env {
		env = append(env, v.Name, withAddresses(p, v.Value))
	}
	words, err := json.Marshal([]any{svc.Name, svc.Run, svc.Port, env})
	if err != nil {
		words = []byte(svc.Name) // a plan.Service is plain data
	}
	sum := sha256.Sum256(append([]byte(s.release.hash+"\x00"), words...))
	return hex.EncodeToString(sum[:6])
}

// withAddresses is an environment variable's value with where databases answer in the place of their names.
func withAddresses(p *plan.Plan, value string) string {
	if plan.IsSecret(value) {
		return value
	}
	said, err := plan.ExpandEnv(value, func(key string) (string, bool) {
		name, which, ok := plan.DatabaseURL(key)
		d, found := p.DatabaseNamed(name)
		if !ok || !found {
			return "${" + key + "}", true
		}
		port := d.WritePort
		if which == "read_url" {
			port = d.ReadPort
		}
		role, database, _ := d.Login()
		return fmt.Sprintf("%s:%q@%s:%d/%s", role.Name, string(role.Password), key, port, database), true
	})
	if err != nil {
		return value // refused when the plan was read
	}
	return said
}

// policies are the services as a host's round wants them.
func (s *services) policies() []agent.ServicePolicy {
	var out []agent.ServicePolicy
	for _, svc := range s.plan().Services {
		p := agent.ServicePolicy{Name: svc.Name, Singleton: svc.Singleton(), StopGrace: svc.StopGrace, HasReady: svc.Ready != nil}
		if svc.Live != nil {
			p.StartFor = svc.Live.StartFor
		}
		out = append(out, p)
	}
	return out
}

// wanted are the services as the controller wants them.
func (s *services) wanted() []agent.PlacedService {
	var out []agent.PlacedService
	p := s.plan()
	for _, svc := range p.Services {
		w := agent.PlacedService{Name: svc.Name, Instances: svc.Instances, Version: s.version(svc), Port: svc.Port}
		for _, h := range p.ServiceHosts(svc) {
			w.Hosts = append(w.Hosts, h.Name)
		}
		out = append(out, w)
	}
	return out
}

// instance is what an assignment means on this host.
func (s *services) instance(a service.Assignment) (service.Instance, error) {
	svc, ok := s.plan().ServiceNamed(a.Service)
	if !ok {
		return service.Instance{}, fmt.Errorf("run %s: the plan has no service %s", a.ID, a.Service)
	}
	in := service.Instance{
		ID: a.ID, Service: a.Service, Host: s.self.Name, Version: a.Version, Argv: slices.Clone(svc.Run),
		Address: s.self.Address, Port: cmp.Or(a.Port, svc.Port), WorkDir: s.cfg.Dir, UID: s.user.uid, GID: s.user.gid,
	}
	if s.release.dir != "" {
		in.WorkDir = s.release.dir
		if !filepath.IsAbs(in.Argv[0]) {
			in.Argv[0] = filepath.Join(s.release.dir, in.Argv[0])
		}
	}
	if svc.Singleton() {
		in.Deadline = agent.SingletonDeadline
	}
	env, err := s.environment(svc, a)
	in.Env = env
	return in, err
}

// environment is the whole environment of an instance: the few variables that programs expect, where it shall
// listen, and the plan's own. The agent's other variables stay with the agent.
func (s *services) environment(svc plan.Service, a service.Assignment) (service.Environment, error) {
	env := service.Environment{
		"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/nonexistent", "LANG=C.UTF-8",
		"HOLDFAST_ADDRESS=" + s.self.Address, "HOLDFAST_INSTANCE=" + a.ID, "HOLDFAST_HOST=" + s.self.Name,
		"HOLDFAST_VERSION=" + a.Version,
	}
	if a.Port = cmp.Or(a.Port, svc.Port); a.Port != 0 {
		env = append(env, "PORT="+strconv.Itoa(a.Port))
	}
	for _, v := range svc.Env {
		value, err := s.value(a, v.Value)
		if err != nil {
			return nil, fmt.Errorf("variable %s of service %s: %w", v.Name, svc.Name, err)
		}
		env = append(env, v.Name+"="+value)
	}
	return env, nil
}

func (s *services) value(a service.Assignment, text string) (string, error) {
	if plan.IsSecret(text) {
		secret, err := Secret(s.ctx, plan.Secret(text))
		return secret.Reveal(), err
	}
	var failed error
	out, err := plan.ExpandEnv(text, func(key string) (string, bool) {
		switch key {
		case "host.address":
			return s.self.Address, true
		case "instance.port":
			return strconv.Itoa(a.Port), true
		case "instance.id":
			return a.ID, true
		}
		name, which, ok := plan.DatabaseURL(key)
		d, found := s.plan().DatabaseNamed(name)
		if !ok || !found {
			return "", false
		}
		u, err := s.databaseURL(d, which == "read_url")
		failed = err
		return u, true
	})
	if failed != nil {
		return "", failed
	}
	return out, err
}

// readOnly makes a session's transactions read-only from the start: where the read-only listener leads to a primary, as a
// fallback or on a host that has not heard of a change yet, nothing else would, for TLS lies between client and server. Its
// blank is %20, for libpq reads no plus.
const readOnly = "&options=-c%20default_transaction_read_only%3Don"

// databaseURL leads through this host's own listener, for ever: to the primary, or to the standbys for one that only
// reads. verify-ca and not verify-full:
// the certificate behind the listener is that of whichever host is the primary.
func (s *services) databaseURL(d plan.Database, read bool) (string, error) {
	role, database, ok := d.Login()
	if !ok {
		return "", fmt.Errorf("database %s has no role that owns anything", d.Name)
	}
	password, err := Secret(s.ctx, role.Password)
	if err != nil {
		return "", err
	}
	port := d.WritePort
	if read {
		port = d.ReadPort
	}
	u := url.URL{
		Scheme: "postgres", User: url.UserPassword(role.Name, password.Reveal()),
		Host: hostPort(s.self.Address, port), Path: "/" + database,
		RawQuery: url.Values{"sslmode": {"verify-ca"}, "sslrootcert": {authorityFile(s.cfg.Dir)}}.Encode(),
	}
	if read {
		u.RawQuery += readOnly
	}
	return u.String(), nil
}

// tend gives the prober what runs now.
func (s *services) tend(now agent.Snapshot) {
	p, targets := s.plan(), []probe.Target(nil)
	port := map[string]int{}
	for _, placed := range now.Facts.Services.Agreed {
		for _, a := range placed.Assignments {
			port[a.ID] = a.Port
		}
	}
	for _, o := range now.Facts.Services.Observed {
		svc, ok := p.ServiceNamed(o.Service)
		if !ok || o.State != service.Running || svc.Live == nil && svc.Ready == nil {
			continue
		}
		targets = append(targets, probe.Target{
			ID: o.ID, Life: o.Life, Address: s.self.Address, Port: cmp.Or(port[o.ID], svc.Port), Live: svc.Live, Ready: svc.Ready, WorkDir: s.release.dir, UID: s.user.uid, GID: s.user.gid,
		})
	}
	s.prober.Set(targets)
}

// health is what the checks say, for the next round.
func (s *services) health() map[string]agent.Checked {
	out := map[string]agent.Checked{}
	for id, r := range s.prober.Results() {
		out[id] = agent.Checked{Live: r.Live, Ready: r.Ready}
	}
	return out
}
