package plan

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// withCopy is a plan whose vault has one copy.
func withCopy(copied string) []byte {
	return []byte(`application: clinic
sites: { here: { hosts: { h1: { address: 127.0.0.1 } } } }
databases: { records: { postgres: 15, standbys: 0, acknowledged_by: 0 } }
vaults: { main: { key: "env:K", copies: { one: ` + copied + ` } } }
backup: { records: { vault: main, full: "daily 01:00" } }
`)
}

func TestACopyOfAVaultIsReadAndShownAgain(t *testing.T) {
	for name, c := range map[string]struct {
		text string
		want Copy
	}{
		"a directory": {`"file:///mnt/backup"`, Copy{URL: "file:///mnt/backup"}},
		"a bucket by its address alone takes the rest from the environment": {`"s3://clinic-east/records"`, Copy{URL: "s3://clinic-east/records"}},
		"a slash at the end changes nothing":                                {`"s3://clinic-east/"`, Copy{URL: "s3://clinic-east"}},
		"a mapping with nothing but the address is the same":                {`{ url: "s3://clinic-east" }`, Copy{URL: "s3://clinic-east"}},
		"endpoint, region and style": {
			`{ url: "s3://clinic-east", endpoint: "https://s3.example.net:9000/", region: eu-1, path_style: true }`,
			Copy{URL: "s3://clinic-east", S3: S3{Endpoint: "https://s3.example.net:9000", Region: "eu-1", PathStyle: "true"}},
		},
		"a style by host name is not the same as none": {`{ url: "s3://clinic-east", path_style: false }`, Copy{URL: "s3://clinic-east", S3: S3{PathStyle: "false"}}},
		"three pairs of credentials, and a lock": {
			`{ url: "s3://c1x", access_key: "env:A", secret_key: "env:B", read: { access_key: "env:C", secret_key: "env:D" }, delete: { access_key: "env:E", secret_key: "env:F" }, lock: 30d, ca_file: /etc/ca.pem }`,
			Copy{URL: "s3://c1x", S3: S3{
				Write: Access{"env:A", "env:B"}, Read: Access{"env:C", "env:D"}, Delete: Access{"env:E", "env:F"},
				Lock: 30 * 24 * time.Hour, CAFile: "/etc/ca.pem",
			}},
		},
		"a container by its address alone": {`"azblob://clinicstore/backup/records/"`, Copy{URL: "azblob://clinicstore/backup/records"}},
		"a container with a key":           {`{ url: "azblob://clinicstore/backup", account_key: "env:A" }`, Copy{URL: "azblob://clinicstore/backup", Azure: Azure{AccountKey: "env:A"}}},
		"a container with three signatures": {
			`{ url: "azblob://clinicstore/backup", endpoint: "https://x.example", sas: "env:A", read_sas: "env:B", delete_sas: "env:C", ca_file: /etc/ca.pem }`,
			Copy{URL: "azblob://clinicstore/backup", Azure: Azure{Endpoint: "https://x.example", CAFile: "/etc/ca.pem", SAS: "env:A", ReadSAS: "env:B", DeleteSAS: "env:C"}},
		},
	} {
		t.Run(name, func(t *testing.T) {
			c.want.Name = "one"
			p, mistakes := Parse("holdfast.yaml", withCopy(c.text))
			if len(mistakes) > 0 {
				t.Fatal(mistakes)
			}
			if d := cmp.Diff(c.want, p.Vaults[0].Copies[0]); d != "" {
				t.Error(d)
			}
			shown, err := p.Show()
			if err != nil {
				t.Fatal(err)
			}
			again, mistakes := Parse("holdfast.yaml", shown)
			if len(mistakes) > 0 {
				t.Fatalf("%v in\n%s", mistakes, shown)
			}
			if d := cmp.Diff(c.want, again.Vaults[0].Copies[0]); d != "" {
				t.Errorf("shown and read again: %s\n%s", d, shown)
			}
		})
	}
}

