package confined_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"holdfast/internal/problem"
	"holdfast/internal/redact"
	"holdfast/internal/vault"
	"holdfast/internal/vault/confined"
)

// The child is this test's own program.
func TestMain(m *testing.M) {
	switch os.Getenv("CONFINED_TEST") {
	case "serve":
		if err := confined.Serve(context.Background(), os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	case "grow": // a child that is asked for little and takes much
		fmt.Fprintln(os.Stderr, "growing")
		var all [][]byte
		for {
			b := make([]byte, 8<<20)
			for i := range b {
				b[i] = 1
			}
			all = append(all, b)
			if len(all) > 200 {
				os.Exit(3)
			}
		}
	}
	os.Exit(m.Run())
}

func child(t *testing.T, how string) []string {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return []string{"/usr/bin/env", "CONFINED_TEST=" + how, exe}
}

func made(t *testing.T) vault.Config {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "vault")
	conf := vault.Config{Name: "home", URL: "file://" + dir, Key: redact.Secret("a long enough key"), Application: "clinic", Host: "h1"}
	v, err := vault.Create(t.Context(), conf)
	if err != nil {
		t.Fatal(err)
	}
	if err := v.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	return conf
}

// e: garbage is collected in a child whose memory is measured, and the parent's leave is asked there too.
func TestGuardEGarbageIsCollectedInAChild(t *testing.T) {
	conf := made(t)
	asked := 0
	o := confined.Options{Argv: child(t, "serve")}
	o.Alone = true
	o.May = func(context.Context) error { asked++; return nil }
	for deadline := time.Now().Add(5 * time.Minute); asked == 0; time.Sleep(300 * time.Millisecond) { // the first runs leave indexes and notes of their own to the later ones
		r, err := confined.Reclaim(t.Context(), conf, o)
		if err != nil {
			t.Fatal(err)
		}
		if r.Peak < 1<<20 || r.Peak > confined.MemoryDefault || r.Took <= 0 {
			t.Errorf("reported %+v", r)
		}
		if time.Now().After(deadline) {
			t.Fatal("nothing was deleted, so that no leave was asked")
		}
	}
	no := errors.New("another host has the duty")
	o.May = func(context.Context) error { asked = -1; return no }
	for deadline := time.Now().Add(5 * time.Minute); asked != -1; time.Sleep(300 * time.Millisecond) {
		_, err := confined.Reclaim(t.Context(), conf, o)
		if asked == -1 && !errors.Is(err, no) || asked != -1 && err != nil {
			t.Errorf("asked %d times, and got %v", asked, err)
		}
		if time.Now().After(deadline) {
			t.Fatal("no leave was asked")
		}
	}
	conf.Key = redact.Secret("another")
	_, err := confined.Reclaim(t.Context(), conf, o)
	if p, ok := errors.AsType[*problem.Problem](err); !ok || p.Code != "vault.wrong-key" {
		t.Errorf("with a wrong key: %v", err)
	}
	if strings.Contains(fmt.Sprint(err), "another") {
		t.Errorf("the key is in %v", err)
	}
}

func TestGuardEAChildThatGrowsBeyondItsMemoryIsEnded(t *testing.T) {
	o := confined.Options{Argv: child(t, "grow"), Memory: 300 << 20}
	r, err := confined.Reclaim(t.Context(), vault.Config{Name: "home"}, o)
	if p, ok := errors.AsType[*problem.Problem](err); !ok || p.Code != "vault.reclaim-too-large" {
		t.Errorf("got %v", err)
	}
	if r.Peak <= o.Memory {
		t.Errorf("ended at %d bytes of %d", r.Peak, o.Memory)
	}
}

func TestAChildThatEndsEarlyIsAnErrorWithItsWords(t *testing.T) {
	o := confined.Options{Argv: []string{"/bin/sh", "-c", "echo out of luck >&2; exit 3"}}
	_, err := confined.Reclaim(t.Context(), vault.Config{Name: "home"}, o)
	if err == nil || !strings.Contains(err.Error(), "out of luck") {
		t.Errorf("got %v", err)
	}
}

// A child that is cut off has the time to write down what it did.
func TestAChildThatIsCutOffEndsByItself(t *testing.T) {
	file := filepath.Join(t.TempDir(), "ended")
	ctx, cut := context.WithCancel(t.Context())
	defer cut()
	o := confined.Options{Argv: []string{"/bin/sh", "-c", `read order; echo '{"ask":true}'; cat >/dev/null; echo ended >"$0"`, file}}
	o.May = func(context.Context) error { cut(); return nil }
	if _, err := confined.Reclaim(ctx, vault.Config{Name: "home"}, o); err == nil {
		t.Error("a run that was cut off ended well")
	}
	if _, err := os.Stat(file); err != nil {
		t.Errorf("the child was killed: %v", err)
	}
}
