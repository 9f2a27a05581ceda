package local

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"holdfast/internal/auth"
	"holdfast/internal/host"
	"holdfast/internal/plan"
	"holdfast/internal/problem"
)

// seated is the clinic whose hosts hold a member of etcd, and one more that does not.
func seated(root string) *plan.Plan {
	p := clinic(root)
	p.Sites[0].Hosts = append(p.Sites[0].Hosts, plan.Host{Name: "b3", Address: "127.62.1.3", FaultDomain: "b3"}, plan.Host{Name: "b4", Address: "127.62.1.4", FaultDomain: "b4"})
	for i := range 3 {
		p.Sites[0].Hosts[i].Etcd = true
	}
	return p
}

// Certificates for machines of their own: the first makes the authority, and says whose members found; a host that comes
// later founds nothing; and nothing is overwritten unasked.
func TestHostsAreCertified(t *testing.T) {
	root, out := filepath.Join(t.TempDir(), "root"), t.TempDir()
	certify := func(p *plan.Plan, name string, change func(*Asked)) (Certified, error) {
		a := Asked{Plan: p, PlanFile: "/plans/holdfast.yaml", Root: root, Host: name, Dir: filepath.Join(out, name)}
		if change != nil {
			change(&a)
		}
		return Certify(a)
	}
	p := seated(root)
	first, err := certify(p, "b1", nil)
	if err != nil || !first.Made || !first.Founds || first.Copy != filepath.Join("hosts", "b1", "tls") {
		t.Fatalf("%+v, %v", first, err)
	}
	for name, mode := range map[string]os.FileMode{auth.HostKeyFile: 0o600, auth.GossipKeyFile: 0o600, auth.CACertFile: 0o644, auth.HostCertFile: 0o644, host.FoundersFile: 0o644} {
		if info, err := os.Stat(filepath.Join(out, "b1", name)); err != nil || info.Mode().Perm() != mode {
			t.Errorf("%s: %v, %v", name, info, err)
		}
	}
	if c := certificate(t, filepath.Join(out, "b1")); c.Subject.CommonName != "b1" || len(c.IPAddresses) != 1 || c.IPAddresses[0].String() != "127.62.1.1" {
		t.Errorf("the certificate is of %v at %v", c.Subject, c.IPAddresses)
	}
	if c, err := ReadContext(root); err != nil || c.Agents["b2"] != "127.62.1.2:7400" {
		t.Errorf("commands find %v: %v", c.Agents, err)
	}
	if second, err := certify(p, "b2", nil); err != nil || second.Made || !second.Founds || !cmp.Equal(second.Founders, []string{"b1", "b2", "b3"}) {
		t.Errorf("%+v, %v", second, err)
	}
	t.Run("one that is there stays", func(t *testing.T) {
		before := tree(t, out)
		_, err := certify(p, "b1", nil)
		var x *problem.Problem
		if !errors.As(err, &x) || x.Code != "cluster.certified-already" || !strings.Contains(x.Title, filepath.Join(out, "b1")) {
			t.Errorf("it says %v", err)
		}
		if diff := cmp.Diff(before, tree(t, out)); diff != "" {
			t.Errorf("something changed:\n%s", diff)
		}
		if _, err := certify(p, "b1", func(a *Asked) { a.Replace = true }); err != nil || cmp.Equal(before, tree(t, out)) {
			t.Errorf("asked to, it is not replaced: %v", err)
		}
	})
	t.Run("a founder is told once", func(t *testing.T) {
		again, err := certify(p, "b2", func(a *Asked) { a.Dir = filepath.Join(out, "b2 anew") })
		if err != nil || again.Founds || !again.Again || len(again.Founders) != 0 {
			t.Errorf("%+v, %v", again, err)
		}
		asked, err := certify(p, "b2", func(a *Asked) { a.Replace, a.Founds = true, true })
		if err != nil || !asked.Founds || asked.Again {
			t.Errorf("an application that has never run: %+v, %v", asked, err)
		}
		if again, err = certify(p, "b2", func(a *Asked) { a.Replace = true }); err != nil || again.Founds {
			t.Errorf("after it was told anew: %+v, %v", again, err)
		}
		if third, err := certify(p, "b3", func(a *Asked) { a.Dir = filepath.Join(out, "b3 first") }); err != nil || !third.Founds || third.Again {
			t.Errorf("one that was not told: %+v, %v", third, err)
		}
		told := filepath.Join(AuthorityDir(root), handedFile)
		if err := os.Remove(told); err != nil {
			t.Fatal(err)
		}
		if old, err := certify(p, "b3", func(a *Asked) { a.Dir = filepath.Join(out, "b3 anew") }); err != nil || old.Founds || !old.Again {
			t.Errorf("of an earlier version, which may have told it: %+v, %v", old, err)
		}
	})
	t.Run("a plan whose members are others founds nothing", func(t *testing.T) {
		later := seated(root)
		later.Sites[0].Hosts[0].Etcd, later.Sites[0].Hosts[3].Etcd = false, true
		late, err := certify(later, "b4", nil)
		if err != nil || late.Founds || !cmp.Equal(late.Founders, []string{"b1", "b2", "b3"}) {
			t.Errorf("%+v, %v", late, err)
		}
		anew, err := certify(later, "b4", func(a *Asked) { a.Replace, a.Founds = true, true })
		if err != nil || !anew.Founds || !cmp.Equal(anew.Founders, []string{"b2", "b3", "b4"}) {
			t.Errorf("an application that has never run: %+v, %v", anew, err)
		}
	})
	t.Run("an authority of an earlier version lets nobody found", func(t *testing.T) {
		if err := os.Remove(filepath.Join(AuthorityDir(root), host.FoundersFile)); err != nil {
			t.Fatal(err)
		}
		got, err := certify(p, "b3", nil)
		if err != nil || got.Founds || len(got.Founders) != 0 {
			t.Errorf("%+v, %v", got, err)
		}
	})
	t.Run("a root of another application is left alone", func(t *testing.T) {
		other := seated(root)
		other.Application = "shop"
		if _, err := certify(other, "b1", func(a *Asked) { a.Dir = filepath.Join(out, "shop") }); err == nil {
			t.Error("it was used")
		}
		if _, err := os.Stat(filepath.Join(out, "shop")); err == nil {
			t.Error("something was written")
		}
	})
}

