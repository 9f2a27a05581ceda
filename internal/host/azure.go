package host

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"strings"

	"holdfast/internal/plan"
	"holdfast/internal/redact"
	"holdfast/internal/vault/azstore"
)

// azure resolves what the plan says, and takes from the environment what it does not: the variables that the storage
// programs of Azure know. What they say of another account is left alone.
func azure(ctx context.Context, url string, a plan.Azure) (azstore.Config, error) {
	account, _, _, err := azstore.Split(url)
	if err != nil {
		return azstore.Config{}, err
	}
	env, err := azureEnvironment(account)
	if err != nil {
		return azstore.Config{}, err
	}
	conf := azstore.Config{Endpoint: cmp.Or(a.Endpoint, env.Endpoint)}
	if a.CAFile != "" {
		if conf.CA, err = os.ReadFile(a.CAFile); err != nil {
			return conf, fmt.Errorf("read the authorities: %w", err)
		}
	}
	for _, s := range []struct {
		from plan.Secret
		to   *redact.String
	}{{a.AccountKey, &conf.Write.Key}, {a.SAS, &conf.Write.SAS}, {a.ReadSAS, &conf.Read.SAS}, {a.DeleteSAS, &conf.Delete.SAS}} {
		if s.from == "" {
			continue
		}
		if *s.to, err = Secret(ctx, s.from); err != nil {
			return conf, err
		}
	}
	if conf.Write == (azstore.Access{}) {
		conf.Write = env.Write
	}
	return conf, nil
}

// azureEnvironment is what AZURE_STORAGE_CONNECTION_STRING says of an account, and for what it does not say
// AZURE_STORAGE_ACCOUNT with AZURE_STORAGE_SAS_TOKEN or AZURE_STORAGE_KEY. A signature is taken before a key: it may do less.
func azureEnvironment(account string) (azstore.Config, error) {
	var conf azstore.Config
	whose, key, sas := os.Getenv("AZURE_STORAGE_ACCOUNT"), os.Getenv("AZURE_STORAGE_KEY"), os.Getenv("AZURE_STORAGE_SAS_TOKEN")
	if text := os.Getenv("AZURE_STORAGE_CONNECTION_STRING"); text != "" {
		m := map[string]string{}
		for part := range strings.SplitSeq(text, ";") {
			name, value, ok := strings.Cut(part, "=")
			if strings.TrimSpace(part) != "" && !ok {
				return conf, fmt.Errorf("read AZURE_STORAGE_CONNECTION_STRING: a part of it is no name=value") // which one is not repeated: it may be a secret
			}
			m[strings.TrimSpace(name)] = strings.TrimSpace(value)
		}
		whose, key, sas = cmp.Or(m["AccountName"], whose), cmp.Or(m["AccountKey"], key), cmp.Or(m["SharedAccessSignature"], sas)
		conf.Endpoint = m["BlobEndpoint"]
		if suffix := m["EndpointSuffix"]; conf.Endpoint == "" && suffix != "" {
			conf.Endpoint = cmp.Or(m["DefaultEndpointsProtocol"], "https") + "://" + account + ".blob." + suffix
		}
	}
	if whose != "" && whose != account {
		return azstore.Config{}, nil
	}
	if sas != "" {
		conf.Write.SAS = redact.Secret(sas)
	} else if key != "" {
		conf.Write.Key = redact.Secret(key)
	}
	return conf, nil
}
