package host

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"holdfast/internal/redact"
)

// What is not in a plan comes from the variables that the programs of Azure know, and only when they speak of this account.
func TestAVaultInAzureIsReachedByTheEnvironment(t *testing.T) {
	const key = "aHVudGVyMg=="
	for name, c := range map[string]struct {
		env                map[string]string
		key, sas, endpoint string
		says               string
	}{
		"a key alone is of the account that is asked for": {env: map[string]string{"KEY": key}, key: key},
		"a signature goes before a key":                   {env: map[string]string{"ACCOUNT": "clinicstore", "KEY": key, "SAS_TOKEN": "sig=x"}, sas: "sig=x"},
		"another account's key is not shown to this one":  {env: map[string]string{"ACCOUNT": "other", "KEY": key}},
		"a connection string": {
			env: map[string]string{"CONNECTION_STRING": "DefaultEndpointsProtocol=https;AccountName=clinicstore;AccountKey=" + key + ";EndpointSuffix=core.windows.net"},
			key: key, endpoint: "https://clinicstore.blob.core.windows.net",
		},
		"a connection string with an endpoint": {
			env: map[string]string{"CONNECTION_STRING": "AccountName=clinicstore;SharedAccessSignature=sv=1&sig=y;BlobEndpoint=http://127.0.0.1:1/clinicstore;"},
			sas: "sv=1&sig=y", endpoint: "http://127.0.0.1:1/clinicstore",
		},
		"a connection string of another account": {env: map[string]string{"CONNECTION_STRING": "AccountName=other;AccountKey=" + key + ";BlobEndpoint=http://x"}},
		"a connection string that is none":       {env: map[string]string{"CONNECTION_STRING": key[:6]}, says: "no name=value"},
	} {
		t.Run(name, func(t *testing.T) {
			for _, v := range []string{"ACCOUNT", "KEY", "SAS_TOKEN", "CONNECTION_STRING"} {
				t.Setenv("AZURE_STORAGE_"+v, c.env[v])
			}
			conf, err := Alone("azblob://clinicstore/backup/records", redact.Secret("k"))
			if c.says != "" {
				if err == nil || !strings.Contains(err.Error(), c.says) || strings.Contains(err.Error(), key[:6]) {
					t.Errorf("got %v", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			got := []string{conf.Azure.Write.Key.Reveal(), conf.Azure.Write.SAS.Reveal(), conf.Azure.Endpoint}
			if d := cmp.Diff([]string{c.key, c.sas, c.endpoint}, got); d != "" {
				t.Error(d)
			}
		})
	}
	if _, err := Alone("azblob://x", redact.Secret("k")); err == nil {
		t.Error("an address that is none was taken")
	}
}
