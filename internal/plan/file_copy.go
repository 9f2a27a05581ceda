package plan

import (
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/goccy/go-yaml/ast"
)

// copyFile is a place of a vault as it is written: its address alone, or a mapping with it.
type (
	copyFile struct {
		url       located[string]
		endpoint  located[string]
		region    located[string]
		caFile    located[string]
		pathStyle located[bool]
		accessFile
		read   located[accessFile]
		delete located[accessFile]
		lock   located[time.Duration]
		azureFile
	}
	accessFile struct {
		keyID located[Secret]
		key   located[Secret]
	}
)

// vaultCopy is an address, or a mapping that holds one.
func vaultCopy(dir string) form[copyFile] {
	address := copyURL()
	whole := object(
		must(key("url", address, "Where it lies: file:///path, s3://bucket/prefix or azblob://account/container/prefix.", func(f *copyFile) *located[string] { return &f.url })),
		key("endpoint", endpoint(), "Where the service answers, http(s)://host:port (default: Amazon's for s3://, the account's own for azblob://).", func(f *copyFile) *located[string] { return &f.endpoint }),
		key("region", nameText(label()), "The bucket's region (default: us-east-1 at an endpoint, looked up at Amazon).", func(f *copyFile) *located[string] { return &f.region }),
		key("access_key", secret(dir), "Reference to the access key's id (default: AWS_ACCESS_KEY_ID of the host).", func(f *copyFile) *located[Secret] { return &f.keyID }),
		key("secret_key", secret(dir), "Reference to the secret access key (default: AWS_SECRET_ACCESS_KEY of the host).", func(f *copyFile) *located[Secret] { return &f.key }),
		key("read", access(dir), "Other credentials for reading.", func(f *copyFile) *located[accessFile] { return &f.read }),
		key("delete", access(dir), "Other credentials for deleting, so that those for writing need no such right.", func(f *copyFile) *located[accessFile] { return &f.delete }),
		key("ca_file", path(dir), "Authorities that sign the endpoint's certificate, PEM (default: the system's).", func(f *copyFile) *located[string] { return &f.caFile }),
		key("path_style", yesNo(), "Whether the bucket stands in the path and not in the host's name (default: by the endpoint).", func(f *copyFile) *located[bool] { return &f.pathStyle }),
		key("account_key", secret(dir), "Reference to the Azure account's key (default: AZURE_STORAGE_KEY of the host).", func(f *copyFile) *located[Secret] { return &f.accountKey }),
		key("sas", secret(dir), "Reference to a shared access signature for Azure, instead of account_key (default: AZURE_STORAGE_SAS_TOKEN of the host).", func(f *copyFile) *located[Secret] { return &f.sas }),
		key("read_sas", secret(dir), "Another signature for reading.", func(f *copyFile) *located[Secret] { return &f.readSAS }),
		key("delete_sas", secret(dir), "Another signature for deleting, so that the one for writing needs no such right.", func(f *copyFile) *located[Secret] { return &f.deleteSAS }),
		key("lock", span(day, 100*year), "How long nobody can delete what was stored; the bucket must have object lock.", func(f *copyFile) *located[time.Duration] { return &f.lock }),
	)
	read := func(r *mistakes, n ast.Node, at Place, path keyPath) (copyFile, bool) {
		switch n.(type) {
		case *ast.MappingNode, *ast.MappingValueNode:
			f, ok := whole.read(r, n, at, path)
			f.check(r, at, path)
			return f, ok
		}
		text, ok := address.read(r, n, at, path)
		if !ok {
			return copyFile{}, false
		}
		return copyFile{url: located[string]{value: text, at: at}}, true
	}
	return form[copyFile]{schema: jsonSchema{"anyOf": []any{address.schema, whole.schema}}, read: read}
}

// check notes what does not go together in a place's mapping.
func (f copyFile) check(ms *mistakes, at Place, path keyPath) {
	pairs := []struct {
		of string
		accessFile
	}{{"", f.accessFile}, {"read", f.read.value}, {"delete", f.delete.value}}
	for _, a := range pairs {
		where := path
		if a.of != "" {
			where = path.to(a.of)
		}
		if a.keyID.written() != a.key.written() {
			ms.addKey(at, where, "access_key and secret_key go together (allowed: both, or neither)")
		}
	}
	if f.accountKey.written() && f.sas.written() {
		ms.addKey(at, path, "account_key and sas are two ways in (allowed: one of them, or neither)")
	}
	scheme, _, _ := strings.Cut(f.url.value, "://")
	const s3, azure = "s3", "azblob"
	for _, k := range []struct {
		name, of string
		at       Place
	}{
		{"endpoint", s3 + " " + azure, f.endpoint.at}, {"region", s3, f.region.at}, {"access_key", s3, f.keyID.at}, {"secret_key", s3, f.key.at},
		{"read", s3, f.read.at}, {"delete", s3, f.delete.at}, {"ca_file", s3 + " " + azure, f.caFile.at}, {"path_style", s3, f.pathStyle.at}, {"lock", s3, f.lock.at},
		{"account_key", azure, f.accountKey.at}, {"sas", azure, f.sas.at}, {"read_sas", azure, f.readSAS.at}, {"delete_sas", azure, f.deleteSAS.at},
	} {
		if k.at.Line == 0 || !f.url.written() || slices.Contains(strings.Fields(k.of), scheme) {
			continue
		}
		if k.name == "lock" && scheme == azure {
			ms.addKey(k.at, path, "lock is not available in this version for %s (give the container a time-based retention policy at Azure instead)", f.url.value)
			continue
		}
		allowed := "s3://bucket/prefix"
		if k.of == azure {
			allowed = "azblob://account/container/prefix"
		}
		ms.addKey(k.at, path, "%s has no meaning for %s (allowed: with %s)", k.name, f.url.value, allowed)
	}
}

