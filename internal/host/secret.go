package host

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"

	"holdfast/internal/plan"
	"holdfast/internal/redact"
)

const (
	// secretTimeout bounds an exec: reference.
	secretTimeout = 10 * time.Second
	// secretRest is how long the output may stay open after the program has ended: what it left behind may hold it.
	secretRest = time.Second
)

// errNoReference does not repeat what stands there: it may be the secret itself.
var errNoReference = errors.New("read secret: what the plan says is no reference (env:, file: or exec:)")

// Secret reads the value that a reference of the plan names. The value never appears in an error.
func Secret(ctx context.Context, s plan.Secret) (redact.String, error) {
	var value []byte
	switch s.Kind() {
	case "env":
		v, ok := os.LookupEnv(s.Target())
		if !ok {
			return redact.String{}, fmt.Errorf("read secret %s: the variable is not set", s)
		}
		value = []byte(v)
	case "file":
		v, err := os.ReadFile(s.Target())
		if err != nil {
			return redact.String{}, fmt.Errorf("read secret %s: %w", s, err)
		}
		value = v
	case "exec":
		argv, err := plan.SplitWords(s.Target())
		if err != nil {
			return redact.String{}, fmt.Errorf("read secret %s: %w", s, err)
		}
		if len(argv) == 0 {
			return redact.String{}, fmt.Errorf("read secret %s: it names no program", s)
		}
		ctx, cancel := context.WithTimeout(ctx, secretTimeout)
		defer cancel()
		cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
		cmd.WaitDelay = secretRest
		v, err := cmd.Output()
		if err != nil {
			return redact.String{}, fmt.Errorf("read secret %s: %w", s, err)
		}
		value = v
	default:
		return redact.String{}, errNoReference
	}
	text := strings.TrimRight(string(bytes.TrimRight(value, "\n")), "\r")
	if text == "" {
		return redact.String{}, fmt.Errorf("read secret %s: it is empty", s)
	}
	return redact.Secret(text), nil
}
