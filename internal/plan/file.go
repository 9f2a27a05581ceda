package plan

import (
	"fmt"
	"net/netip"
	"strings"
	"time"
)

// The types below are the file as it is written; resolve.go makes a [Plan] of them.
type (
	planFile struct {
		application located[string]
		objectives  located[objectivesFile]
		sites       located[[]named[siteFile]]
		release     located[string]
		ports       located[portsFile]
		services    located[[]named[serviceFile]]
		databases   located[[]named[databaseFile]]
		files       located[[]named[fileSetFile]]
		vaults      located[[]named[vaultFile]]
		backup      located[[]named[backupFile]]
	}
	objectivesFile struct {
		rpo, rto located[time.Duration]
		prefer   located[string]
	}
	siteFile struct {
		region located[string]
		hosts  located[[]named[hostFile]]
	}
	hostFile struct {
		address     located[netip.Addr]
		faultDomain located[string]
		etcd        located[bool]
	}
	portsFile struct {
		agent, gossip, etcdClient, etcdPeer, gate, server, scratch located[int]
	}
	serviceFile struct {
		run       located[[]string]
		instances located[int]
		port      located[int]
		route     located[*Route]
		live      located[Check]
		ready     located[Check]
		env       located[[]named[string]]
		stopGrace located[time.Duration]
		hosts     located[[]located[string]]
		tls       located[tlsFile]
	}
	tlsFile      struct{ certificate, key located[Secret] }
	databaseFile struct {
		postgres       located[int]
		binDir         located[string]
		standbys       located[int]
		acknowledgedBy located[int]
		byVault        located[string]
		hosts          located[[]located[string]]
		members        located[[]named[memberFile]]
		policy         located[string]
		listen         located[listenFile]
		roles          located[[]named[roleFile]]
		parameters     located[[]named[string]]
		copyLimit      located[int64]
		copyFrom       located[[]located[string]]
		slots          located[slotsFile]
		diskFull       located[string]
		salvage        located[salvageFile]
		onTrouble      located[troubleFile]
	}
	troubleFile struct {
		run   located[[]string]
		limit located[time.Duration]
	}
	slotsFile struct {
		max   located[int64]
		after located[time.Duration]
	}
	memberFile struct{ mode, promote, follows located[string] }
	listenFile struct {
		write, read  located[int]
		maxLag       located[time.Duration]
		readFallback located[string]
		path         located[string]
	}
	roleFile struct {
		password located[Secret]
		owns     located[[]located[string]]
	}
	vaultFile struct {
		key      located[Secret]
		copies   located[[]named[copyFile]]
		undelete located[time.Duration]
		reserve  located[int64]
		upkeep   located[upkeepFile]

		deletions located[string]
	}
	backupFile struct {
		vault       located[string]
		full        located[Schedule]
		incremental located[Schedule]
		prove       located[Schedule]
		zone        located[string]
		jitter      located[time.Duration]
		limit       located[int64]
		pitr        located[time.Duration]
		all         located[time.Duration]
		halfDaily   located[time.Duration]
		daily       located[time.Duration]
		weekly      located[time.Duration]
		validate    located[validateFile]
		every       located[Schedule]
		keep        located[string]
		spill       located[string]
	}
)

func port() form[int] { return whole("a port", 1, 65535) }

// document is the whole file; relative paths in it lead from dir.
func document(dir string) form[planFile] {
	return object(
		must(key("application", nameText(label()), "Name of the application.", func(f *planFile) *located[string] { return &f.application })),
		key("objectives", objectives(), "What a site's death may cost.", func(f *planFile) *located[objectivesFile] { return &f.objectives }),
		must(key("sites", byName(label(), site()), "Places with hosts of their own; the first is the home site.", func(f *planFile) *located[[]named[siteFile]] { return &f.sites })),
		key("release", path(dir), "Directory or .tar.gz that every host runs; relative to the plan file.", func(f *planFile) *located[string] { return &f.release }),
		key("ports", ports(), "Holdfast's own ports, the same on each host.", func(f *planFile) *located[portsFile] { return &f.ports }),
		key("services", byName(label(), service(dir)), "Programs that Holdfast keeps running.", func(f *planFile) *located[[]named[serviceFile]] { return &f.services }),
		key("databases", byName(label(), database(dir)), "PostgreSQL clusters.", func(f *planFile) *located[[]named[databaseFile]] { return &f.databases }),
		key("files", byName(label(), fileSet()), "Directories that are backed up as they are.", func(f *planFile) *located[[]named[fileSetFile]] { return &f.files }),
		key("vaults", byName(label(), vault(dir)), "Encrypted storage for backups.", func(f *planFile) *located[[]named[vaultFile]] { return &f.vaults }),
		key("backup", byName(label(), backup()), "What is backed up, by the name of its database or file set.", func(f *planFile) *located[[]named[backupFile]] { return &f.backup }),
		notYet[planFile]("witness"), notYet[planFile]("recovery"), notYet[planFile]("drills"),
		notYet[planFile]("notify"), notYet[planFile]("dns"), notYet[planFile]("policy"),
	)
}

