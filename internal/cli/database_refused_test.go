package cli

import (
	"bytes"
	"crypto/tls"
	"encoding/json"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"holdfast/internal/agent"
	"holdfast/internal/api"
	"holdfast/internal/auth"
	"holdfast/internal/database"
	"holdfast/internal/local"
)

// refusing is the data root of an application whose only agent takes every request, and settles it as not done.
func refusing(t *testing.T) (root string) {
	t.Helper()
	root = t.TempDir()
	ca, err := auth.CreateAuthority(local.AuthorityDir(root), "clinic")
	if err == nil {
		err = ca.WriteHost(local.AdminDir(root), auth.HostCert{Name: "operator", Role: auth.Admin})
	}
	certs := filepath.Join(root, "h1")
	if err == nil {
		err = ca.WriteHost(certs, auth.HostCert{Name: "h1", Addresses: []net.IP{net.IPv4(127, 0, 0, 1)}})
	}
	if err != nil {
		t.Fatal(err)
	}
	answers := map[string]any{
		"GET /v1/status":                       api.Status{Databases: []api.DatabaseStatus{{Name: "records", Primary: "h1"}}},
		"POST /v1/requests":                    agent.Asked{ID: "q"},
		"GET /v1/requests/q":                   agent.Settled{ID: "q", Text: "h2 is too far behind", Host: "h1"},
		"GET /v1/databases/records/candidates": api.Candidates{Primary: "h1", Refused: map[string]string{"h2": "it is too far behind"}},
		"GET /v1/databases/records/restart":    []database.RestartStep{{Host: "h1", State: "primary"}},
		"GET /v1/databases/records/failover":   api.Failover{Via: "h1", Risk: database.Risk{Former: "h1", Chosen: "h2"}},
		"GET /v1/databases/none/failover":      api.Failover{Via: "h1", Risk: database.Risk{Refused: "a way is left that loses nothing"}},
	}
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		answer, known := answers[r.Method+" "+r.URL.Path]
		if !known {
			w.WriteHeader(http.StatusNotFound)
		}
		_ = json.NewEncoder(w).Encode(answer) // a client that left needs none
	}))
	conf, err := auth.ServerTLS(certs)
	if err != nil {
		t.Fatal(err)
	}
	srv.Listener = tls.NewListener(srv.Listener, conf) // with the certificate of conf, and none of its own
	srv.Start()
	t.Cleanup(srv.Close)
	c, err := json.Marshal(local.Context{Application: "clinic", Root: root, Agents: map[string]string{"h1": srv.Listener.Addr().String()}})
	if err == nil {
		err = os.WriteFile(filepath.Join(root, "context.json"), c, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	return root
}

// What was asked for and not done ends with status 1, whoever reads it.
func TestARefusalIsOneInJSONToo(t *testing.T) {
	root := refusing(t)
	for _, words := range []string{
		"database switchover records --yes",
		"database switchover records --to h2 --dry-run",
		"database failover records --force --yes",
		"database failover none --dry-run",
		"database restart records --yes",
		"database resume records",
	} {
		for _, output := range []string{"table", "json"} {
			var out, errs bytes.Buffer
			args := append(strings.Fields(words), "--root", root, "--output", output)
			if got := Main(args, strings.NewReader(""), &out, &errs); got != 1 {
				t.Errorf("%s as %s: status %d\n%s%s", words, output, got, &out, &errs)
			}
			if output == "json" && !json.Valid(out.Bytes()) {
				t.Errorf("%s: %s", words, &out)
			}
		}
	}
}
