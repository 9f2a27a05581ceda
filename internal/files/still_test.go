package files_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"holdfast/internal/files"
	"holdfast/internal/vault"
)

func TestFilesAndDatabaseAreAlwaysLetGoOn(t *testing.T) {
	v, dir := open(t), filepath.Join(t.TempDir(), "set")
	must(t, os.MkdirAll(dir, 0o755))
	must(t, os.WriteFile(filepath.Join(dir, "a"), []byte("a"), 0o600))
	broken := errors.New("it does not want to")
	for name, c := range map[string]struct {
		before, mark, after error
		hang                string // what goes on until it is ended
		cancelled           bool   // whoever asked goes meanwhile
		want                []string
		wantErr             string // "" = the backup is made
		stuck               bool
	}{
		"all goes well":                {want: []string{"before", "mark", "after"}},
		"before fails":                 {before: broken, want: []string{"before", "after"}, wantErr: "does not want to"},
		"before does not end":          {hang: "before", want: []string{"before", "after"}, wantErr: "longer than 2s"},
		"the database has no position": {mark: broken, want: []string{"before", "mark", "after"}, wantErr: "does not want to"},
		"the position is not given":    {hang: "mark", want: []string{"before", "mark", "after"}, wantErr: "longer than 300ms"},
		"whoever asked goes":           {hang: "mark", cancelled: true, want: []string{"before", "mark", "after"}, wantErr: "context canceled"},
		"after fails":                  {after: broken, want: []string{"before", "mark", "after"}, stuck: true},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			note := filepath.Join(t.TempDir(), "still.json")
			var did []string
			var stuck error
			step := func(ctx context.Context, what string, err error) error {
				did = append(did, what)
				if _, e := os.Stat(note); e != nil {
					t.Errorf("no note at %s", what)
				}
				if what == c.hang {
					if c.cancelled {
						cancel()
					}
					<-ctx.Done()
					return ctx.Err()
				}
				return errors.Join(err, ctx.Err())
			}
			still := &files.Still{
				Note: note, Before: []string{"before"}, After: []string{"after"}, Freeze: time.Minute, Snapshot: time.Minute,
				Run: func(ctx context.Context, x files.Command) error {
					what := x.Argv[0]
					return step(ctx, what, map[string]error{"before": c.before, "after": c.after}[what])
				},
				Mark: func(ctx context.Context) (vault.Point, error) {
					return vault.Point{ID: "p1", Database: "records", LSN: 42}, step(ctx, "mark", c.mark)
				},
				Stuck: func(err error) { stuck = err },
			}
			switch {
			case c.hang == "before":
				still.Freeze = 2 * time.Second
			case c.hang == "mark" && !c.cancelled:
				still.Snapshot = 300 * time.Millisecond
			}
			b, err := files.Backup(ctx, files.Options{Vault: v, Set: "attachments", Host: "east-1", Path: dir, Still: still})
			if (c.wantErr == "") != (err == nil) || err != nil && !strings.Contains(err.Error(), c.wantErr) {
				t.Errorf("got %v, want %q", err, c.wantErr)
			}
			if err == nil && (b.Point == nil || b.Point.ID != "p1" || b.Point.Frozen <= 0 || b.Files != 1) {
				t.Errorf("%+v", b)
			}
			if err == nil && (b.Point.Stuck != "") != c.stuck {
				t.Errorf("the point says that it is stuck: %q", b.Point.Stuck)
			}
			if !slices.Equal(did, c.want) {
				t.Errorf("%v, want %v", did, c.want)
			}
			_, left := os.Stat(note)
			if (stuck != nil) != c.stuck || (left == nil) != c.stuck {
				t.Errorf("told %v, note %v", stuck, left)
			}
			// Whoever comes after it lets them go on, once.
			did = nil
			c.after = nil
			since, err := files.Thaw(t.Context(), note, still.Run, files.Command{})
			if err != nil || since.IsZero() == c.stuck || len(did) > 0 != c.stuck {
				t.Errorf("afterwards %v, %v, %v", since, err, did)
			}
		})
	}
}
