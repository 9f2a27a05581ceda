package plan

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func TestExpandEnv(t *testing.T) {
	known := map[string]string{"host.address": "10.0.0.1", "databases.records.write_url": "postgres://x", "odd": "${host.address}"}
	lookup := func(key string) (string, bool) { v, ok := known[key]; return v, ok }
	for _, c := range []struct{ name, value, want, err string }{
		{"text without templates stays", "plain $HOME $", "plain $HOME $", ""},
		{"templates are filled in wherever they stand", "http://${host.address}:80/${databases.records.write_url}", "http://10.0.0.1:80/postgres://x", ""},
		{"a doubled dollar keeps the letters", "a$${host.address}b", "a${host.address}b", ""},
		{"what was filled in is not expanded again", "${odd}", "${host.address}", ""},
		{"an unknown template is named", "${nope}", "", "expand ${nope}: nothing is known by this name"},
		{"a template must end", "${host.address", "", errOpenTemplate.Error()},
		{"an empty template is unknown", "${}", "", "expand ${}: nothing is known by this name"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := ExpandEnv(c.value, lookup)
			text := ""
			if err != nil {
				text = err.Error()
			}
			if got != c.want || text != c.err {
				t.Errorf("= %q, %q; want %q, %q", got, text, c.want, c.err)
			}
		})
	}
}

func TestDatabaseURLSplitsAKey(t *testing.T) {
	for key, want := range map[string][3]any{
		"databases.records.write_url": {"records", "write_url", true},
		"databases.records.read_url":  {"records", "read_url", true},
		"databases.records.url":       {"records", "url", false},
		"databases.records":           {"records", "", false},
		"host.address":                {"", "", false},
	} {
		name, which, ok := DatabaseURL(key)
		if got := [3]any{name, which, ok}; got != want {
			t.Errorf("%s = %v, want %v", key, got, want)
		}
	}
}

func TestSplitWordsFollowsTheShell(t *testing.T) {
	for text, want := range map[string][]string{
		`bin/web  --port 80`:      {"bin/web", "--port", "80"},
		`sh -c 'a "b" && c'`:      {"sh", "-c", `a "b" && c`},
		`x "a b" "c \"d\" \\ \e"`: {"x", "a b", `c "d" \ \e`},
		`x a\ b`:                  {"x", "a b"},
		`x '' ""`:                 {"x", "", ""},
		`x a'b'"c"`:               {"x", "abc"},
		"  x\ty\n":                {"x", "y"},
	} {
		got, err := SplitWords(text)
		if diff := cmp.Diff(want, got); err != nil || diff != "" {
			t.Errorf("%s: %v (-want +got):\n%s", text, err, diff)
		}
	}
}

func TestSchedules(t *testing.T) {
	for _, c := range []struct {
		text    string
		want    Schedule
		longest time.Duration
	}{
		{"daily 01:00", Schedule{Cron: "0 1 * * *"}, 24 * time.Hour},
		{"daily 23:59", Schedule{Cron: "59 23 * * *"}, 24 * time.Hour},
		{"Sunday 04:00", Schedule{Cron: "0 4 * * 0"}, 7 * 24 * time.Hour},
		{"weekly Saturday 04:30", Schedule{Cron: "30 4 * * 6"}, 7 * 24 * time.Hour},
		{"every 6h", Schedule{Every: 6 * time.Hour}, 6 * time.Hour},
		{"every 1d12h", Schedule{Every: 36 * time.Hour}, 36 * time.Hour},
	} {
		got, err := parseSchedule(c.text)
		c.want.Text = c.text
		if err != nil || got != c.want || got.Longest() != c.longest {
			t.Errorf("%s = %+v (longest %s), %v; want %+v", c.text, got, got.Longest(), err, c.want)
		}
	}
	for _, wrong := range []string{"", "daily", "daily 1:00", "daily 24:00", "sunday 04:00", "every", "every 30s", "every 0h", "every 32d", "weekly 04:00", "every 99999999999999999999d"} {
		if s, err := parseSchedule(wrong); err == nil {
			t.Errorf("%q was taken as %+v", wrong, s)
		}
	}
	if (Schedule{}).Longest() != 0 {
		t.Error("a schedule that never fires has a longest gap")
	}
}

// Writing a time span and reading it again gives the same one.
func TestDurationsSurviveWritingAndReading(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d := time.Duration(rapid.Int64Range(1, int64(200*year/time.Millisecond)).Draw(t, "ms")) * time.Millisecond
		got, err := parseDuration(FormatDuration(d))
		if err != nil || got != d {
			t.Fatalf("%s is written %s and read %s (%v)", d, FormatDuration(d), got, err)
		}
	})
}

func TestRoutesSurviveWritingAndReading(t *testing.T) {
	for _, text := range []string{"none", "http://x.example", "https://x.example:8443", "tcp://:9000", "https://[::1]:8443", "http://127.0.0.1:81"} {
		r, err := parseRoute(text)
		if err != nil || r.String() != text {
			t.Errorf("%s is read and written as %s (%v)", text, r, err)
		}
	}
}

func TestNearestGuessesSlipsAndNothingElse(t *testing.T) {
	allowed := []string{"instances", "port", "route", "env", "run"}
	for word, want := range map[string]string{
		"instance": "instances", "prot": "port", "Port": "port", "rout": "route", "enviroment": "", "x": "", "rnu": "run", "instanecs": "instances",
	} {
		if got := nearest(word, allowed); got != want {
			t.Errorf("%s: %q, want %q", word, got, want)
		}
	}
}

func TestSecretNames(t *testing.T) {
	for name, want := range map[string]bool{
		"PASSWORD": true, "DB_PASSWORD": true, "api_token": true, "SSH_KEY": true, "APIKEY": true, "CLIENT_SECRET": true, "AWS_SECRET_ACCESS_KEY": true,
		"KEYBOARD": false, "TOKEN_FILE": false, "AWS_ACCESS_KEY_ID": false, "TOKEN_TTL": false, "HOME": false, "DATABASE_URL": false,
	} {
		if got := secretName(name); got != want {
			t.Errorf("%s: %t, want %t", name, got, want)
		}
	}
}
