package host

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"strings"

	"holdfast/internal/plan"
	"holdfast/internal/redact"
	"holdfast/internal/vault"
	"holdfast/internal/vault/s3store"
)

// PlaceOf says how one copy of a vault is reached, with the secrets that the plan refers to.
func PlaceOf(ctx context.Context, p *plan.Plan, v plan.Vault, c plan.Copy) (vault.Config, error) {
	key, err := Secret(ctx, v.Key)
	if err != nil {
		return vault.Config{}, err
	}
	conf := vault.Config{Name: v.Name, Key: key, Application: p.Application}
	first(&conf, copyPlace(ctx, v, c))
	return conf, conf.Unready
}

// Alone reaches a vault by its address and key, without a plan. A bucket's or container's credentials come from the environment.
func Alone(url string, key redact.String) (vault.Config, error) {
	conf := vault.Config{URL: url, Key: key}
	var err error
	if strings.HasPrefix(url, "azblob:") { // nothing in either is waited for
		conf.Azure, err = azure(context.Background(), url, plan.Azure{})
	} else {
		conf.S3, err = bucket(context.Background(), plan.S3{})
	}
	return conf, err
}

// bucket resolves what the plan says, and takes from the environment what it does not: the variables that every S3
// program knows.
func bucket(ctx context.Context, s plan.S3) (s3store.Config, error) {
	conf := s3store.Config{
		Endpoint: cmp.Or(s.Endpoint, os.Getenv("AWS_ENDPOINT_URL_S3"), os.Getenv("AWS_ENDPOINT_URL")),
		Region:   cmp.Or(s.Region, os.Getenv("AWS_REGION"), os.Getenv("AWS_DEFAULT_REGION")),
		Lock:     s.Lock,
	}
	switch s.PathStyle {
	case "true":
		conf.Addressing = s3store.ByPath
	case "false":
		conf.Addressing = s3store.ByHost
	}
	if file := cmp.Or(s.CAFile, os.Getenv("AWS_CA_BUNDLE")); file != "" {
		ca, err := os.ReadFile(file)
		if err != nil {
			return conf, fmt.Errorf("read the authorities: %w", err)
		}
		conf.CA = ca
	}
	for _, a := range []struct {
		from plan.Access
		to   *s3store.Access
	}{{s.Write, &conf.Write}, {s.Read, &conf.Read}, {s.Delete, &conf.Delete}} {
		if a.from == (plan.Access{}) {
			continue
		}
		id, err := Secret(ctx, a.from.KeyID)
		if err != nil {
			return conf, err
		}
		secret, err := Secret(ctx, a.from.Key)
		if err != nil {
			return conf, err
		}
		*a.to = s3store.Access{KeyID: id.Reveal(), Secret: secret}
	}
	if s.Write == (plan.Access{}) {
		conf.Write = s3store.Access{KeyID: os.Getenv("AWS_ACCESS_KEY_ID"), Secret: redact.Secret(os.Getenv("AWS_SECRET_ACCESS_KEY"))}
	}
	return conf, nil
}
