package local

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"holdfast/internal/auth"
	"holdfast/internal/durable"
	"holdfast/internal/host"
	"holdfast/internal/plan"
	"holdfast/internal/problem"
)

// Certified is what one host was given, without anything secret.
type Certified struct {
	Host     string    `json:"host"`
	Address  string    `json:"address"`
	Dir      string    `json:"dir"`   // where the files lie
	Files    []string  `json:"files"` // their names there
	Copy     string    `json:"copy"`  // where the host's agent looks for them, below its data root
	Until    time.Time `json:"until"`
	Founders []string  `json:"founders"` // with whom the application is founded; empty = it runs already
	Founds   bool      `json:"founds"`   // this host is one of them
	Made     bool      `json:"made"`     // the authority was made for it
	Again    bool      `json:"again"`    // it was told with whom it founds before, and is not told once more
}

// Asked is a wish for the certificate of one host.
type Asked struct {
	Plan     *plan.Plan
	PlanFile string // absolute
	Root     string // where the authority lies, or shall
	Host     string
	Dir      string // where the files go; "" = where an agent of this root looks for them
	Replace  bool   // one that is there already
	Founds   bool   // the application has never run: it is founded with the plan's members, whatever was said before
}

// Certify issues the certificate of one host with its name and address, and for operators where there is none yet. It
// refuses to put one in the place of another unasked.
func Certify(a Asked) (Certified, error) {
	h, ok := a.Plan.Host(a.Host)
	if !ok {
		return Certified{}, fmt.Errorf("certify %s: the plan has no such host", a.Host)
	}
	copyTo := filepath.Join("hosts", h.Name, filepath.Base(host.CertDir(HostDir(a.Root, h.Name))))
	if a.Dir == "" {
		a.Dir = filepath.Join(a.Root, copyTo)
	}
	if _, err := os.Lstat(filepath.Join(a.Dir, auth.HostCertFile)); err == nil && !a.Replace {
		return Certified{}, &problem.Problem{
			Code: "cluster.certified-already", Subject: h.Name, Severity: problem.Note, Title: "a certificate lies in " + a.Dir + " already",
			Meaning: "Nothing was changed.",
			Remedy:  "use that one; or put a new one in its place: --yes; or name another directory: --out DIR",
		}
	}
	if err := refuseForeign(a.Plan.Application, a.Root); err != nil {
		return Certified{}, err
	}
	if _, err := ReadContext(a.Root); err != nil {
		if _, err := Claim(a.Plan, a.PlanFile, a.Root); err != nil {
			return Certified{}, err
		}
	}
	ca, made, err := authority(a.Plan, a.Root)
	if err != nil {
		return Certified{}, err
	}
	if made || a.Founds {
		if err := beginFounders(a.Root, a.Plan, made); err != nil {
			return Certified{}, err
		}
	}
	if err := issueAnew(ca, a.Dir, certificateOf(a.Plan, h)); err != nil {
		return Certified{}, err
	}
	again, err := handFounders(a.Root, a.Dir, h.Name, a.Founds)
	if err != nil {
		return Certified{}, err
	}
	if err := issue(ca, AdminDir(a.Root), auth.HostCert{Name: "operator", Role: auth.Admin}); err != nil {
		return Certified{}, err
	}
	done, err := certified(a, h, copyTo, made)
	done.Again = again
	return done, err
}

func certified(a Asked, h plan.Host, copyTo string, made bool) (Certified, error) {
	out := Certified{Host: h.Name, Address: h.Address, Dir: a.Dir, Copy: copyTo, Made: made}
	var err error
	if out.Until, err = auth.Expires(a.Dir); err != nil {
		return out, err
	}
	if out.Founders, err = host.ReadFounders(a.Dir); err != nil {
		return out, err
	}
	out.Founds = slices.Contains(out.Founders, h.Name)
	for _, name := range []string{auth.CACertFile, auth.HostCertFile, auth.HostKeyFile, auth.GossipKeyFile, host.FoundersFile} {
		if _, err := os.Stat(filepath.Join(a.Dir, name)); err != nil {
			return out, err
		}
		out.Files = append(out.Files, name)
	}
	return out, nil
}

// issueAnew writes a certificate whatever is there.
func issueAnew(ca *auth.Authority, dir string, c auth.HostCert) error {
	asked, err := json.Marshal(c)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return fmt.Errorf("make the directory of the certificate: %w", err)
	}
	if err := ca.WriteHost(dir, c); err != nil {
		return fmt.Errorf("issue the certificate of %s: %w", c.Name, err)
	}
	return durable.WriteFile(filepath.Join(dir, askedFile), asked, 0o600)
}

// Follow makes a context name the agents of a plan that was applied.
func Follow(c Context, p *plan.Plan) error {
	had, err := json.Marshal(c.Agents)
	if err != nil {
		return err
	}
	next := agentsOf(AsRun(c, p))
	if now, err := json.Marshal(next); err != nil || string(now) == string(had) {
		return err
	}
	c.Agents = next
	return c.write()
}
