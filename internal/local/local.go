// Package local is a whole plan on one machine: each host an agent process on an address of its own. It lays
// out the data root, issues certificates, makes the secrets that the plan expects below the root, and starts
// and ends the agents. It decides nothing: the agents are the same as on machines of their own.
package local

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"holdfast/internal/auth"
	"holdfast/internal/durable"
	"holdfast/internal/host"
	"holdfast/internal/plan"
	"holdfast/internal/problem"
)

// Context is what a command line needs to find the running application again.
type Context struct {
	Application string            `json:"application"`
	Plan        string            `json:"plan"` // the plan file, absolute
	Root        string            `json:"root"`
	Agents      map[string]string `json:"agents"` // by host: addr:port
}

// DefaultRoot is where the data of an application lie when nobody says otherwise.
func DefaultRoot(application string) string {
	if os.Geteuid() == 0 {
		return filepath.Join("/var/lib/holdfast", application)
	}
	home, err := os.UserHomeDir()
	if err != nil {
		home = "."
	}
	return filepath.Join(home, ".local", "share", "holdfast", application)
}

// HostDir is one host's own directory below a root. No two hosts share anything but the root's name.
func HostDir(root, name string) string { return filepath.Join(root, "hosts", name) }

// AdminDir holds the operator's certificate.
func AdminDir(root string) string { return filepath.Join(root, "admin") }

// AuthorityDir holds the application's authority, on the machine that issues certificates.
func AuthorityDir(root string) string { return filepath.Join(root, "ca") }

func contextFile(root string) string { return filepath.Join(root, "context.json") }

// OnLoopback gives each host that is not on loopback an address there, so that any plan runs on one machine.
// What was changed is told in words.
func OnLoopback(p *plan.Plan) (*plan.Plan, []string) {
	q := *p
	q.Sites = append([]plan.Site(nil), p.Sites...)
	var told []string
	for i, site := range q.Sites {
		q.Sites[i].Hosts = append([]plan.Host(nil), site.Hosts...)
		for k, h := range site.Hosts {
			if ip := net.ParseIP(h.Address); ip != nil && ip.IsLoopback() {
				continue
			}
			q.Sites[i].Hosts[k].Address = fmt.Sprintf("127.77.%d.%d", i+1, k+1)
			told = append(told, fmt.Sprintf("%s runs on %s instead of %s", h.Name, q.Sites[i].Hosts[k].Address, h.Address))
		}
	}
	return &q, told
}

// AsRun is a plan with the addresses that its hosts have in a context: their own, or those that `up` gave them.
func AsRun(c Context, p *plan.Plan) *plan.Plan {
	for _, h := range p.AllHosts() {
		if at, known := c.Agents[h.Name]; known && at != net.JoinHostPort(h.Address, fmt.Sprint(p.Ports.Agent)) {
			q, _ := OnLoopback(p)
			return q
		}
	}
	return p
}

func lockFile(root string) string { return filepath.Join(root, "up.lock") }

// Lock keeps a second `up` off the same root. The file is held until the returned one is closed; it says which
// process holds it, for [Up].
func Lock(root string) (*os.File, error) {
	f, err := os.OpenFile(lockFile(root), os.O_CREATE|os.O_RDWR|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock %s: %w", root, err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = f.Close() // never locked
		return nil, &problem.Problem{
			Code: "host.in-use", Subject: filepath.Base(root), Severity: problem.Critical,
			Title:   "another `holdfast up` works on " + root,
			Meaning: "Nothing was started and nothing was changed.",
			Remedy:  "use the one that runs: holdfast status --root " + root + "; or give this one another --root",
		}
	}
	err = f.Truncate(0)
	if err == nil {
		_, err = f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
	}
	if err != nil {
		_ = f.Close() // gives the lock back
		return nil, fmt.Errorf("write %s: %w", lockFile(root), err)
	}
	return f, nil
}

// Up is the process of the `up` that works on a root; 0 when none does.
func Up(root string) (int, error) {
	f, err := os.Open(lockFile(root))
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("look who holds %s: %w", root, err)
	}
	defer func() { _ = f.Close() }() // gives the lock back, where it was free
	if unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB) == nil {
		return 0, nil
	}
	text, err := io.ReadAll(f)
	if err != nil {
		return 0, fmt.Errorf("look who holds %s: %w", root, err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return 0, fmt.Errorf("look who holds %s: %w", root, err)
	}
	return pid, nil
}

// Prepare lays out the root for a plan: it refuses a root of another application before it changes anything.
// It returns what it made, in words.
func Prepare(p *plan.Plan, planFile, root string) (Context, []string, error) {
	c, err := Claim(p, planFile, root)
	if err != nil {
		return c, nil, err
	}
	made, err := secrets(p, root)
	if err != nil {
		return c, made, err
	}
	return c, made, certificates(p, root)
}