func TestACopyThatCannotBeIsRefusedWithItsReason(t *testing.T) {
	for name, c := range map[string]struct{ text, says string }{
		"a bucket in capitals":                  {`"s3://Clinic"`, "3 to 63 small letters"},
		"a bucket of two letters":               {`"s3://ab"`, "is not a place"},
		"a prefix that leads out":               {`"s3://clinic/a/../b"`, "is not a place"},
		"credentials in the address":            {`"s3://me:hunter2@clinic/x"`, "carries a user name or password"},
		"half a pair of credentials":            {`{ url: "s3://clinic", access_key: "env:A" }`, "access_key and secret_key go together"},
		"half a pair for reading":               {`{ url: "s3://clinic", read: { access_key: "env:A" } }`, "secret_key is missing"},
		"a secret itself, where one is named":   {`{ url: "s3://clinic", access_key: hunter2, secret_key: "env:B" }`, "access_key"},
		"an endpoint with a path":               {`{ url: "s3://clinic", endpoint: "https://x/y" }`, "is not an endpoint"},
		"an endpoint with a password":           {`{ url: "s3://clinic", endpoint: "https://me:hunter2@x" }`, "carries a user name or password"},
		"an endpoint that is no web address":    {`{ url: "s3://clinic", endpoint: "ftp://x" }`, "is not an endpoint"},
		"a lock shorter than a day":             {`{ url: "s3://clinic", lock: 1h }`, "lock"},
		"a lock for a directory":                {`{ url: "file:///mnt/x", lock: 30d }`, "lock has no meaning for file:///mnt/x"},
		"an endpoint for a directory":           {`{ url: "file:///mnt/x", endpoint: "https://x" }`, "endpoint has no meaning"},
		"a key that nobody knows":               {`{ url: "s3://clinic", bucket: x }`, "bucket"},
		"a mapping without an address":          {`{ region: eu-1 }`, "url is missing"},
		"a place that this version has not":     {`"azure://account/container"`, "not available in this version"},
		"another place that this one has not":   {`"sftp://host/x"`, "not available in this version"},
		"an account in capitals":                {`"azblob://Clinic/backup"`, "3 to 24 small letters"},
		"a container that is missing":           {`"azblob://clinic"`, "is not a place"},
		"a container's prefix that leads out":   {`"azblob://clinic/backup/a/../b"`, "is not a place"},
		"two ways into a container":             {`{ url: "azblob://clinic/backup", account_key: "env:A", sas: "env:B" }`, "two ways in"},
		"a lock for a container":                {`{ url: "azblob://clinic/backup", lock: 30d }`, "lock is not available in this version"},
		"a bucket's credentials for Azure":      {`{ url: "azblob://clinic/backup", access_key: "env:A", secret_key: "env:B" }`, "access_key has no meaning"},
		"a signature for a bucket":              {`{ url: "s3://clinic", sas: "env:A" }`, "sas has no meaning for s3://clinic (allowed: with azblob://"},
		"two copies that lie in the same place": {`"s3://clinic/x", two: "s3://clinic/x"`, "lies in the same place as copy one"},
	} {
		t.Run(name, func(t *testing.T) {
			_, mistakes := Parse("holdfast.yaml", withCopy(c.text))
			var all []string
			for _, m := range mistakes {
				all = append(all, m.String())
			}
			text := strings.Join(all, "\n")
			if !strings.Contains(text, c.says) {
				t.Errorf("got %q, want %q", text, c.says)
			}
			if strings.Contains(text, "hunter2") {
				t.Errorf("a secret is repeated: %s", text)
			}
		})
	}
}

// One person is enough unless the plan says that two must agree; anything else is a mistake.
func TestThePlanSaysHowManyMustAgreeToADeletion(t *testing.T) {
	for word, want := range map[string]bool{"": false, "deletions: one-person,": false, "deletions: two-persons,": true} {
		text := strings.Replace(string(withCopy(`"file:///mnt/x"`)), `key: "env:K",`, `key: "env:K", `+word, 1)
		p, mistakes := Parse("holdfast.yaml", []byte(text))
		if len(mistakes) > 0 || p.Vaults[0].TwoPersons != want {
			t.Errorf("%q: got %v, %v", word, p, mistakes)
		}
	}
	text := strings.Replace(string(withCopy(`"file:///mnt/x"`)), `key: "env:K",`, `key: "env:K", deletions: three-persons,`, 1)
	if _, mistakes := Parse("holdfast.yaml", []byte(text)); len(mistakes) != 1 || !strings.Contains(mistakes[0].String(), "deletions") {
		t.Errorf("got %v", mistakes)
	}
}

// What a vault's directories leave to the log is a size; it is shown again, and a change of it is told.
func TestThePlanSaysHowMuchIsLeftToTheLog(t *testing.T) {
	with := func(word string) *Plan {
		return mustParse(t, strings.Replace(string(withCopy(`"file:///mnt/x"`)), `key: "env:K",`, `key: "env:K", `+word, 1))
	}
	standard, more := with(""), with("reserve: 20GB,")
	if standard.Vaults[0].Reserve != 0 || more.Vaults[0].Reserve != 20<<30 {
		t.Errorf("got %d and %d", standard.Vaults[0].Reserve, more.Vaults[0].Reserve)
	}
	shown, err := more.Show()
	if err != nil {
		t.Fatal(err)
	}
	if again := mustParse(t, string(shown)); again.Vaults[0].Reserve != 20<<30 {
		t.Errorf("it is shown as %d", again.Vaults[0].Reserve)
	}
	changes := Diff(standard, more)
	if len(changes) != 1 || !strings.Contains(changes[0].What, "base backups and files leave 20GB of the disk to the log in its directories (was a tenth, 4GB at most)") {
		t.Errorf("got %v", changes)
	}
	text := strings.Replace(string(withCopy(`"file:///mnt/x"`)), `key: "env:K",`, `key: "env:K", reserve: 10%,`, 1)
	if _, mistakes := Parse("holdfast.yaml", []byte(text)); len(mistakes) != 1 || !strings.Contains(mistakes[0].String(), "reserve") {
		t.Errorf("got %v", mistakes)
	}
}
