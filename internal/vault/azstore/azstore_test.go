package azstore_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"holdfast/internal/redact"
	"holdfast/internal/vault/attempt"
	"holdfast/internal/vault/azstore"
	"holdfast/internal/vault/azstore/azuritetest"
	"holdfast/internal/vault/store"
	"holdfast/internal/vault/store/storetest"
)

func open(t *testing.T, cfg azstore.Config) *azstore.Store {
	t.Helper()
	s, err := azstore.Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

// One server for all: its start takes a second or more.
func TestAzure(t *testing.T) {
	server := azuritetest.Start(t)
	server.Container(t, "vaults")
	for name, f := range map[string]func(*testing.T, *azuritetest.Server){
		"a container is a store":                           isAStore,
		"what cannot be used is refused with the reason":   refused,
		"a signature may do only what it says":             signatures,
		"a list goes on over its pages":                    pages,
		"a call ends with its context":                     ends,
		"a store in trouble never gives a wrong success":   trouble,
		"a store that stays down is an error, without SAS": down,
	} {
		t.Run(name, func(t *testing.T) { f(t, server) })
	}
}

func isAStore(t *testing.T, server *azuritetest.Server) {
	var n atomic.Int32
	storetest.Run(t, func(t *testing.T) store.Store {
		return open(t, server.Config("vaults", fmt.Sprintf("a/%d", n.Add(1))))
	})
}

func refused(t *testing.T, server *azuritetest.Server) {
	wrong := redact.Secret("aHVudGVyMg==") // hunter2
	for name, c := range map[string]struct {
		change func(*azstore.Config)
		is     error
		says   string
	}{
		"a container that is not there": {func(c *azstore.Config) { c.URL = "azblob://" + azuritetest.Account + "/missing/x" }, store.ErrNoPlace, "missing"},
		"a wrong key":                   {func(c *azstore.Config) { c.Write.Key = wrong }, store.ErrDenied, "vaults of account " + azuritetest.Account},
		"a signature of another container": {func(c *azstore.Config) {
			c.Write = azstore.Access{SAS: redact.Secret(strings.ReplaceAll(server.SAS(t, "other", "rl").Reveal(), "sr=c", "sr=c&x=hunter2"))}
		}, store.ErrDenied, "vaults of account"},
		"no credentials":                  {func(c *azstore.Config) { c.Write = azstore.Access{} }, nil, "no credentials"},
		"a key that is none":              {func(c *azstore.Config) { c.Write.Key = redact.Secret("hunter2!") }, nil, "not base64"},
		"a signature that is none":        {func(c *azstore.Config) { c.Write = azstore.Access{SAS: redact.Secret("hunter2")} }, nil, "shared access signature is none"},
		"both at once":                    {func(c *azstore.Config) { c.Write.SAS = redact.Secret("sig=hunter2") }, nil, "both given"},
		"an endpoint that is no URL":      {func(c *azstore.Config) { c.Endpoint = "ftp://x:hunter2@y" }, nil, "http(s)://"},
		"an address that is no container": {func(c *azstore.Config) { c.URL = "azblob://UPPER/x" }, nil, "azblob://account/container/prefix"},
		"a prefix that leads out":         {func(c *azstore.Config) { c.URL = "azblob://abc/there/a/../b" }, nil, "clean prefix"},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := server.Config("vaults", "x")
			c.change(&cfg)
			_, err := azstore.Open(t.Context(), cfg)
			if err == nil {
				t.Fatal("opened")
			}
			if c.is != nil && !errors.Is(err, c.is) || !strings.Contains(err.Error(), c.says) {
				t.Errorf("got %v", err)
			}
			for _, secret := range []string{"hunter2", wrong.Reveal(), azuritetest.Key().Reveal(), "sig="} {
				if strings.Contains(err.Error(), secret) {
					t.Errorf("the secret is in %v", err)
				}
			}
		})
	}
}

// Rights to write, to read and to delete are apart: a host gets a signature that can create and nothing else.
func signatures(t *testing.T, server *azuritetest.Server) {
	reads := azstore.Access{SAS: server.SAS(t, "vaults", "rl")}
	cfg := server.Config("vaults", "rights")
	cfg.Write, cfg.Read = azstore.Access{SAS: server.SAS(t, "vaults", "c")}, reads
	s, ctx := open(t, cfg), t.Context()
	for range 2 {
		if err := s.Put(ctx, "x", store.Bytes("1")); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Put(ctx, "x", store.Bytes("2")); !errors.Is(err, store.ErrDiffers) {
		t.Errorf("other bytes: %v", err)
	}
	if err := s.Replace(ctx, "x", store.Bytes("2")); !errors.Is(err, store.ErrDenied) {
		t.Errorf("replaced without the right: %v", err)
	}
	if err := s.Delete(ctx, "x"); !errors.Is(err, store.ErrDenied) {
		t.Errorf("deleted without the right: %v", err)
	}
	if got, err := store.Read(ctx, s, "x"); err != nil || string(got) != "1" {
		t.Errorf("holds %q, %v", got, err)
	}
	cfg.Write = reads
	only := open(t, cfg)
	if err := only.Put(ctx, "y", store.Bytes("1")); !errors.Is(err, store.ErrDenied) {
		t.Errorf("stored with the right to read: %v", err)
	}
	cfg.Delete = azstore.Access{SAS: server.SAS(t, "vaults", "d")}
	if err := open(t, cfg).Delete(ctx, "x"); err != nil {
		t.Error(err)
	}
}

func pages(t *testing.T, server *azuritetest.Server) {
	s := open(t, server.Config("vaults", "many"))
	s.PageOf(3)
	want := map[string]bool{}
	for i := range 10 {
		name := fmt.Sprintf("p/%02d", i)
		want[name] = true
		if err := s.Put(t.Context(), name, store.Bytes(name)); err != nil {
			t.Fatal(err)
		}
	}
	n := 0
	err := s.List(t.Context(), "", func(i store.Info) error {
		n++
		if !want[i.Name] || i.Size != 4 {
			t.Errorf("listed %+v", i)
		}
		delete(want, i.Name)
		return nil
	})
	if err != nil || n != 10 || len(want) > 0 {
		t.Errorf("listed %d, without %v, %v", n, want, err)
	}
	if names, err := s.Names(t.Context(), "p"); err != nil || len(names) != 10 {
		t.Errorf("named %v, %v", names, err)
	}
}

func ends(t *testing.T, server *azuritetest.Server) {
	s := open(t, server.Config("vaults", "ends"))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Put(ctx, "x", store.Bytes("1")); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

// worse is a config that leads through a proxy.
func worse(cfg azstore.Config, address string, attempts int) azstore.Config {
	cfg.Endpoint = "http://" + address
	cfg.Patience = attempt.Patience{Attempts: attempts, Wait: 5 * time.Millisecond, WaitMax: 50 * time.Millisecond}
	return cfg
}