// Who founds follows the plan until the application has run once; from then on whoever is new founds nothing.
func TestUpSaysWhoFounds(t *testing.T) {
	root := filepath.Join(t.TempDir(), "root")
	founders := func(name string) []string {
		t.Helper()
		got, err := host.ReadFounders(host.CertDir(HostDir(root, name)))
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	p := seated(root)
	prepare(t, p, root)
	p.Sites[0].Hosts[0].Etcd, p.Sites[0].Hosts[3].Etcd = false, true // the first start did not come so far
	prepare(t, p, root)
	for _, h := range p.HostNames() {
		if got := founders(h); !cmp.Equal(got, []string{"b2", "b3", "b4"}) {
			t.Errorf("%s founds with %v", h, got)
		}
	}
	write(t, filepath.Join(HostDir(root, "b2"), "etcd.member"), "{}") // now it has run
	p.Sites[0].Hosts = append(p.Sites[0].Hosts, plan.Host{Name: "b5", Address: "127.62.1.5", Etcd: true}, plan.Host{Name: "b6", Address: "127.62.1.6", Etcd: true})
	prepare(t, p, root)
	for _, h := range []string{"b3", "b6"} {
		if got := founders(h); !cmp.Equal(got, []string{"b2", "b3", "b4"}) {
			t.Errorf("%s founds with %v", h, got)
		}
	}
	if err := os.RemoveAll(HostDir(root, "b3")); err != nil {
		t.Fatal(err)
	}
	prepare(t, p, root)
	if got := founders("b3"); len(got) != 0 {
		t.Errorf("its disk was lost, and it founds with %v", got)
	}
}

// Commands find the hosts of a plan that was applied, also where `up` gave hosts addresses of their own.
func TestCommandsFollowTheHostsOfThePlan(t *testing.T) {
	root := filepath.Join(t.TempDir(), "root")
	far := clinic(root)
	for i, a := range []string{"10.0.0.1", "10.0.0.2"} {
		far.Sites[0].Hosts[i].Address = a
	}
	more := *far
	more.Sites = []plan.Site{{Name: "b", Hosts: append(append([]plan.Host{}, far.Sites[0].Hosts...), plan.Host{Name: "b3", Address: "10.0.0.3"})}}
	up, _ := OnLoopback(far)
	for name, x := range map[string]struct {
		runs *plan.Plan
		want string
	}{"on machines of their own": {far, "10.0.0.3:7400"}, "on one machine": {up, "127.77.1.3:7400"}} {
		t.Run(name, func(t *testing.T) {
			c, err := Claim(x.runs, "/plans/holdfast.yaml", root)
			if err != nil {
				t.Fatal(err)
			}
			if err := Follow(c, &more); err != nil {
				t.Fatal(err)
			}
			if now, err := ReadContext(root); err != nil || now.Agents["b3"] != x.want || len(now.Agents) != 3 {
				t.Errorf("%v, %v", now.Agents, err)
			}
		})
	}
}