// Claim makes a root this plan's, and no more: it refuses one of another application, or with files that are not
// Holdfast's.
func Claim(p *plan.Plan, planFile, root string) (Context, error) {
	c := Context{Application: p.Application, Plan: planFile, Root: root, Agents: agentsOf(p)}
	if err := refuseForeign(p.Application, root); err != nil {
		return c, err
	}
	if err := os.MkdirAll(root, 0o755); err != nil {
		return c, fmt.Errorf("make the data root: %w", err)
	}
	// The context comes first: it is what makes the root ours, should the rest be cut short.
	return c, c.write()
}

// agentsOf are the addresses of a plan's agents, by host.
func agentsOf(p *plan.Plan) map[string]string {
	agents := map[string]string{}
	for _, h := range p.AllHosts() {
		agents[h.Name] = net.JoinHostPort(h.Address, fmt.Sprint(p.Ports.Agent))
	}
	return agents
}

func (c Context) write() error {
	data, err := json.MarshalIndent(c, "", "  ")
	if err != nil {
		return err
	}
	return durable.WriteFile(contextFile(c.Root), append(data, '\n'), 0o600)
}

// refuseForeign keeps Holdfast off a directory that is not its own or belongs to another application.
func refuseForeign(application, root string) error {
	entries, err := os.ReadDir(root)
	if errors.Is(err, fs.ErrNotExist) || err == nil && len(entries) == 0 {
		return nil
	}
	if err != nil {
		return fmt.Errorf("look at the data root: %w", err)
	}
	if len(entries) == 1 && entries[0].Name() == "up.lock" {
		return nil
	}
	c, err := ReadContext(root)
	switch {
	case err != nil:
		return &problem.Problem{
			Code: "host.foreign-root", Subject: application, Severity: problem.Critical,
			Title:   root + " holds files that are not Holdfast's",
			Meaning: "Nothing of it was touched.", Remedy: "give --root an empty directory, or one that Holdfast made",
		}
	case c.Application != application:
		return &problem.Problem{
			Code: "host.foreign-root", Subject: application, Severity: problem.Critical,
			Title:   fmt.Sprintf("%s belongs to application %s", root, c.Application),
			Meaning: "Nothing of it was touched.", Remedy: "give --root another directory",
		}
	}
	return nil
}

// ReadContext finds a running application's context in a root.
func ReadContext(root string) (Context, error) {
	var c Context
	data, err := os.ReadFile(contextFile(root))
	if err != nil {
		return c, fmt.Errorf("read the context of %s: %w", root, err)
	}
	if err := json.Unmarshal(data, &c); err != nil {
		return c, fmt.Errorf("read the context of %s: %w", root, err)
	}
	return c, nil
}

// secrets makes the files below the root that the plan refers to and that do not exist yet: a random value
// each. Files elsewhere are the operator's own.
func secrets(p *plan.Plan, root string) ([]string, error) {
	refs := map[plan.Secret]string{}
	for _, d := range p.Databases {
		for _, r := range d.Roles {
			refs[r.Password] = "password of role " + r.Name
		}
	}
	for _, v := range p.Vaults {
		refs[v.Key] = "key of vault " + v.Name
	}
	var made []string
	for ref, what := range refs {
		path := filepath.Clean(ref.Target())
		if ref.Kind() != "file" || !strings.HasPrefix(path, root+string(filepath.Separator)) {
			continue
		}
		if _, err := os.Stat(path); err == nil {
			continue
		}
		value := make([]byte, 24)
		if _, err := rand.Read(value); err != nil {
			return made, fmt.Errorf("make the %s: %w", what, err)
		}
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			return made, fmt.Errorf("make the %s: %w", what, err)
		}
		if err := durable.WriteFile(path, []byte(base64.RawURLEncoding.EncodeToString(value)+"\n"), 0o600); err != nil {
			return made, fmt.Errorf("make the %s: %w", what, err)
		}
		made = append(made, what+" in "+path)
	}
	slices.Sort(made)
	return made, nil
}

