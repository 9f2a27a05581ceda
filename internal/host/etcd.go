package host

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"

	"holdfast/internal/cluster/etcd"
	"holdfast/internal/plan"
)

// memberSpec is what the process of an embedded etcd member is told.
type memberSpec struct {
	Name        string            `json:"name"`
	Application string            `json:"application"`
	Dir         string            `json:"dir"`
	Marker      string            `json:"marker"`
	PeerURL     string            `json:"peer_url"`
	ClientURL   string            `json:"client_url"`
	Cluster     map[string]string `json:"cluster"`
	CertDir     string            `json:"cert_dir"`
	Founding    string            `json:"founding,omitempty"`
	Join        bool              `json:"join,omitempty"`
}

// etcdSpec is this host's member.
func etcdSpec(cfg Config, self plan.Host) memberSpec {
	p := cfg.Plan
	data, marker := memberFiles(cfg.Dir)
	s := memberSpec{
		Name: self.Name, Application: p.Application, Dir: data, Marker: marker,
		PeerURL:   "https://" + hostPort(self.Address, p.Ports.EtcdPeer),
		ClientURL: "https://" + hostPort(self.Address, p.Ports.EtcdClient),
		Cluster:   map[string]string{}, CertDir: certDir(cfg.Dir),
	}
	for _, h := range p.HomeSite().EtcdHosts() {
		s.Cluster[h.Name] = "https://" + hostPort(h.Address, p.Ports.EtcdPeer)
	}
	return s
}

// RunMember is the body of the etcd member's process.
func RunMember(ctx context.Context, specPath string, log *slog.Logger) error {
	data, err := os.ReadFile(specPath)
	if err != nil {
		return fmt.Errorf("read the member's orders: %w", err)
	}
	var s memberSpec
	if err := json.Unmarshal(data, &s); err != nil {
		return fmt.Errorf("read the member's orders: %w", err)
	}
	return etcd.RunMember(ctx, s.config(log))
}

// config is the member as the library wants it.
func (s memberSpec) config(log *slog.Logger) etcd.MemberConfig {
	return etcd.MemberConfig{
		Name: s.Name, Application: s.Application, Dir: s.Dir, Marker: s.Marker, PeerURL: s.PeerURL, ClientURL: s.ClientURL,
		Cluster: s.Cluster, Founding: s.Founding, Join: s.Join, CertFile: filepath.Join(s.CertDir, "host.crt"), KeyFile: filepath.Join(s.CertDir, "host.key"),
		CAFile: filepath.Join(s.CertDir, "ca.crt"), Log: log,
	}
}
