package process_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"holdfast/internal/keeper"
	"holdfast/internal/service"
	"holdfast/internal/service/process"
	"holdfast/internal/service/servicetest"
)

// TestMain lets the test binary be the keeper.
func TestMain(m *testing.M) {
	if len(os.Args) == 3 && os.Args[1] == "keeper" {
		if err := keeper.Main(os.Args[2]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// open gives a runtime whose instances are all gone when the test ends.
func open(t *testing.T, base string) *process.Runtime {
	t.Helper()
	r, err := process.New(base, os.Args[0], "h")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
		defer cancel()
		dirs, _ := filepath.Glob(filepath.Join(base, "*", "*"))
		for _, d := range dirs {
			if err := keeper.KillTree(ctx, d); err != nil {
				t.Error(err)
			}
		}
	})
	return r
}

func TestProcessKeepsTheContract(t *testing.T) {
	servicetest.Run(t, func(t *testing.T) servicetest.Opened {
		base := filepath.Join(t.TempDir(), "services")
		r := open(t, base)
		return servicetest.Opened{
			Runtime: r, Again: func() service.Runtime { return open(t, base) },
			Lose: func(id string) {
				dirs, err := filepath.Glob(filepath.Join(base, "*", id))
				if err != nil || len(dirs) != 1 {
					t.Fatal(dirs, err)
				}
				_, st, err := keeper.Find(dirs[0])
				if err != nil || st.Condition != keeper.Alive {
					t.Fatal(st, err)
				}
				if err := syscall.Kill(st.Status.KeeperPID, syscall.SIGKILL); err != nil {
					t.Fatal(err)
				}
			},
			Long:     []string{"/bin/sh", "-c", "trap 'exit 0' TERM; while :; do sleep 0.02; done"},
			Short:    []string{"/bin/sh", "-c", "exit 3"},
			Stubborn: []string{"/bin/sh", "-c", "trap '' TERM; while :; do sleep 0.02; done"},
			Missing:  []string{"/does/not/exist"},
		}
	})
}

func TestOutputIsKeptAndSecretsAreNot(t *testing.T) {
	base := filepath.Join(t.TempDir(), "services")
	r := open(t, base)
	in := service.Instance{
		ID: "web.1", Service: "web", Host: "h", Version: "v1", WorkDir: "/", Argv: []string{"/bin/sh", "-c", "echo length ${#TOKEN}"},
		Env: service.Environment{"TOKEN=s3cr3t-value"},
	}
	if s := fmt.Sprintf("%v %+v %#v", in, in, in.Env); strings.Contains(s, "s3cr3t") {
		t.Errorf("printed %s", s)
	}
	if err := r.Start(t.Context(), in); err != nil {
		t.Fatal(err)
	}
	for until := time.Now().Add(5 * time.Minute); ; time.Sleep(2 * time.Millisecond) {
		os, err := r.Observe(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if len(os) == 1 && os[0].State == service.Exited {
			break
		}
		if time.Now().After(until) {
			t.Fatalf("not exited: %+v", os)
		}
	}
	log, err := os.ReadFile(r.LogFile("web", "web.1"))
	if err != nil || string(log) != "length 12\n" {
		t.Errorf("log %q, %v", log, err)
	}
	err = filepath.WalkDir(base, func(path string, d os.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		if data, err := os.ReadFile(path); err != nil || strings.Contains(string(data), "s3cr3t") {
			t.Errorf("%s holds the secret, or %v", path, err)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}