func access(dir string) form[accessFile] {
	return object(
		must(key("access_key", secret(dir), "Reference to the access key's id.", func(f *accessFile) *located[Secret] { return &f.keyID })),
		must(key("secret_key", secret(dir), "Reference to the secret access key.", func(f *accessFile) *located[Secret] { return &f.key })),
	)
}

// resolved is the place as the rest of the program reads it.
func (f copyFile) resolved(name string) Copy {
	if strings.HasPrefix(f.url.value, "azblob://") {
		return Copy{Name: name, URL: f.url.value, Azure: Azure{
			Endpoint: f.endpoint.value, CAFile: f.caFile.value, AccountKey: f.accountKey.value, SAS: f.sas.value,
			ReadSAS: f.readSAS.value, DeleteSAS: f.deleteSAS.value,
		}}
	}
	c := Copy{Name: name, URL: f.url.value, S3: S3{
		Endpoint: f.endpoint.value, Region: f.region.value, CAFile: f.caFile.value, Lock: f.lock.value,
		Write: f.resolve(), Read: f.read.value.resolve(), Delete: f.delete.value.resolve(),
	}}
	if f.pathStyle.written() {
		c.S3.PathStyle = fmt.Sprint(f.pathStyle.value)
	}
	return c
}

func (f accessFile) resolve() Access { return Access{KeyID: f.keyID.value, Key: f.key.value} }

// shown is the place as a plan file has it.
func (c Copy) shown() any {
	m := mapping{{Key: "url", Value: c.URL}}
	switch {
	case c.Azure != (Azure{}):
		return append(m, c.Azure.shown()...)
	case c.S3 == (S3{}):
		return c.URL
	}
	m.putText("endpoint", c.S3.Endpoint)
	m.putText("region", c.S3.Region)
	m = append(m, c.S3.Write.shown()...)
	m.putSome("read", c.S3.Read.shown())
	m.putSome("delete", c.S3.Delete.shown())
	m.putText("ca_file", c.S3.CAFile)
	if c.S3.PathStyle != "" {
		m.put("path_style", c.S3.PathStyle == "true")
	}
	m.putSpan("lock", c.S3.Lock)
	return m
}

func (a Access) shown() mapping {
	var m mapping
	m.putText("access_key", string(a.KeyID))
	m.putText("secret_key", string(a.Key))
	return m
}

// same reports whether two places are one: an address means another place at another endpoint.
func (c Copy) same(o Copy) bool {
	return c.URL == o.URL && c.S3.Endpoint == o.S3.Endpoint && c.Azure.Endpoint == o.Azure.Endpoint
}

const copyPlaces = "file:///path, file://${root}/path, s3://bucket/prefix or azblob://account/container/prefix"

var bucketURL = regexp.MustCompile(`^s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/[A-Za-z0-9._/-]*)?$`)

// copyURL is where a copy of a vault lies.
func copyURL() form[string] {
	schema := jsonSchema{"pattern": `^(file://(/|\$\{root\}/).+|s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/[A-Za-z0-9._/-]*)?|azblob://[a-z0-9]{3,24}/[a-z0-9](-?[a-z0-9]){2,62}(/[A-Za-z0-9._/-]*)?)$`}
	return text(schema, "a place: "+copyPlaces, func(s string) (string, error) {
		scheme, rest, ok := strings.Cut(s, "://")
		switch {
		case ok && strings.Contains(rest, "@"):
			return "", errors.New("carries a user name or password, and is not repeated here (" + copyPlaces + ")")
		case ok && scheme == "s3":
			return bucketPlace(s)
		case ok && scheme == "azblob":
			return containerPlace(s)
		case ok && (scheme == "azure" || scheme == "gs" || scheme == "sftp"):
			return "", fmt.Errorf("%q is not available in this version (%s)", s, copyPlaces)
		case !ok || scheme != "file" || !rooted(rest) || strings.ContainsAny(rest, "\n\x00?#%") || strings.Contains(strings.TrimPrefix(rest, rootTemplate), "${"):
			return "", fmt.Errorf("%q is not a place for a vault (%s)", s, copyPlaces)
		}
		clean, err := under("", rest)
		if err != nil {
			return "", err
		}
		if clean == "/" || clean == rootTemplate {
			return "", fmt.Errorf("%q leaves no folder of its own (%s)", s, copyPlaces)
		}
		return "file://" + clean, nil
	})
}

func bucketPlace(s string) (string, error) {
	clean := strings.TrimSuffix(s, "/")
	_, prefix, _ := strings.Cut(strings.TrimPrefix(clean, "s3://"), "/")
	if !bucketURL.MatchString(s) || prefix != "" && !fs.ValidPath(prefix) {
		return "", fmt.Errorf("%q is not a place for a vault (s3://bucket/prefix: a bucket's name has 3 to 63 small letters, digits, dots and dashes)", s)
	}
	return clean, nil
}

// endpoint is where a service answers.
func endpoint() form[string] {
	const allowed = "https://host or https://host:port"
	return text(jsonSchema{"pattern": `^https?://[^/@?#]+/?$`}, allowed, func(s string) (string, error) {
		u, err := url.Parse(s)
		switch {
		case strings.Contains(s, "@"):
			return "", errors.New("carries a user name or password, and is not repeated here (" + allowed + ")")
		case err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "":
			return "", fmt.Errorf("%q is not an endpoint (%s)", s, allowed)
		}
		return u.Scheme + "://" + u.Host, nil
	})
}
