package host

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"

	"holdfast/internal/database"
	"holdfast/internal/event"
	"holdfast/internal/plan"
)

// troubleOutputMax is how much of what the command says is kept, in bytes: its end.
const troubleOutputMax = 4 << 10

// trouble runs the plan's command for a primary in trouble. How it ended, and what it said, stands in the history.
func (h *Host) trouble(ctx context.Context, name string, a database.Action) error {
	d, ok := h.applied.plan().DatabaseNamed(name)
	if !ok || len(d.OnTrouble.Run) == 0 {
		return fmt.Errorf("run on_trouble of %s: the plan has none any more", name)
	}
	began := h.clock.Now()
	said, err := runTrouble(ctx, d.OnTrouble, append(os.Environ(),
		"HOLDFAST_APPLICATION="+h.applied.plan().Application, "HOLDFAST_DATABASE="+name, "HOLDFAST_HOST="+h.cfg.Self,
		"HOLDFAST_TROUBLE="+a.Trouble, "HOLDFAST_EVIDENCE="+oneLine(a.Why), "HOLDFAST_EPOCH="+strconv.FormatInt(a.Epoch, 10),
		"HOLDFAST_LIMIT_SECONDS="+strconv.Itoa(int(a.Limit.Seconds()))), a.Limit)
	took := h.clock.Now().Sub(began)
	how := "it ended well"
	if err != nil {
		how = err.Error()
	}
	because := []string{how, "trouble: " + a.Why}
	if said != "" {
		because = append(because, "it said: "+said)
	}
	h.diary.Note("database", name, "on_trouble has run", because, took)
	h.cfg.Log.Warn("on_trouble has run", "database", name, "trouble", a.Trouble, "why", a.Why, "took", event.Duration(took), "end", how, "said", said)
	return nil // however it ended: it had its turn
}

// runTrouble runs the command in a process group of its own, so that at the limit all of it ends.
func runTrouble(ctx context.Context, t plan.Trouble, env []string, limit time.Duration) (said string, err error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	cmd := exec.CommandContext(ctx, t.Run[0], t.Run[1:]...)
	cmd.Env, cmd.SysProcAttr = env, &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second // what it left behind may hold its output
	out := &tail{most: troubleOutputMax}
	cmd.Stdout, cmd.Stderr = out, out
	err = cmd.Run()
	switch {
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		err = fmt.Errorf("it was killed after its limit of %s", limit)
	case ctx.Err() != nil:
		err = errors.New("it was killed, for the database went on without it")
	case err != nil:
		err = fmt.Errorf("it ended with: %w", err)
	}
	return oneLine(out.String()), err
}

// oneLine is a text without line ends and other control characters, for a variable or an event.
func oneLine(text string) string {
	return strings.Join(strings.FieldsFunc(text, func(r rune) bool { return r < ' ' || r == 0x7f }), " ")
}

// tail keeps the end of what is written.
type tail struct {
	most int
	kept []byte
}

func (t *tail) Write(p []byte) (int, error) {
	t.kept = append(t.kept, p...)
	if n := len(t.kept) - t.most; n > 0 {
		t.kept = append(t.kept[:0], t.kept[n:]...)
	}
	return len(p), nil
}

func (t *tail) String() string { return strings.ToValidUTF8(string(t.kept), "?") }
