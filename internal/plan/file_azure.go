package plan

import (
	"fmt"
	"io/fs"
	"regexp"
	"strings"
)

// azureFile is what only a container of Azure's is reached with.
type azureFile struct {
	accountKey located[Secret]
	sas        located[Secret]
	readSAS    located[Secret]
	deleteSAS  located[Secret]
}

// shown is how a container is reached, as a plan file has it.
func (a Azure) shown() mapping {
	var m mapping
	m.putText("endpoint", a.Endpoint)
	m.putText("ca_file", a.CAFile)
	m.putText("account_key", string(a.AccountKey))
	m.putText("sas", string(a.SAS))
	m.putText("read_sas", string(a.ReadSAS))
	m.putText("delete_sas", string(a.DeleteSAS))
	return m
}

var containerURL = regexp.MustCompile(`^azblob://[a-z0-9]{3,24}/[a-z0-9](-?[a-z0-9]){2,62}(/[A-Za-z0-9._/-]*)?$`)

func containerPlace(s string) (string, error) {
	clean := strings.TrimSuffix(s, "/")
	_, rest, _ := strings.Cut(strings.TrimPrefix(clean, "azblob://"), "/")
	_, prefix, _ := strings.Cut(rest, "/")
	if !containerURL.MatchString(clean) || prefix != "" && !fs.ValidPath(prefix) {
		return "", fmt.Errorf("%q is not a place for a vault (azblob://account/container/prefix: an account's name has 3 to 24 small letters and digits, a container's 3 to 63 with single dashes)", s)
	}
	return clean, nil
}