func objectives() form[objectivesFile] {
	return object(
		key("rpo", span(time.Second, year), "Most data that may be lost when a site dies, as time.", func(f *objectivesFile) *located[time.Duration] { return &f.rpo }),
		key("rto", span(time.Second, year), "Longest time without service, people included.", func(f *objectivesFile) *located[time.Duration] { return &f.rto }),
		key("prefer", oneOf("rpo", "rto"), "Which one counts when only one can be met (default rpo: wait rather than lose).", func(f *objectivesFile) *located[string] { return &f.prefer }),
	)
}

func site() form[siteFile] {
	return object(
		key("region", nameText(label()), "Where data may live.", func(f *siteFile) *located[string] { return &f.region }),
		must(key("hosts", byName(label(), host()), "The site's machines.", func(f *siteFile) *located[[]named[hostFile]] { return &f.hosts })),
	)
}

func host() form[hostFile] {
	return object(
		must(key("address", address(), "IP address that other hosts and clients reach it by.", func(f *hostFile) *located[netip.Addr] { return &f.address })),
		key("fault_domain", nameText(label()), "What it may fail together with: a rack, a room (default: the host alone).", func(f *hostFile) *located[string] { return &f.faultDomain }),
		key("etcd", yesNo(), "Whether it holds a member of the embedded etcd (default: 1, 3 or 5 hosts of the site, over fault domains).", func(f *hostFile) *located[bool] { return &f.etcd }),
	)
}

func ports() form[portsFile] {
	return object(
		key("agent", port(), "Agents talk to each other (default 7400).", func(f *portsFile) *located[int] { return &f.agent }),
		key("gossip", port(), "Membership, TCP and UDP (default 7401).", func(f *portsFile) *located[int] { return &f.gossip }),
		key("etcd_client", port(), "etcd's clients (default 7402).", func(f *portsFile) *located[int] { return &f.etcdClient }),
		key("etcd_peer", port(), "etcd's members (default 7403).", func(f *portsFile) *located[int] { return &f.etcdPeer }),
		key("gate", port(), "First of one port for each database: its gate (default 7410).", func(f *portsFile) *located[int] { return &f.gate }),
		key("server", port(), "First of one port for each database: its PostgreSQL server (default 7430).", func(f *portsFile) *located[int] { return &f.server }),
		key("scratch", port(), "First of ten ports for restored scratch servers (default 7450).", func(f *portsFile) *located[int] { return &f.scratch }),
	)
}

func service(dir string) form[serviceFile] {
	hostNames := listOf(nameText(label()))
	env := nameRule{pattern: `^[A-Za-z_][A-Za-z0-9_]*$`, allows: isEnvName, allowed: "letters, digits and _, first no digit"}
	return object(
		must(key("run", argv(), "Command; its program is relative to the release. Text is split at spaces, no shell reads it.", func(f *serviceFile) *located[[]string] { return &f.run })),
		key("instances", whole("a number of instances", 1, 1000), "How many run at once; 1 = never two at once (default 1).", func(f *serviceFile) *located[int] { return &f.instances }),
		key("port", port(), "Port that each instance listens on.", func(f *serviceFile) *located[int] { return &f.port }),
		key("route", route(), "How clients reach it: an http, https or tcp address, or none (default).", func(f *serviceFile) *located[*Route] { return &f.route }),
		key("live", health(true), "An instance that fails this is restarted.", func(f *serviceFile) *located[Check] { return &f.live }),
		key("ready", health(false), "An instance that fails this gets no traffic.", func(f *serviceFile) *located[Check] { return &f.ready }),
		key("env", byName(env, anyScalar("a value, a template or a reference")), "Environment: values, templates such as ${databases.NAME.write_url}, or references env:, file:, exec:.", func(f *serviceFile) *located[[]named[string]] { return &f.env }),
		key("stop_grace", span(100*time.Millisecond, time.Hour), "Time to end by itself before it is killed (default 10s).", func(f *serviceFile) *located[time.Duration] { return &f.stopGrace }),
		key("hosts", hostNames, "Hosts that it may run on (default: any of the home site).", func(f *serviceFile) *located[[]located[string]] { return &f.hosts }),
		key("tls", tlsFiles(dir), "Certificate that the edge shows for an https route (default: one of the application's own authority).", func(f *serviceFile) *located[tlsFile] { return &f.tls }),
		notYet[serviceFile]("instances_on_standby"), notYet[serviceFile]("depends_on"), notYet[serviceFile]("runtime"),
	)
}

