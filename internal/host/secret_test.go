package host

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"holdfast/internal/plan"
)

func TestSecret(t *testing.T) {
	const value = "hunter2-of-the-clinic"
	dir := t.TempDir()
	put(t, filepath.Join(dir, "good"), value+"\n", 0o600)
	put(t, filepath.Join(dir, "windows"), value+"\r\n", 0o600)
	put(t, filepath.Join(dir, "inner"), " "+value+" \n\n", 0o600)
	put(t, filepath.Join(dir, "empty"), "\n", 0o600)
	put(t, filepath.Join(dir, "tell"), "#!/bin/sh\necho \"$1\"\necho "+value+" >&2\nexit ${2:-0}\n", 0o700)
	t.Setenv("CLINIC_SECRET", value)
	t.Setenv("CLINIC_EMPTY", "")
	tell := "exec:" + filepath.Join(dir, "tell")
	for _, c := range []struct {
		name string
		ref  string
		want string
		says string // "" = it is read
	}{
		{"a variable", "env:CLINIC_SECRET", value, ""},
		{"a file, without its last line's end", "file:" + dir + "/good", value, ""},
		{"a file written elsewhere", "file:" + dir + "/windows", value, ""},
		{"spaces belong to it", "file:" + dir + "/inner", " " + value + " ", ""},
		{"a program's answer", tell + " " + value, value, ""},
		{"a program's answer to a quoted word", tell + " 'two words'", "two words", ""},
		{"a variable that is not set", "env:CLINIC_ABSENT", "", "the variable is not set"},
		{"a variable that is empty", "env:CLINIC_EMPTY", "", "it is empty"},
		{"a file that is not there", "file:" + dir + "/absent", "", "no such file"},
		{"a file that is empty", "file:" + dir + "/empty", "", "it is empty"},
		{"a program that is not there", "exec:" + dir + "/absent", "", "no such file"},
		{"a program that says nothing", tell + " ''", "", "it is empty"},
		{"a program that fails after it spoke", tell + " spoken 3", "", "exit status 3"},
		{"a program without a name", "exec:", "", "names no program"},
		{"the value itself", value, "", "no reference"},
		{"the value itself, with a colon", "vault-" + value + ":x", "", "no reference"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := Secret(t.Context(), plan.Secret(c.ref))
			if (err == nil) != (c.says == "") || got.Reveal() != c.want {
				t.Fatalf("%q, %v", got.Reveal(), err)
			}
			if c.says == "" {
				if text := fmt.Sprintf("%v %+v %#v", got, got, got); strings.Contains(text, c.want) {
					t.Errorf("it prints as %s", text)
				}
				return
			}
			if !strings.Contains(err.Error(), c.says) {
				t.Errorf("it says %v, nothing of %q", err, c.says)
			}
			if strings.Contains(err.Error(), value) {
				t.Errorf("the value stands in the error: %v", err)
			}
		})
	}
}

// A program that leaves another one behind (an agent of keys, say) leaves its output open too.
func TestASecretsProgramIsNotWaitedForForEver(t *testing.T) {
	dir := t.TempDir()
	fifo := filepath.Join(dir, "fifo")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	put(t, filepath.Join(dir, "leaves"), "#!/bin/sh\nread line < "+fifo+" &\necho value\n", 0o700)
	done := make(chan error, 1)
	go func() {
		_, err := Secret(t.Context(), plan.Secret("exec:"+filepath.Join(dir, "leaves")))
		done <- err
	}()
	end := func() { // what was left behind reads a line and ends
		w, err := os.OpenFile(fifo, os.O_RDWR, 0)
		if err == nil {
			_, err = w.WriteString("\n")
			err = errors.Join(err, w.Close())
		}
		if err != nil {
			t.Error(err)
		}
	}
	select {
	case err := <-done:
		end()
		if err == nil || !strings.Contains(err.Error(), "read secret") {
			t.Errorf("it says %v", err)
		}
	case <-time.After(2 * time.Minute):
		end()
		<-done
		t.Error("it was waited for until what it left behind ended")
	}
}
