package main

import (
	"bytes"
	"context"
	"strings"
	"testing"
	"time"
)

func TestRunRefusesWhatItCannotDo(t *testing.T) {
	for _, c := range []struct {
		name string
		args []string
		env  map[string]string
		want string
	}{
		{"no command is answered with the commands there are", nil, nil, "web, reminders"},
		{"an unknown command is named", []string{"wbe"}, nil, `"wbe" is not a command`},
		{"a missing database is named", []string{"web"}, nil, "DATABASE_URL is not set"},
		{"a broken database URL is refused at once", []string{"web"}, map[string]string{"DATABASE_URL": "port=none"}, "database URL"},
		{"an unknown zone is refused", []string{"web"}, map[string]string{"DATABASE_URL": "host=127.45.0.2", "CLINIC_TIMEZONE": "Mars"}, "CLINIC_TIMEZONE"},
		{"a deadline without a unit is refused", []string{"web"}, map[string]string{"DATABASE_URL": "host=127.45.0.2", "CLINIC_DEADLINE": "10"}, "CLINIC_DEADLINE"},
		{"an address that is not ours is refused", []string{"web"},
			map[string]string{"DATABASE_URL": "host=127.45.0.2", "HOLDFAST_ADDRESS": "192.0.2.1"}, "listen for requests"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var out, log bytes.Buffer
			err := run(t.Context(), c.args, func(k string) string { return c.env[k] }, &out, &log)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q in it", err, c.want)
			}
		})
	}
}

func TestBothCommandsStopWhileTheyWaitForTheDatabase(t *testing.T) {
	for _, command := range []string{"web", "reminders"} {
		t.Run(command, func(t *testing.T) {
			env := map[string]string{"DATABASE_URL": "postgres://clinic@127.45.0.2:1/clinic", "HOLDFAST_ADDRESS": "127.45.0.5", "PORT": "0"}
			ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
			defer cancel()
			var out, log bytes.Buffer
			if err := run(ctx, []string{command}, func(k string) string { return env[k] }, &out, &log); err != nil {
				t.Errorf("%v\n%s", err, log.String())
			}
		})
	}
}