func tlsFiles(dir string) form[tlsFile] {
	return object(
		must(key("certificate", secretFile(dir), "Certificate chain, PEM: file:/path.", func(f *tlsFile) *located[Secret] { return &f.certificate })),
		must(key("key", secretFile(dir), "Private key, PEM: file:/path.", func(f *tlsFile) *located[Secret] { return &f.key })),
	)
}

func database(dir string) form[databaseFile] {
	return object(
		must(key("postgres", whole("a PostgreSQL major version", 14, 18), "PostgreSQL major version, 14 to 18.", func(f *databaseFile) *located[int] { return &f.postgres })),
		key("bin_dir", path(dir), "Where its programs lie (default: found on each host).", func(f *databaseFile) *located[string] { return &f.binDir }),
		key("standbys", whole("a number of standbys", 0, 8), "Servers besides the primary (default 2, or as many as there are other hosts).", func(f *databaseFile) *located[int] { return &f.standbys }),
		key("acknowledged_by", whole("a number of standbys", 0, 8), "Standbys that hold a commit before the client hears of it (default: half of them, rounded up).", func(f *databaseFile) *located[int] { return &f.acknowledgedBy }),
		key("acknowledged_by_vault", oneOf(VaultStrict, VaultRelaxed), "The vault must hold a commit too before the client hears of it; without the vault, strict lets writes wait, relaxed goes on after 10 s, and says so (default: commits do not wait for it).", func(f *databaseFile) *located[string] { return &f.byVault }),
		key("hosts", listOf(nameText(label())), "Hosts that may hold it, best first (default: all of the home site).", func(f *databaseFile) *located[[]located[string]] { return &f.hosts }),
		key("members", byName(label(), member()), "How hosts take part when they are not the primary; each host named here holds a copy.", func(f *databaseFile) *located[[]named[memberFile]] { return &f.members }),
		key("policy", oneOf("strict", "relaxed"), "With too few standbys, strict lets writes wait (default); relaxed lets fewer acknowledge, and says so.", func(f *databaseFile) *located[string] { return &f.policy }),
		key("listen", listen(), "Ports that lead to it on every host.", func(f *databaseFile) *located[listenFile] { return &f.listen }),
		key("roles", byName(sqlName(), role(dir)), "Login roles.", func(f *databaseFile) *located[[]named[roleFile]] { return &f.roles }),
		key("parameters", byName(parameterName(), anyScalar("a PostgreSQL value")), "PostgreSQL settings that Holdfast does not reserve.", func(f *databaseFile) *located[[]named[string]] { return &f.parameters }),
		key("copy_limit", rate(), "Most that making a standby may move, such as 50MB/s (default: no limit).", func(f *databaseFile) *located[int64] { return &f.copyLimit }),
		key("copy_from", listOf(oneOf(CopyFromStandby, CopyFromVault, CopyFromPrimary)), "What a standby is made of, best first: standby, vault, primary (default [standby, primary]). What is not named is not used.", func(f *databaseFile) *located[[]located[string]] { return &f.copyFrom }),
		key("slots", slots(), "How much log is kept for a standby that is away; it is copied anew after that.", func(f *databaseFile) *located[slotsFile] { return &f.slots }),
		key("disk_full", oneOf("read-only", "failover"), "What a primary does whose disk is nearly full: stop taking writes (default), or hand over to a standby that has room.", func(f *databaseFile) *located[string] { return &f.diskFull }),
		key("salvage", salvage(dir), "What becomes of commits that a forced failover gave up: keep (default: they wait for a person), or a mapping with discard, export or command.", func(f *databaseFile) *located[salvageFile] { return &f.salvage }),
		key("on_trouble", onTrouble(), "A command on the primary's own host, before a standby takes over from a server that a restart did not help or a disk that refuses or hangs (default: none).", func(f *databaseFile) *located[troubleFile] { return &f.onTrouble }),
		notYet[databaseFile]("tenants"), notYet[databaseFile]("two_nodes"), notYet[databaseFile]("strict"), notYet[databaseFile]("path"),
	)
}