// certificates makes the application's authority, and a certificate for each host and the operator.
func certificates(p *plan.Plan, root string) error {
	ca, _, err := authority(p, root)
	if err != nil {
		return err
	}
	fresh := !slices.ContainsFunc(p.AllHosts(), func(h plan.Host) bool { return host.Founded(HostDir(root, h.Name)) })
	if fresh {
		if err := beginFounders(root, p, true); err != nil {
			return err
		}
	}
	for _, h := range p.AllHosts() {
		dir := host.CertDir(HostDir(root, h.Name))
		_, none := os.Stat(filepath.Join(dir, auth.HostCertFile))
		if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
			return fmt.Errorf("make the directory of host %s: %w", h.Name, err)
		}
		if err := issue(ca, dir, certificateOf(p, h)); err != nil {
			return err
		}
		if !fresh && none == nil {
			continue // one of an earlier version is not told whom it may found with
		}
		if _, err := handFounders(root, dir, h.Name, fresh); err != nil {
			return err
		}
	}
	return issue(ca, AdminDir(root), auth.HostCert{Name: "operator", Role: auth.Admin})
}

// authority is the application's, made where there is none.
func authority(p *plan.Plan, root string) (ca *auth.Authority, made bool, err error) {
	dir := AuthorityDir(root)
	ca, err = auth.LoadAuthority(dir)
	if errors.Is(err, fs.ErrNotExist) {
		ca, err = auth.CreateAuthority(dir, p.Application)
		made = true
	}
	if err != nil {
		return nil, false, fmt.Errorf("make the application's certificates: %w", err)
	}
	return ca, made, nil
}

// handedFile names, beside the authority, the hosts that were told with whom they found. A host founds once: were it told again
// after its disk was lost, it would begin under the place that it had, and nobody but etcd would stop it.
const handedFile = "founders-told.json"

// beginFounders writes down with whom the application is founded; anew = nobody was told yet.
func beginFounders(root string, p *plan.Plan, anew bool) error {
	if anew {
		if err := writeHanded(root, []string{}); err != nil {
			return err
		}
	}
	return host.WriteFounders(AuthorityDir(root), host.Founders(p))
}

// handFounders lays beside a certificate with whom its host founds: nobody, where an earlier version founded, and where the
// host was told before (again), unless it is asked for.
func handFounders(root, dir, name string, asked bool) (again bool, err error) {
	founders, err := host.ReadFounders(AuthorityDir(root))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, err
	}
	handed, err := readHanded(root)
	if errors.Is(err, fs.ErrNotExist) {
		handed, err = founders, nil // an earlier version did not write it down: any of them may have been
	}
	if err != nil {
		return false, err
	}
	if slices.Contains(handed, name) {
		if !asked {
			return slices.Contains(founders, name), host.WriteFounders(dir, nil)
		}
	} else {
		handed = append(slices.Clone(handed), name)
	}
	if err := writeHanded(root, handed); err != nil { // first: cut short, it founds nothing rather than twice
		return false, err
	}
	return false, host.WriteFounders(dir, founders)
}

func readHanded(root string) ([]string, error) {
	b, err := os.ReadFile(filepath.Join(AuthorityDir(root), handedFile))
	if err != nil {
		return nil, fmt.Errorf("read who was told with whom it founds: %w", err)
	}
	var names []string
	if err := json.Unmarshal(b, &names); err != nil {
		return nil, fmt.Errorf("read who was told with whom it founds: %w", err)
	}
	return names, nil
}

func writeHanded(root string, names []string) error {
	slices.Sort(names)
	b, err := json.Marshal(names)
	if err != nil {
		return err
	}
	return durable.WriteFile(filepath.Join(AuthorityDir(root), handedFile), append(b, '\n'), 0o644)
}

// certificateOf is what the certificate of a host says.
func certificateOf(p *plan.Plan, h plan.Host) auth.HostCert {
	var names []string
	for _, d := range p.Databases {
		names = append(names, host.ListenerName(p, d))
	}
	for _, s := range p.Services {
		if s.Route != nil && s.Route.Scheme == "https" && s.TLS == nil && s.Route.Host != "" {
			names = append(names, s.Route.Host)
		}
	}
	return auth.HostCert{Name: h.Name, Role: auth.Host, Addresses: []net.IP{net.ParseIP(h.Address)}, DNSNames: names}
}

// renewBefore is how long before its end a certificate is replaced by the next start; it lives for a year.
const renewBefore = 30 * 24 * time.Hour

// askedFile keeps what a certificate was asked for, so that the same wish again changes nothing.
const askedFile = "asked.json"

// issue writes a certificate unless one is there that says the same and is valid for long enough.
func issue(ca *auth.Authority, dir string, c auth.HostCert) error {
	want, err := json.Marshal(c)
	if err != nil {
		return err
	}
	asked := filepath.Join(dir, askedFile)
	have, err := os.ReadFile(asked)
	if until, lost := auth.Expires(dir); err == nil && lost == nil && string(have) == string(want) && time.Until(until) > renewBefore {
		return nil
	}
	return issueAnew(ca, dir, c)
}
