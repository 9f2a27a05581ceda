package host

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"

	"holdfast/internal/plan"
	"holdfast/internal/redact"
)

// secretTimeout bounds an exec: reference.
const secretTimeout = 10 * time.Second

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
		ctx, cancel := context.WithTimeout(ctx, secretTimeout)
		defer cancel()
		v, err := exec.CommandContext(ctx, argv[0], argv[1:]...).Output()
		if err != nil {
			return redact.String{}, fmt.Errorf("read secret %s: %w", s, err)
		}
		value = v
	default:
		return redact.String{}, fmt.Errorf("read secret: %q is no reference (env:, file: or exec:)", s.Kind())
	}
	text := strings.TrimRight(string(bytes.TrimRight(value, "\n")), "\r")
	if text == "" {
		return redact.String{}, fmt.Errorf("read secret %s: it is empty", s)
	}
	return redact.Secret(text), nil
}