func member() form[memberFile] {
	return object(
		key("mode", oneOf("sync", "async"), "async = no commit waits for it, and it never takes over by itself (default sync).", func(f *memberFile) *located[string] { return &f.mode }),
		key("promote", oneOf("never", "low", "normal", "high"), "How gladly it becomes the primary, among those that hold equally much (default normal).", func(f *memberFile) *located[string] { return &f.promote }),
		key("follows", nameText(label()), "Another member that it streams from in place of the primary; it is asynchronous then.", func(f *memberFile) *located[string] { return &f.follows }),
	)
}

func listen() form[listenFile] {
	return object(
		key("write", port(), "Always leads to the primary (default 5432, the next database 5433, ...).", func(f *listenFile) *located[int] { return &f.write }),
		key("read", port(), "Spreads read-only sessions over the standbys (default: none).", func(f *listenFile) *located[int] { return &f.read }),
		key("max_lag", span(minLag, 24*time.Hour), "How far behind the primary a standby may be to be read (default 10s).", func(f *listenFile) *located[time.Duration] { return &f.maxLag }),
		key("read_fallback", oneOf(FallbackRefuse, FallbackPrimary), "What read does when no standby may be read: refuse (default) or primary.", func(f *listenFile) *located[string] { return &f.readFallback }),
		key("path", oneOf(PathProxy, PathKernel), "How a host's own programs get to the primary through write: proxy (default: Holdfast passes bytes on) or kernel (rules lead straight to it).", func(f *listenFile) *located[string] { return &f.path }),
	)
}

func onTrouble() form[troubleFile] {
	return object(
		must(key("run", argv(), "Command, by its whole path. It runs as the user of the agent; text is split at spaces, no shell reads it.", func(f *troubleFile) *located[[]string] { return &f.run })),
		key("limit", span(time.Second, 5*time.Minute), "How long a takeover waits for it, at most; then it is killed (default 30s).", func(f *troubleFile) *located[time.Duration] { return &f.limit }),
	)
}

func slots() form[slotsFile] {
	return object(
		key("max", size(), "Log in bytes, such as 20GB (default 8GB).", func(f *slotsFile) *located[int64] { return &f.max }),
		key("after", span(time.Minute, year), "Time since the standby was last there (default 1h).", func(f *slotsFile) *located[time.Duration] { return &f.after }),
	)
}

func role(dir string) form[roleFile] {
	return object(
		must(key("password", secret(dir), "Reference: env:NAME, file:/path or exec:command.", func(f *roleFile) *located[Secret] { return &f.password })),
		key("owns", listOf(nameText(sqlName())), "Databases inside the cluster that it owns; made when they are missing.", func(f *roleFile) *located[[]located[string]] { return &f.owns }),
	)
}

func vault(dir string) form[vaultFile] {
	return object(
		must(key("key", secret(dir), "Reference to the key that encrypts everything: env:NAME, file:/path or exec:command.", func(f *vaultFile) *located[Secret] { return &f.key })),
		must(key("copies", byName(label(), vaultCopy(dir)), "Places that each hold all of it, usually named after a site: file:///path, s3://bucket/prefix, azblob://account/container/prefix, or a mapping with url.", func(f *vaultFile) *located[[]named[copyFile]] { return &f.copies })),
		key("undelete", spanOrNone(day, 5*year), "How long what is deleted from a directory can be brought back (default 7d); none = not at all.", func(f *vaultFile) *located[time.Duration] { return &f.undelete }),
		key("reserve", size(), "Room on the disk of a copy in a directory that base backups and files leave to the log (default a tenth of the disk, 4GB at most).", func(f *vaultFile) *located[int64] { return &f.reserve }),
		key("upkeep", upkeep(), "When it is looked after: retention, scrub, locks, copies.", func(f *vaultFile) *located[upkeepFile] { return &f.upkeep }),
		key("deletions", oneOf("one-person", "two-persons"), "Who must agree before a pin or a legal hold is lifted, an old key retired, or retention made shorter: one-person (default) or two-persons, with certificates of their own.", func(f *vaultFile) *located[string] { return &f.deletions }),
	)
}

