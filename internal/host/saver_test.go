package host

import (
	"maps"
	"slices"
	"testing"

	"holdfast/internal/auth"
)

// The key that makes persons is saved only where nobody needs a second one.
func TestASavingHoldsNoKeyOfTheAuthorityWhereTwoMustAgree(t *testing.T) {
	cfg := Config{Self: "h1", Dir: t.TempDir(), Authority: t.TempDir()}
	ca, err := auth.CreateAuthority(cfg.Authority, "clinic")
	if err == nil {
		err = ca.WriteHost(certDir(cfg.Dir), auth.HostCert{Name: "h1"})
	}
	if err != nil {
		t.Fatal(err)
	}
	all, err := ownFiles(cfg, true)
	if err != nil || all["ca/ca.key"] == nil {
		t.Errorf("one person is enough: %v, %v", slices.Sorted(maps.Keys(all)), err)
	}
	some, err := ownFiles(cfg, false)
	delete(all, "ca/ca.key")
	if err != nil || some["ca/ca.crt"] == nil || !maps.EqualFunc(all, some, slices.Equal) {
		t.Errorf("two must agree: %v, %v", slices.Sorted(maps.Keys(some)), err)
	}
}
