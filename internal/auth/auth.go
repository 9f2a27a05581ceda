// Package auth says who is who inside one application: a certificate authority of its own, a certificate for
// every host and operator, and TLS settings that require and verify both sides. Nothing is trusted from
// outside: the system's certificate store is never consulted.
//
// Start at [CreateAuthority] and [Authority.Issue]; a running process needs only [ServerTLS] and [ClientTLS].
package auth

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
)

// Role is what a certificate may be used for; it stands in the subject as organisational unit.
type Role string

// Roles.
const (
	Host  Role = "host"  // an agent, gate, etcd member or server on one host; client and server side
	Admin Role = "admin" // an operator's command line; client side only
)

// ErrNoPeer means that the other side showed no verified certificate of this application.
var ErrNoPeer = errors.New("no verified peer certificate")

// PeerName tells who is on the other side of a connection: the certificate's common name, which for [Host] is
// the host's name in the plan. It trusts only a chain that TLS has verified.
func PeerName(cs *tls.ConnectionState) (string, Role, error) {
	if cs == nil || len(cs.VerifiedChains) == 0 || len(cs.VerifiedChains[0]) == 0 {
		return "", "", ErrNoPeer
	}
	return identity(cs.VerifiedChains[0][0])
}

func identity(c *x509.Certificate) (string, Role, error) {
	if c.Subject.CommonName == "" || len(c.Subject.OrganizationalUnit) != 1 {
		return "", "", fmt.Errorf("%w: subject %q names no host or operator", ErrNoPeer, c.Subject)
	}
	role := Role(c.Subject.OrganizationalUnit[0])
	if !slices.Contains([]Role{Host, Admin}, role) {
		return "", "", fmt.Errorf("%w: subject %q has an unknown role", ErrNoPeer, c.Subject)
	}
	return c.Subject.CommonName, role, nil
}
