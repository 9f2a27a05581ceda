package plan

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/goccy/go-yaml"
)

// Show is the plan with its defaults filled in, as a plan file: parsing it gives the same plan. Paths are
// absolute, and secrets stay references.
func (p *Plan) Show() ([]byte, error) {
	var top mapping
	top.put("application", p.Application)
	objectives := mapping{}
	objectives.putSpan("rpo", p.Objectives.RPO)
	objectives.putSpan("rto", p.Objectives.RTO)
	objectives.put("prefer", p.Objectives.Prefer)
	top.put("objectives", objectives)
	top.put("sites", showSites(p))
	top.putText("release", p.Release)
	top.put("ports", mapping{
		{Key: "agent", Value: p.Ports.Agent}, {Key: "gossip", Value: p.Ports.Gossip},
		{Key: "etcd_client", Value: p.Ports.EtcdClient}, {Key: "etcd_peer", Value: p.Ports.EtcdPeer},
		{Key: "gate", Value: p.Ports.Gate}, {Key: "server", Value: p.Ports.Server}, {Key: "scratch", Value: p.Ports.Scratch},
	})
	services, databases, files, vaults, backups := mapping{}, mapping{}, mapping{}, mapping{}, mapping{}
	for _, s := range p.Services {
		services.put(s.Name, showService(s))
	}
	for _, d := range p.Databases {
		databases.put(d.Name, showDatabase(d))
	}
	for _, s := range p.Files {
		files.put(s.Name, showFileSet(s))
	}
	for _, v := range p.Vaults {
		copies := mapping{}
		for _, c := range v.Copies {
			copies.put(c.Name, c.shown())
		}
		shown := mapping{{Key: "key", Value: string(v.Key)}, {Key: "copies", Value: copies}}
		shown.put("undelete", spanOrWord(v.Undelete))
		if v.Reserve > 0 {
			shown.put("reserve", formatSize(v.Reserve))
		}
		shown.put("deletions", deletionsWord(v.TwoPersons))
		shown.put("upkeep", showUpkeep(v.Upkeep))
		vaults.put(v.Name, shown)
	}
	for _, b := range p.Backups {
		backups.put(b.Of, showBackup(b))
	}
	for _, s := range p.Files {
		if s.Backup.Vault != "" {
			backups.put(s.Name, showFileBackup(s.Backup))
		}
	}
	top.putSome("services", services)
	top.putSome("databases", databases)
	top.putSome("files", files)
	top.putSome("vaults", vaults)
	top.putSome("backup", backups)
	out, err := yaml.Marshal(yaml.MapSlice(top))
	if err != nil {
		return nil, fmt.Errorf("write plan %s as YAML: %w", p.Application, err)
	}
	return out, nil
}

// mapping is a YAML mapping that keeps its order.
type mapping yaml.MapSlice

// MarshalYAML hands the order on to the encoder.
func (m mapping) MarshalYAML() (any, error) { return yaml.MapSlice(m), nil }

func (m *mapping) put(key string, value any) {
	switch v := value.(type) {
	case string:
		value = readable(v)
	case []string:
		list := make([]any, len(v))
		for i, s := range v {
			list[i] = readable(s)
		}
		value = list
	}
	*m = append(*m, yaml.MapItem{Key: key, Value: value})
}

// readable is s, or its quoted form where the encoder writes one that its own parser takes for a mapping.
func readable(s string) any {
	if strings.HasPrefix(s, "? ") {
		return quoted(s)
	}
	return s
}

// quoted is a text that is always written in quotes.
type quoted string

// MarshalYAML implements [yaml.BytesMarshaler]: JSON's quotes are YAML's.
func (q quoted) MarshalYAML() ([]byte, error) { return json.Marshal(string(q)) }

func (m *mapping) putText(key, value string) {
	if value != "" {
		m.put(key, value)
	}
}

func (m *mapping) putSpan(key string, d time.Duration) {
	if d > 0 {
		m.put(key, FormatDuration(d))
	}
}

func (m *mapping) putSome(key string, some mapping) {
	if len(some) > 0 {
		m.put(key, some)
	}
}

func (m *mapping) putList(key string, list []string) {
	if len(list) > 0 {
		m.put(key, list)
	}
}

func showSites(p *Plan) mapping {
	var sites mapping
	for _, s := range p.Sites {
		var hosts, site mapping
		for _, h := range s.Hosts {
			hosts.put(h.Name, mapping{{Key: "address", Value: h.Address}, {Key: "fault_domain", Value: h.FaultDomain}, {Key: "etcd", Value: h.Etcd}})
		}
		site.putText("region", s.Region)
		site.put("hosts", hosts)
		sites.put(s.Name, site)
	}
	return sites
}

