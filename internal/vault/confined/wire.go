package confined

import (
	"errors"
	"time"

	"holdfast/internal/redact"
	"holdfast/internal/vault"
	"holdfast/internal/vault/attempt"
	"holdfast/internal/vault/azstore"
	"holdfast/internal/vault/s3store"
)

// wire is a vault's config on its way to the child: the one place where secrets are written out. It goes through a pipe
// alone, never into a file, an argument or a variable.
type wire struct {
	Name, ID, Key, Application, Host string
	Places                           []place
	TwoPersons                       bool
	Authority                        []byte
}

type place struct {
	Copy, URL string
	Trash     time.Duration
	Filled    bool
	Unready   string
	S3        s3
	Azure     azure
}

type s3 struct {
	Endpoint, Region, Addressing string
	CA                           []byte
	Write, Read, Delete          pair
	Lock                         time.Duration
	Patience                     attempt.Patience
}

type azure struct {
	Endpoint            string
	CA                  []byte
	Write, Read, Delete pair // an account's key, and a signature
	Patience            attempt.Patience
}

type pair struct{ A, B string }

func wired(c vault.Config) wire {
	w := wire{Name: c.Name, ID: c.ID, Key: c.Key.Reveal(), Application: c.Application, Host: c.Host, TwoPersons: c.Deletions.TwoPersons, Authority: c.Deletions.Authority}
	first := vault.Place{Copy: c.Copy, URL: c.URL, S3: c.S3, Azure: c.Azure, Trash: c.Trash, Filled: c.Filled, Unready: c.Unready}
	for _, p := range append([]vault.Place{first}, c.Others...) {
		to := place{Copy: p.Copy, URL: p.URL, Trash: p.Trash, Filled: p.Filled}
		if p.Unready != nil {
			to.Unready = p.Unready.Error()
		}
		from := func(a s3store.Access) pair { return pair{a.KeyID, a.Secret.Reveal()} }
		to.S3 = s3{
			Endpoint: p.S3.Endpoint, Region: p.S3.Region, Addressing: string(p.S3.Addressing), CA: p.S3.CA,
			Write: from(p.S3.Write), Read: from(p.S3.Read), Delete: from(p.S3.Delete), Lock: p.S3.Lock, Patience: p.S3.Patience,
		}
		in := func(a azstore.Access) pair { return pair{a.Key.Reveal(), a.SAS.Reveal()} }
		to.Azure = azure{
			Endpoint: p.Azure.Endpoint, CA: p.Azure.CA, Write: in(p.Azure.Write), Read: in(p.Azure.Read), Delete: in(p.Azure.Delete),
			Patience: p.Azure.Patience,
		}
		w.Places = append(w.Places, to)
	}
	return w
}

func (w wire) config() vault.Config {
	c := vault.Config{Name: w.Name, ID: w.ID, Key: redact.Secret(w.Key), Application: w.Application, Host: w.Host}
	c.Deletions = vault.Deletions{TwoPersons: w.TwoPersons, Authority: w.Authority}
	for i, p := range w.Places {
		to := vault.Place{Copy: p.Copy, URL: p.URL, Trash: p.Trash, Filled: p.Filled}
		if p.Unready != "" {
			to.Unready = errors.New(p.Unready)
		}
		from := func(a pair) s3store.Access { return s3store.Access{KeyID: a.A, Secret: redact.Secret(a.B)} }
		to.S3 = s3store.Config{
			Endpoint: p.S3.Endpoint, Region: p.S3.Region, Addressing: s3store.Addressing(p.S3.Addressing), CA: p.S3.CA,
			Write: from(p.S3.Write), Read: from(p.S3.Read), Delete: from(p.S3.Delete), Lock: p.S3.Lock, Patience: p.S3.Patience,
		}
		in := func(a pair) azstore.Access {
			return azstore.Access{Key: redact.Secret(a.A), SAS: redact.Secret(a.B)}
		}
		to.Azure = azstore.Config{
			Endpoint: p.Azure.Endpoint, CA: p.Azure.CA, Write: in(p.Azure.Write), Read: in(p.Azure.Read), Delete: in(p.Azure.Delete),
			Patience: p.Azure.Patience,
		}
		if i == 0 {
			c.Copy, c.URL, c.S3, c.Azure, c.Trash, c.Filled, c.Unready = to.Copy, to.URL, to.S3, to.Azure, to.Trash, to.Filled, to.Unready
		} else {
			c.Others = append(c.Others, to)
		}
	}
	return c
}
