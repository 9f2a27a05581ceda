package s3test

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"

	"holdfast/internal/vault/s3store"
)

// space is the part of a cluster that one server has to itself, with accounts and buckets of its own: namespaces of the one pool.
// Ceph's own tenants are not for that: see the package.
type space struct {
	of   *cluster
	name string
}

// space makes a part that no other server has.
func (c *cluster) space(ctx context.Context) (space, error) {
	s := space{of: c, name: fmt.Sprintf("s%d", c.spaces.Add(1))}
	text, err := json.Marshal(s.zone())
	if err != nil {
		return s, err
	}
	file := filepath.Join(c.dir, s.name+".zone")
	if err := os.WriteFile(file, text, 0o600); err != nil {
		return s, err
	}
	return s, s.administer(ctx, "zone", "set", "--rgw-zone=default", "--infile", file)
}

// zone is what Ceph calls the settings that say where each kind of thing is kept (Ceph manual, "Multi-Site Configuration Reference").
func (s space) zone() map[string]any {
	at := func(what string) string { return pool + ":" + s.name + "." + what }
	zone := map[string]any{"id": s.name, "name": "default", "placement_pools": []any{map[string]any{
		"key": "default-placement",
		"val": map[string]any{
			"index_pool": at("index"), "data_extra_pool": at("extra"), "index_type": 0,
			"storage_classes": map[string]any{"STANDARD": map[string]any{"data_pool": at("data")}},
		},
	}}}
	for _, what := range []string{"control", "gc", "lc", "log", "intent_log", "usage_log", "roles", "reshard", "user_keys", "user_email", "user_swift", "user_uid", "otp", "notif"} {
		zone[what+"_pool"] = at(what)
	}
	zone["domain_root"] = at("root")
	return zone
}

// settings lead a program to the space.
func (s space) settings() []string {
	at := pool + ":" + s.name
	return []string{"-c", s.of.conf, "--rgw-zone-root-pool=" + at, "--rgw-zonegroup-root-pool=" + at, "--rgw-period-root-pool=" + at, "--rgw-realm-root-pool=" + at}
}

func (s space) administer(ctx context.Context, args ...string) error {
	return run(ctx, "radosgw-admin", append(s.settings(), args...)...)
}

// account makes an account of S3. It may do whatever it likes with buckets that it makes, and nothing with others.
func (s space) account(ctx context.Context, name string, access s3store.Access) error {
	err := s.administer(ctx, "user", "create", "--uid", name, "--display-name", name, "--access-key", access.KeyID, "--secret-key", access.Secret.Reveal())
	if err != nil {
		return fmt.Errorf("make an account: %w", err)
	}
	return nil
}

// serve starts a radosgw for the space.
func (s space) serve(address string) (*daemon, error) {
	return begin(filepath.Join(s.of.dir, s.name+".log"), "radosgw", append(s.settings(), "-f", "-n", "client.rgw", "--rgw-frontends", "beast tcp_nodelay=1 endpoint="+address)...)
}
