package plan

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

const withVault = threeHosts + "vaults: { main: { key: \"env:K\", copies: { one: \"file:///mnt/vault\" } } }\n"

func TestAFileSetIsReadAndShownAgain(t *testing.T) {
	p := mustParse(t, withVault+`files: { attachments: { path: /srv/clinic/attachments/, hosts: [b, a], exclude: ["*.tmp", "cache/"] }, rest: { path: "${root}/rest", hosts: [c] } }
backup: { attachments: { vault: main, every: 30m, keep: forever }, rest: {} }
`)
	want := []FileSet{
		{Name: "attachments", Path: "/srv/clinic/attachments", Hosts: []string{"b", "a"}, Exclude: []string{"*.tmp", "cache/"},
			Backup: FileBackup{Vault: "main", Every: Schedule{Text: "every 30m", Every: 30 * time.Minute}}},
		{Name: "rest", Path: "${root}/rest", Hosts: []string{"c"}, Backup: FileBackup{Vault: "main", Every: Schedule{Text: "every 6h", Every: 6 * time.Hour}}},
	}
	if d := cmp.Diff(want, p.Files); d != "" {
		t.Error(d)
	}
	shown, err := p.Show()
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(want, mustParse(t, string(shown)).Files); d != "" {
		t.Error(d)
	}
	if got := p.WithRoot("/var/lib/holdfast").Files[1].Path; got != "/var/lib/holdfast/rest" {
		t.Errorf("${root} became %s", got)
	}
	alone := mustParse(t, "application: x\nsites: { here: { hosts: { h1: { address: 10.0.0.1 } } } }\nfiles: { docs: { path: /srv/docs } }\n")
	if d := cmp.Diff([]string{"h1"}, alone.Files[0].Hosts); d != "" {
		t.Error("the only host has it: " + d)
	}
}

func TestMistakesInFileSets(t *testing.T) {
	for name, c := range map[string]struct{ text, want string }{
		"a relative path":                    {"files: { f: { path: srv/x, hosts: [a] } }", `:4:21: file set f: path "srv/x" is relative`},
		"the root of everything":             {"files: { f: { path: /, hosts: [a] } }", "is no directory of the application's own"},
		"a way out of ${root}":               {"files: { f: { path: \"${root}/../x\", hosts: [a] } }", "is no directory of the application's own"},
		"no host named, and there are many":  {"files: { f: { path: /srv/x } }", ":4:10: file set f: hosts is missing"},
		"a host that is not in the plan":     {"files: { f: { path: /srv/x, hosts: [z] } }", `names "z", and no host is called so`},
		"copies is a later feature":          {"files: { f: { path: /srv/x, hosts: [a], copies: 2 } }", "copies is not available in this version"},
		"a pattern that is none":             {"files: { f: { path: /srv/x, hosts: [a], exclude: [\"[a\"] } }", "is no pattern"},
		"a pattern that leads out":           {"files: { f: { path: /srv/x, hosts: [a], exclude: [\"../x\"] } }", "leads out of the directory"},
		"two stars":                          {"files: { f: { path: /srv/x, hosts: [a], exclude: [\"**/x\"] } }", "** is not available"},
		"a set inside another":               {"files: { f: { path: /srv/x, hosts: [a] }, g: { path: /srv/x/y, hosts: [b] } }", "lie in one another"},
		"a set that holds the vault":         {"files: { f: { path: /mnt, hosts: [a] } }", "a backup would hold itself"},
		"a database's schedule":              {"files: { f: { path: /srv/x, hosts: [a] } }\nbackup: { f: { full: \"daily 01:00\" } }", "full is for databases"},
		"too often":                          {"files: { f: { path: /srv/x, hosts: [a] } }\nbackup: { f: { every: 1m } }", "every"},
		"tiers of what is kept forever":      {"files: { f: { path: /srv/x, hosts: [a] } }\nbackup: { f: { weekly: 5w } }", "weekly is for databases, and for file sets with keep: tiers"},
		"a time to keep":                     {"files: { f: { path: /srv/x, hosts: [a] } }\nbackup: { f: { keep: 30d } }", "keep"},
		"a moment of an unknown database":    {"files: { f: { path: /srv/x, hosts: [a], moment: { database: r, before: /b, after: /a } } }", `file set f: moment.database "r" is not known`},
		"a moment that nothing ends":         {"files: { f: { path: /srv/x, hosts: [a], moment: { database: r, before: /b } } }", "after is missing"},
		"a relative command":                 {"databases: { r: { postgres: 15 } }\nfiles: { f: { path: /srv/x, hosts: [a], moment: { database: r, before: b, after: /a } } }", `moment.before "b" is relative`},
		"a freeze of two minutes":            {"files: { f: { path: /srv/x, hosts: [a], moment: { database: r, before: /b, after: /a, freeze: 2m } } }", "freeze"},
		"a relative command after a restore": {"databases: { r: { postgres: 15 } }\nfiles: { f: { path: /srv/x, hosts: [a], moment: { database: r, before: /b, after: /a, after_restore: [/c, d e] } } }", `moment.after_restore "d" is relative`},
		"a relative check":                   {"databases: { r: { postgres: 15 } }\nfiles: { f: { path: /srv/x, hosts: [a], moment: { database: r, before: /b, after: /a, check: c } } }", `moment.check "c" is relative`},
		"a user that is none":                {"databases: { r: { postgres: 15 } }\nfiles: { f: { path: /srv/x, hosts: [a], moment: { database: r, before: /b, after: /a, restore_user: \"0 root\" } } }", "restore_user"},
		"a command that takes two days":      {"databases: { r: { postgres: 15 } }\nfiles: { f: { path: /srv/x, hosts: [a], moment: { database: r, before: /b, after: /a, restore_limit: 2d } } }", "restore_limit"},
		"a moment on two hosts":              {"databases: { r: { postgres: 15 } }\nfiles: { f: { path: /srv/x, hosts: [a, b], moment: { database: r, before: /b, after: /a } } }", "only one can be brought to stand still"},
		"a name that a database has":         {"databases: { f: { postgres: 15 } }\nfiles: { f: { path: /srv/x, hosts: [a] } }", "the name is taken by the database"},
	} {
		t.Run(name, func(t *testing.T) {
			_, mistakes := Parse("holdfast.yaml", []byte(withVault+c.text+"\n"))
			var all []string
			for _, m := range mistakes {
				all = append(all, m.String())
			}
			if !strings.Contains(strings.Join(all, "\n"), c.want) {
				t.Errorf("%q is not among\n%s", c.want, strings.Join(all, "\n"))
			}
		})
	}
}