func showService(s Service) mapping {
	var m, env mapping
	m.putList("run", s.Run)
	m.put("instances", s.Instances)
	if s.Port > 0 {
		m.put("port", s.Port)
	}
	m.put("route", s.Route.String())
	if s.Live != nil {
		m.put("live", showCheck(*s.Live, true))
	}
	if s.Ready != nil {
		m.put("ready", showCheck(*s.Ready, false))
	}
	for _, v := range s.Env {
		env.put(v.Name, v.Value)
	}
	m.putSome("env", env)
	m.putSpan("stop_grace", s.StopGrace)
	m.putList("hosts", s.Hosts)
	if s.TLS != nil {
		m.put("tls", mapping{{Key: "certificate", Value: string(s.TLS.Cert)}, {Key: "key", Value: string(s.TLS.Key)}})
	}
	return m
}

func showCheck(c Check, liveness bool) mapping {
	var m mapping
	switch c.Kind {
	case "http":
		m.put("http", c.Path)
	case "tcp":
		m.put("tcp", true)
	case "exec":
		m.putList("exec", c.Argv)
	}
	m.putSpan("every", c.Every)
	m.putSpan("timeout", c.Timeout)
	m.put("fall", c.Fall)
	m.put("rise", c.Rise)
	if liveness {
		m.putSpan("start_for", c.StartFor)
	}
	return m
}

func showDatabase(d Database) mapping {
	var m, roles, parameters, members mapping
	m.put("postgres", d.Postgres)
	m.putText("bin_dir", d.BinDir)
	m.put("standbys", d.Standbys)
	m.put("acknowledged_by", d.AcknowledgedBy)
	m.putText("acknowledged_by_vault", d.ByVault)
	m.putList("hosts", d.Hosts)
	for _, x := range d.Members {
		var member mapping
		if x.Async && x.Follows == "" {
			member.put("mode", "async")
		}
		member.put("promote", x.Promote)
		member.putText("follows", x.Follows)
		members.put(x.Host, member)
	}
	m.putSome("members", members)
	if d.Relaxed {
		m.put("policy", "relaxed")
	}
	listen := mapping{{Key: "write", Value: d.WritePort}}
	if d.ReadPort != 0 {
		listen.put("read", d.ReadPort)
		listen.putSpan("max_lag", d.MaxLag)
		listen.putText("read_fallback", d.ReadFallback)
	}
	listen.putText("path", d.Path)
	m.put("listen", listen)
	if d.CopyLimit > 0 {
		m.put("copy_limit", formatSize(d.CopyLimit)+"/s")
	}
	m.putList("copy_from", d.CopyFrom)
	m.put("slots", mapping{{Key: "max", Value: formatSize(d.SlotMax)}, {Key: "after", Value: FormatDuration(d.SlotAfter)}})
	m.put("disk_full", d.DiskFull)
	m.put("salvage", d.Salvage.shown(d.Name))
	if len(d.OnTrouble.Run) > 0 {
		var trouble mapping
		trouble.putList("run", d.OnTrouble.Run)
		trouble.put("limit", FormatDuration(d.OnTrouble.Limit))
		m.put("on_trouble", trouble)
	}
	for _, r := range d.Roles {
		var role mapping
		role.put("password", string(r.Password))
		role.putList("owns", r.Owns)
		roles.put(r.Name, role)
	}
	m.putSome("roles", roles)
	for _, p := range d.Parameters {
		parameters.put(p.Name, p.Value)
	}
	m.putSome("parameters", parameters)
	return m
}

func showBackup(b Backup) mapping {
	var m mapping
	m.put("vault", b.Vault)
	m.put("full", b.Full.Text)
	if b.Incremental != (Schedule{}) {
		m.put("incremental", b.Incremental.Text)
	}
	m.put("prove", scheduleWord(b.Prove))
	m.put("zone", zoneText(b.Zone))
	m.put("jitter", spanOrWord(b.Jitter))
	if b.Limit > 0 {
		m.put("limit", formatSize(b.Limit)+"/s")
	}
	m.put("pitr", spanOrWord(b.PITR))
	m.put("all", spanOrWord(b.All))
	m.put("half_daily", spanOrWord(b.HalfDaily))
	m.put("daily", spanOrWord(b.Daily))
	m.put("weekly", spanOrWord(b.Weekly))
	m.putSome("validate", b.Validate.shown())
	if b.Spill != "" {
		m.put("spill", b.Spill)
	}
	return m
}

func spanOrWord(d time.Duration) string {
	if d == 0 {
		return "none"
	}
	return FormatDuration(d)
}

// describeCheck is a health check in a few words.
func describeCheck(c *Check) string {
	switch {
	case c == nil:
		return "none"
	case c.Kind == "http":
		return c.Path
	case c.Kind == "exec":
		return strings.Join(c.Argv, " ")
	}
	return c.Kind
}

func deletionsWord(two bool) string {
	if two {
		return "two-persons"
	}
	return "one-person"
}