func backup() form[backupFile] {
	return object(
		key("vault", nameText(label()), "Vault that it goes to (default: the only one).", func(f *backupFile) *located[string] { return &f.vault }),
		key("full", schedule(), `When a base backup is made (default "daily 01:00").`, func(f *backupFile) *located[Schedule] { return &f.full }),
		key("incremental", schedule(), "When a base backup is made between the full ones that takes over what did not change; it is whole by itself (default: never).", func(f *backupFile) *located[Schedule] { return &f.incremental }),
		key("prove", scheduleOrNever(), `When a backup that was never proven, or else the newest, is restored on trial again (default "Sunday 05:00"); each is, besides, when it is made.`, func(f *backupFile) *located[Schedule] { return &f.prove }),
		key("zone", zone(), "Time zone of these times, such as Europe/Berlin (default UTC).", func(f *backupFile) *located[string] { return &f.zone }),
		key("jitter", spanOrNone(time.Second, 6*time.Hour), "By how much each run may be late, so that not everything begins at once (default none).", func(f *backupFile) *located[time.Duration] { return &f.jitter }),
		key("limit", rate(), "Most that a base backup which the schedule makes reads, such as 50MB/s (default: no limit).", func(f *backupFile) *located[int64] { return &f.limit }),
		key("all", spanOrNone(time.Hour, 100*year), "How long every backup stays (default 24h).", func(f *backupFile) *located[time.Duration] { return &f.all }),
		key("half_daily", spanOrNone(time.Hour, 100*year), "How long one backup of each 12 hours stays (default 7d).", func(f *backupFile) *located[time.Duration] { return &f.halfDaily }),
		key("daily", spanOrNone(day, 100*year), "How long one backup of each day stays (default 15d; always a day longer than pitr).", func(f *backupFile) *located[time.Duration] { return &f.daily }),
		key("pitr", spanOrNone(time.Hour, 100*year), "How far back any moment can be restored (default 14d); none = whole backups alone.", func(f *backupFile) *located[time.Duration] { return &f.pitr }),
		key("weekly", spanOrNone(week, 100*year), "How long one backup of each week stays (default 2y); none = not longer than pitr.", func(f *backupFile) *located[time.Duration] { return &f.weekly }),
		key("validate", validation(), "How a base backup is looked at after it was restored on trial.", func(f *backupFile) *located[validateFile] { return &f.validate }),
		key("every", filesSchedule(), "Of a file set: time from the beginning of one backup to the next, or when they are made, such as daily 01:00 (default 6h).", func(f *backupFile) *located[Schedule] { return &f.every }),
		key("keep", oneOf(KeepForever, KeepTiers), "Of a file set: forever (default), or tiers: as long as all, half_daily, daily and weekly say.", func(f *backupFile) *located[string] { return &f.keep }),
		key("spill", fileSetPath(), "Of a database: a directory on another disk, the same on each host, that takes the log when it waits for the vault and has no room elsewhere (default: none).", func(f *backupFile) *located[string] { return &f.spill }),
		notYet[backupFile]("pins"),
	)
}

// address is an IP address that others can reach.
func address() form[netip.Addr] {
	return text(jsonSchema{"anyOf": []any{jsonSchema{"format": "ipv4"}, jsonSchema{"format": "ipv6"}}}, "an IP address such as 10.1.0.11", func(s string) (netip.Addr, error) {
		a, err := netip.ParseAddr(s)
		if err != nil {
			return a, fmt.Errorf("%q is not an IP address (such as 10.1.0.11, without a port)", s)
		}
		a = a.Unmap()
		if a.IsUnspecified() || a.IsMulticast() || a.Zone() != "" || a == netip.AddrFrom4([4]byte{255, 255, 255, 255}) {
			return a, fmt.Errorf("%q is no address of one host (such as 10.1.0.11)", s)
		}
		return a, nil
	})
}

// path is a file or directory, made absolute below dir.
func path(dir string) form[string] {
	return text(jsonSchema{"minLength": 1}, "a path", func(s string) (string, error) {
		if s == "" || strings.ContainsRune(s, 0) {
			return "", fmt.Errorf("%q is not a path (such as ./build)", s)
		}
		if strings.Contains(s, "://") {
			return "", fmt.Errorf("%q is not available in this version (a path on each host)", s)
		}
		if strings.Contains(strings.TrimPrefix(s, rootTemplate), "${") {
			return "", fmt.Errorf("%q holds a template that has no place here (${root} at its start)", s)
		}
		return under(dir, s)
	})
}

func isEnvName(s string) bool {
	for i, c := range s {
		if c != '_' && (c < 'A' || c > 'Z') && (c < 'a' || c > 'z') && (i == 0 || c < '0' || c > '9') {
			return false
		}
	}
	return s != ""
}