func TestAMomentIsReadAndShownAgain(t *testing.T) {
	p := mustParse(t, withVault+"databases: { r: { postgres: 15 } }\n"+
		"files: { f: { path: /srv/x, hosts: [a], moment: { database: r, before: /bin/stop it, after: [/bin/go, on], snapshot: 2s } } }\n")
	want := Moment{Database: "r", Before: []string{"/bin/stop", "it"}, After: []string{"/bin/go", "on"}, Freeze: time.Minute, Snapshot: 2 * time.Second}
	if d := cmp.Diff(want, p.Files[0].Moment); d != "" {
		t.Error(d)
	}
	shown, err := p.Show()
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(want, mustParse(t, string(shown)).Files[0].Moment); d != "" {
		t.Error(d)
	}
}

func TestTiersOfAFileSetAreReadAndShownAgain(t *testing.T) {
	p := mustParse(t, withVault+"files: { f: { path: /srv/x, hosts: [a] } }\nbackup: { f: { keep: tiers, all: 2d, half_daily: none } }\n")
	want := FileBackup{Vault: "main", Every: Schedule{Text: "every 6h", Every: 6 * time.Hour}, Keep: KeepTiers, All: 48 * time.Hour, Daily: 15 * day, Weekly: 2 * year}
	if d := cmp.Diff(want, p.Files[0].Backup); d != "" {
		t.Error(d)
	}
	shown, err := p.Show()
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(want, mustParse(t, string(shown)).Files[0].Backup); d != "" {
		t.Errorf("%s\n%s", d, shown)
	}
}

func TestWhatRunsAfterARestoreIsReadAndShownAgain(t *testing.T) {
	p := mustParse(t, withVault+"databases: { r: { postgres: 15 } }\n"+
		"files: { f: { path: /srv/x, hosts: [a], moment: { database: r, before: /b, after: /a,\n"+
		"  after_restore: [/opt/requeue all, [/opt/reindex, \"a b\", \"007\"]], check: /opt/check, restore_user: clinic, every: daily 03:00, zone: Europe/Berlin, jitter: 5m } } }\n")
	want := Moment{Database: "r", Before: []string{"/b"}, After: []string{"/a"}, Freeze: time.Minute, Snapshot: 10 * time.Second,
		AfterRestore: [][]string{{"/opt/requeue", "all"}, {"/opt/reindex", "a b", "007"}}, Check: []string{"/opt/check"}, RestoreLimit: 10 * time.Minute, RestoreUser: "clinic",
		Every: Schedule{Text: "daily 03:00", Cron: "0 3 * * *"}, Zone: "Europe/Berlin", Jitter: 5 * time.Minute}
	if d := cmp.Diff(want, p.Files[0].Moment); d != "" {
		t.Error(d)
	}
	shown, err := p.Show()
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(want, mustParse(t, string(shown)).Files[0].Moment); d != "" {
		t.Errorf("%s\n%s", d, shown)
	}
}

func TestWhatAChangeOfAFileSetDoes(t *testing.T) {
	set := func(with, backup string) *Plan {
		return mustParse(t, withVault+"files: { f: { path: /srv/x, hosts: [a]"+with+" } }\nbackup: { f: {"+backup+"} }\n")
	}
	old := set("", "")
	for name, c := range map[string]struct {
		new  *Plan
		want string
		left int // changes that only a start of the agents brings
	}{
		"more often":       {set("", " every: 1h "), "file set f: it is backed up every 1h (was every 6h) (reload)", 0},
		"less of it":       {set(", exclude: [x]", ""), "file set f: its backups leave out [x] (was []) (reload)", 0},
		"taken out":        {mustParse(t, withVault), "file set f: no backup is made any more; the directory and the backups there are stay (stop)", 1},
		"somewhere else":   {mustParse(t, withVault+"files: { f: { path: /srv/y, hosts: [a] } }\nbackup: { f: {} }\n"), "file set f: it is /srv/y on a (was /srv/x on a); the agents take it up when they start (restart)", 1},
		"no backup of it":  {mustParse(t, withVault+"files: { f: { path: /srv/x, hosts: [a] } }\n"), "file set f: no backup is made any more; those there are stay in vault main (stop)", 1},
		"nothing of it at": {set("", ""), "", 0},
	} {
		t.Run(name, func(t *testing.T) {
			var got []string
			for _, change := range Diff(old, c.new) {
				got = append(got, change.String())
			}
			if d := cmp.Diff(c.want, strings.Join(got, "\n")); d != "" {
				t.Error(d)
			}
			if left := len(Diff(old.Overlay(c.new), c.new)); left != c.left {
				t.Errorf("%d changes are left for a start, want %d", left, c.left)
			}
		})
	}
}
