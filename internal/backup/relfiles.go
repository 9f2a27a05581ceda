package backup

import (
	"context"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"

	"holdfast/internal/pgdata"
)

// relfiles says which relation lies in which file, of all databases. Files are named without fork and segment.
type relfiles struct {
	names  map[string]string // base/5/16384 -> "shop: table public.orders"
	logged map[string]bool   // those whose content is backed up
}

func newRelfiles() *relfiles { return &relfiles{names: map[string]string{}, logged: map[string]bool{}} }

// learn adds the relations of one database.
func (r *relfiles) learn(ctx context.Context, database string, conn *pgx.Conn) error {
	rows, err := conn.Query(ctx, `select pg_catalog.pg_relation_filepath(c.oid), c.relisshared, c.relpersistence = 'p',
			case c.relkind when 'i' then 'index ' when 'S' then 'sequence ' else 'table ' end || `+qualified+`
		from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace
		where c.relkind in ('r', 'm', 't', 'i', 'S') and pg_catalog.pg_relation_filepath(c.oid) is not null`)
	if err != nil {
		return err
	}
	var file, name string
	var shared, logged bool
	_, err = pgx.ForEachRow(rows, []any{&file, &shared, &logged, &name}, func() error {
		if shared {
			r.names[file] = "every database: " + name
		} else {
			r.names[file] = database + ": " + name
		}
		r.logged[file] = logged
		return nil
	})
	return err
}

// words says which relation a file and what follows it ("base/5/16384_vm.1 block 3") belong to.
func (r *relfiles) words(text string) string {
	file, rest, _ := strings.Cut(text, " ")
	base, ok := baseFile(file)
	name, known := r.names[base]
	if !ok || !known {
		return text
	}
	if fork := strings.TrimPrefix(path.Base(file), path.Base(base)); strings.HasPrefix(fork, "_vm") {
		name += " visibility map"
	} else if strings.HasPrefix(fork, "_fsm") {
		name += " free space map"
	}
	return strings.TrimSpace(name+" "+rest) + " (" + file + ")"
}

// baseFile is a relation file's name without fork and segment.
func baseFile(file string) (string, bool) {
	dir, base := path.Split(file)
	end := strings.IndexFunc(base, func(c rune) bool { return c < '0' || c > '9' })
	if end < 0 {
		end = len(base)
	}
	if end == 0 || dir == "" {
		return "", false
	}
	return dir + base[:end], true
}

// segmentBytes is the size of every file of a relation but its last.
const segmentBytes = int64(pgdata.SegmentPages) * pgdata.PageSize

// whole names relations of a stopped server of which a file is missing, or ends where it cannot.
func (r *relfiles) whole(data string) (bad []string, files int, err error) {
	for _, base := range sorted(r.names) {
		if !r.logged[base] {
			continue
		}
		found, n, err := r.segments(data, base)
		if err != nil {
			return bad, files, err
		}
		for _, text := range found {
			bad = append(bad, r.words(text))
		}
		files += n
	}
	return bad, files, nil
}

// segments looks at one relation's main files.
func (r *relfiles) segments(data, base string) (bad []string, n int, err error) {
	all, err := filepath.Glob(filepath.Join(data, filepath.FromSlash(base)) + ".*")
	if err != nil {
		return nil, 0, err
	}
	last := 0
	for _, f := range all {
		if n, err := strconv.Atoi(strings.TrimPrefix(filepath.Ext(f), ".")); err == nil {
			last = max(last, n)
		}
	}
	for i := range last + 1 {
		file := base
		if i > 0 {
			file = fmt.Sprintf("%s.%d", base, i)
		}
		at, err := os.Stat(filepath.Join(data, filepath.FromSlash(file)))
		switch {
		case os.IsNotExist(err):
			bad = append(bad, file+" is missing")
			continue
		case err != nil:
			return bad, n, fmt.Errorf("look at %s: %w", file, err)
		case i < last && at.Size() != segmentBytes:
			bad = append(bad, fmt.Sprintf("%s ends at block %d, and others follow it", file, at.Size()/pgdata.PageSize))
		case at.Size()%pgdata.PageSize != 0:
			bad = append(bad, fmt.Sprintf("%s ends within block %d", file, uint32(at.Size()/pgdata.PageSize)+uint32(i)*pgdata.SegmentPages))
		}
		n++
	}
	return bad, n, nil
}

func sorted(m map[string]string) []string {
	out := make([]string, 0, len(m))
	for k := range m {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}
