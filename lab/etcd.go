package lab

import (
	"bufio"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"holdfast/internal/auth"
)

// etcdClientPort is where a member answers clients, by default.
const etcdClientPort = 7402

// EtcdLeader is the host whose etcd member leads now, as the members' own figures tell.
func (w *World) EtcdLeader() string {
	w.t.Helper()
	for deadline := time.Now().Add(servedMax); ; time.Sleep(200 * time.Millisecond) {
		var errs []error
		for _, h := range w.Hosts {
			leads, err := w.leads(h)
			if leads {
				return h
			}
			errs = append(errs, err)
		}
		if time.Now().After(deadline) {
			w.t.Fatalf("no etcd member leads: %v", errors.Join(errs...))
		}
	}
}

// LeadsEtcd reports whether a host's member says that it leads. One that stands still says nothing.
func (w *World) LeadsEtcd(host string) bool {
	leads, err := w.leads(host)
	return err == nil && leads
}

// EtcdWaits reports whether a host's member says that something waits to be agreed on.
func (w *World) EtcdWaits(host string) bool {
	value, err := w.figure(host, "etcd_server_proposals_pending")
	return err == nil && value != "0"
}

func (w *World) leads(host string) (bool, error) {
	value, err := w.figure(host, "etcd_server_is_leader")
	return value == "1", err
}

// figure is one of those that a host's member tells of itself.
func (w *World) figure(host, name string) (string, error) {
	cfg, err := auth.ClientTLS(filepath.Join(w.Root, "hosts", host, "tls"), "")
	if err != nil {
		return "", err
	}
	transport := &http.Transport{TLSClientConfig: cfg, DialContext: w.Net.Dial(outside), DisableKeepAlives: true}
	client := http.Client{Transport: transport, Timeout: openMax}
	answer, err := client.Get(fmt.Sprintf("https://%s:%d/metrics", w.Address[host], etcdClientPort))
	if err != nil {
		return "", err
	}
	defer func() { _ = answer.Body.Close() }() // only read
	lines := bufio.NewScanner(answer.Body)
	for lines.Scan() {
		if value, ok := strings.CutPrefix(lines.Text(), name+" "); ok {
			return value, nil
		}
	}
	return "", fmt.Errorf("%s does not tell %s: %s, %w", host, name, answer.Status, lines.Err())
}

// EtcdDirs are the directories of all members' data, by host.
func (w *World) EtcdDirs() map[string]string {
	dirs := map[string]string{}
	for _, h := range w.Hosts {
		dir := filepath.Join(w.Root, "hosts", h, "etcd")
		if _, err := os.Stat(dir); err == nil {
			dirs[h] = dir
		}
	}
	return dirs
}

// PowerOffAll takes the power from every host at once.
func (w *World) PowerOffAll() {
	w.t.Helper()
	for _, h := range w.Hosts {
		w.PowerOff(h)
	}
}

// PowerOnAll gives it back, with every link whole.
func (w *World) PowerOnAll() {
	w.t.Helper()
	w.Net.Heal()
	for _, h := range w.Hosts {
		w.PowerOn(h)
	}
}
