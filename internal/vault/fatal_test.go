package vault_test

import (
	"encoding/json"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/kopia/kopia/repo"
	"github.com/kopia/kopia/repo/blob/filesystem"

	"holdfast/internal/vault"
)

// g: what kopia calls fatal ends this vault's use, told as an error, and not the process: its own way out is os.Exit, and
// the agent that keeps databases up is what would end.
func TestGuardGWhatKopiaCallsFatalDoesNotEndTheProcess(t *testing.T) {
	v, dir := create(t)
	b := store(t, v, sample())
	used := openAll(t, config(dir).WithFormatKept(time.Nanosecond))
	if _, err := used.Backups(t.Context(), ""); err != nil {
		t.Fatal(err)
	}
	demandFeature(t, dir)
	note := vault.Note{Backup: b.ID, Kind: vault.Pin, By: "ada", At: time.Unix(3e9, 0)}
	err := used.PutNote(t.Context(), note)
	for deadline := time.Now().Add(time.Minute); err == nil && time.Now().Before(deadline); { // kopia looks at the format when it has to write a pack
		err = used.PutNote(t.Context(), note)
	}
	if err == nil || !strings.Contains(err.Error(), "of the future") {
		t.Errorf("written to a repository that asks for more than this program can: %v", err)
	}
	if _, err := used.Begin(t.Context(), "test"); err == nil || !strings.Contains(err.Error(), "vault home cannot go on") {
		t.Errorf("a backup was begun after it: %v", err)
	}
	if _, err := used.Reclaim(t.Context(), vault.ReclaimOptions{Alone: true}); err == nil {
		t.Error("something was freed after it")
	}
}

// demandFeature does what a newer kopia may: it writes into the format that whoever reads on must know something more.
// The type of that demand is kopia's own secret, so it is made by its shape.
func demandFeature(t *testing.T, dir string) {
	t.Helper()
	ctx := t.Context()
	st, err := filesystem.New(ctx, &filesystem.Options{Path: filepath.Join(dir, "repository")}, false)
	if err != nil {
		t.Fatal(err)
	}
	conf := filepath.Join(t.TempDir(), "kopia.config")
	if err := repo.Connect(ctx, conf, st, config(dir).Key.Reveal(), nil); err != nil {
		t.Fatal(err)
	}
	r, err := repo.Open(ctx, conf, config(dir).Key.Reveal(), &repo.Options{OnFatalError: func(err error) { t.Error(err) }})
	if err != nil {
		t.Fatal(err)
	}
	fm := r.(repo.DirectRepository).FormatManager()
	params, err := fm.GetMutableParameters(ctx)
	if err != nil {
		t.Fatal(err)
	}
	kept, err := fm.BlobCfgBlob(ctx)
	if err != nil {
		t.Fatal(err)
	}
	set := reflect.ValueOf(fm.SetParameters)
	demand := reflect.New(set.Type().In(3))
	if err := json.Unmarshal([]byte(`[{"feature":"of the future"}]`), demand.Interface()); err != nil {
		t.Fatal(err)
	}
	out := set.Call([]reflect.Value{reflect.ValueOf(ctx), reflect.ValueOf(params), reflect.ValueOf(kept), demand.Elem()})
	if err, ok := out[0].Interface().(error); ok {
		t.Fatal(err)
	}
	if err := r.Close(ctx); err != nil {
		t.Fatal(err)
	}
}
