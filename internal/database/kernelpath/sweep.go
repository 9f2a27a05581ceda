package kernelpath

import (
	"errors"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Sweep takes away what gates of an application left on a host, except those of the databases named, and ends the
// connections that were led. A gate that ends in good order leaves nothing; one that was killed leaves its rules, so that
// clients go on, and takes them over when it is started again. Sweep is for those that will not be.
//
// Who may not even list rules has made none: that is no error.
func Sweep(application, host string, except ...string) error {
	all, err := tables()
	if absent(err) {
		return nil
	}
	if err != nil {
		return err
	}
	var errs []error
	for _, t := range all {
		database, ours := strings.CutPrefix(t.name, tablePrefix(application, host))
		tag, from, err := parseComment(t.comment)
		if !ours || err != nil || slices.Contains(except, database) {
			continue
		}
		p := &Path{cfg: Config{Application: application, Host: host, Database: database, Listen: from}, table: t.name}
		errs = append(errs, p.clean(tag))
	}
	return errors.Join(errs...)
}

// Clean is Sweep for one database, whose gate does without rules from now on.
func Clean(cfg Config) error {
	p := &Path{cfg: cfg, table: tablePrefix(cfg.Application, cfg.Host) + cfg.Database}
	tag, ok, err := p.Now()
	if absent(err) || (err == nil && !ok) {
		return nil
	}
	if err != nil {
		return err
	}
	return p.clean(tag)
}

// clean ends what was led while the rules still stand, for without them the servers would not hear of it.
func (p *Path) clean(tag Tag) error {
	var errs []error
	if tag.Leads() {
		tag.Target = noServer
		errs = append(errs, p.Set(tag))
		_, err := p.Cut(noServer)
		errs = append(errs, err)
	}
	return errors.Join(append(errs, p.Remove())...)
}

// absent says whether this process may not touch rules, or this kernel has none.
func absent(err error) bool {
	return slices.ContainsFunc([]error{unix.EPERM, unix.EPROTONOSUPPORT, unix.EAFNOSUPPORT, unix.EINVAL, unix.EOPNOTSUPP},
		func(e error) bool { return errors.Is(err, e) })
}
