package host

import (
	"strings"
	"testing"

	"holdfast/internal/database/gate"
)

func TestAListenerThatDoesWithoutTheKernelsPathSaysWhy(t *testing.T) {
	if p := pathProblem("h1", "orders", gate.Status{Path: gate.PathKernel}); p != nil {
		t.Errorf("told of a path that is taken: %s", p.Text())
	}
	p := pathProblem("h1", "orders", gate.Status{Path: gate.PathProxy, PathReason: "try rules (nf_tables, CAP_NET_ADMIN): operation not permitted"})
	if p == nil || p.Code != "database.path-by-proxy" || !strings.Contains(p.Meaning, "CAP_NET_ADMIN") || !strings.Contains(p.Title, "h1") {
		t.Errorf("told %+v", p)
	}
}
