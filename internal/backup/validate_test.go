package backup_test

import (
	"encoding/binary"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"holdfast/internal/backup"
	"holdfast/internal/pgdata"
	"holdfast/internal/plan"
	"holdfast/internal/restore"
	"holdfast/internal/restore/pgtest"
	"holdfast/internal/vault"
)

// proof restores a backup on trial and looks at it.
func proof(t *testing.T, v *vault.Vault, id string, probes ...plan.Probe) vault.Validation {
	t.Helper()
	owner, err := restore.DefaultOwner()
	if err != nil {
		t.Fatal(err)
	}
	dir := pgtest.Dir(t)
	_, found, err := backup.Validate(t.Context(), backup.ValidateOptions{Vault: v, Database: "orders", Backup: id, Dir: dir, Owner: owner, Usual: "postgres", Probes: probes})
	if err != nil {
		t.Fatal(err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("the validation left %v behind (%v)", left, err)
	}
	return found
}

// found gives one check of a validation.
func found(t *testing.T, val vault.Validation, name string) vault.Check {
	t.Helper()
	i := slices.IndexFunc(val.Checks, func(c vault.Check) bool { return c.Name == name })
	if i < 0 {
		t.Fatalf("no check %s among %+v", name, val.Checks)
	}
	return val.Checks[i]
}

// wantFound says that a check failed and names all of the words in one of its objects or in its detail.
func wantFound(t *testing.T, val vault.Validation, name string, words ...string) {
	t.Helper()
	c := found(t, val, name)
	if val.Passed || c.Outcome != "failed" {
		t.Errorf("%s: %s; passed over all: %v", name, c.Outcome, val.Passed)
	}
	has := func(text string) bool {
		return !slices.ContainsFunc(words, func(w string) bool { return !strings.Contains(text, w) })
	}
	if !slices.ContainsFunc(append(slices.Clone(c.Objects), c.Detail), has) {
		t.Errorf("%s names %q and says %q, and not %q together", name, c.Objects, c.Detail, words)
	}
}

// has reports whether the server's programs come with an extension.
func has(t *testing.T, s *pgtest.Server, extension string) bool {
	t.Helper()
	var there bool
	if err := s.Conn("postgres").QueryRow(t.Context(), "select exists (select from pg_available_extensions where name = $1)", extension).Scan(&there); err != nil {
		t.Fatal(err)
	}
	return there
}

func fileOf(t *testing.T, s *pgtest.Server, database, relation string) string {
	t.Helper()
	var rel string
	if err := s.Conn(database).QueryRow(t.Context(), "select pg_relation_filepath($1::text::regclass)", relation).Scan(&rel); err != nil {
		t.Fatal(err)
	}
	return filepath.Join(s.Dir, rel)
}

// spoil changes one page of a file on disk, and gives it a right checksum again unless it is to be found by that.
func spoil(t *testing.T, file string, block int64, seal bool, change func(page []byte)) {
	t.Helper()
	f, err := os.OpenFile(file, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	page := make([]byte, pgdata.PageSize)
	if _, err := f.ReadAt(page, block*pgdata.PageSize); err != nil {
		t.Fatal(err)
	}
	change(page)
	if seal {
		binary.LittleEndian.PutUint16(page[8:], pgdata.Checksum(page, uint32(block)))
	}
	if _, err := f.WriteAt(page, block*pgdata.PageSize); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}

// firstItem is where a page's first row or index entry begins.
func firstItem(page []byte, number int) int {
	return int(binary.LittleEndian.Uint32(page[24+4*number:]) & 0x7fff)
}

// Damage of each kind, as disks and copies leave it behind, in tables of their own so that each is found by itself.
func TestAValidationNamesEveryKindOfDamage(t *testing.T) {
	s, v := pgtest.New(t), newVault(t)
	stop := archive(t, receiver(t, v), s)
	s.Exec("postgres", "create schema shop", "create database other")
	tables := []string{"good", "heap_bit", "heap_rot", "index_bit", "map_bit", "cut_row", "cut_page", "gone", "lost_key"}
	for _, name := range tables {
		s.Exec("postgres", "create table shop."+name+" (id int primary key, body text not null)",
			"insert into shop."+name+" select g, repeat(md5(g::text), 10) from generate_series(1, 500) g")
	}
	s.Exec("postgres", "create table shop.no_key (id int, body text)", "insert into shop.no_key select g, 'x' from generate_series(1, 10) g", "create index on shop.no_key (id)")
	s.Exec("other", "create table far (id int primary key, body text)", "insert into far select g, repeat('x', 400) from generate_series(1, 200) g")
	s.Exec("postgres", "vacuum freeze", "delete from shop.map_bit where id = 7", "checkpoint")
	s.Exec("other", "vacuum freeze", "checkpoint")
	clean := base(t, v, s)

	file := func(relation string) string { return fileOf(t, s, "postgres", relation) }
	// A bit in a row's head: its number of columns.
	spoil(t, file("shop.heap_bit"), 2, true, func(p []byte) { p[firstItem(p, 0)+18] |= 0x07 })
	// A byte that the checksum does not know.
	spoil(t, file("shop.heap_rot"), 3, false, func(p []byte) { p[6000] ^= 0x40 })
	spoil(t, fileOf(t, s, "other", "far"), 1, false, func(p []byte) { p[6000] ^= 0x40 })
	// A bit in an index entry's key: rows are not found by it, and it is out of order.
	spoil(t, file("shop.index_bit_pkey"), 1, true, func(p []byte) { p[firstItem(p, 5)+8] ^= 0x40 })
	// The map says of a page with a deleted row that all of it is visible.
	spoil(t, file("shop.map_bit")+"_vm", 0, true, func(p []byte) { p[24] |= 0x03 })
	// A file that ends before its last pages, one that ends within a page, and one that is not there.
	if err := os.Truncate(file("shop.cut_row"), 10*pgdata.PageSize); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(file("shop.cut_page"), 10*pgdata.PageSize+100); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(file("shop.gone")); err != nil {
		t.Fatal(err)
	}
	// An index without entries for a page of its table.
	spoil(t, file("shop.lost_key_pkey"), 1, true, func(p []byte) {
		lower := binary.LittleEndian.Uint16(p[12:])
		binary.LittleEndian.PutUint16(p[12:], lower-4*20)
	})
	s.Kill() // nothing is written back over what was planted
	s.Start()
	bad := base(t, v, s)
	_ = stop()

	asked := []plan.Probe{
		{SQL: "select count(*) from shop.good", AtLeast: "500"}, {SQL: "select count(*) from far", Database: "other", Equals: "200"}, {SQL: "select now() - interval '1 hour'", MaxAge: 2 * time.Hour},
	}
	whole := proof(t, v, clean.ID, asked...)
	for _, c := range whole.Checks {
		if c.Outcome == "failed" {
			t.Errorf("the good one: %+v", c)
		}
	}
	if c := found(t, whole, "probes"); !whole.Passed || c.Outcome != "passed" || !strings.Contains(c.Detail, "1 answers 500; 2 answers 200") {
		t.Errorf("the good one: passed %v, probes %+v", whole.Passed, c)
	}
	if c := found(t, whole, "databases"); !strings.Contains(c.Detail, "other, postgres, template0, template1") {
		t.Errorf("looked into %s", c.Detail)
	}

	sick := proof(t, v, bad.ID, plan.Probe{SQL: "select count(*) from shop.good", AtLeast: "501"}, plan.Probe{SQL: "delete from shop.good returning 1", Equals: "1"},
		plan.Probe{SQL: "select id from shop.good", AtLeast: "1"}, plan.Probe{SQL: "select now() - interval '3 hours'", MaxAge: time.Hour})
	wantFound(t, sick, "pages", "postgres: table shop.heap_rot", "block 3")
	wantFound(t, sick, "pages", "other: table public.far", "block 1")
	wantFound(t, sick, "checksums", "postgres: table shop.heap_rot", "block 3")
	wantFound(t, sick, "counts", "postgres: table shop.map_bit", "500 rows by its index, 499 by its pages")
	wantFound(t, sick, "files", "postgres: table shop.gone", "is missing")
	wantFound(t, sick, "files", "postgres: table shop.cut_page", "within block 10")
	wantFound(t, sick, "counts", "postgres: table shop.cut_row")
	wantFound(t, sick, "counts", "postgres: table shop.lost_key", "480 rows by its index, 500 by its pages")
	if c := found(t, whole, "counts"); !strings.HasPrefix(c.Detail, "4") { // 400 and more, catalogs and their long values among them
		t.Errorf("counted twice were %s", c.Detail)
	}
	wantFound(t, sick, "probes", "probe 1 in postgres", "it answers 500, and must be at least 501")
	wantFound(t, sick, "probes", "probe 2", "read-only")
	wantFound(t, sick, "probes", "probe 3", "it gives 500 rows of 1 columns")
	wantFound(t, sick, "probes", "probe 4", "before the backup, and may be 1h")
	if has(t, s, "amcheck") {
		wantFound(t, sick, "heap", "postgres: table shop.heap_bit block 2 item 1")
		wantFound(t, sick, "heap", "postgres: table shop.heap_rot", "block 3")
		wantFound(t, sick, "heap", "other: table public.far", "block 1")
		wantFound(t, sick, "indexes", "postgres: index shop.index_bit_pkey")
		wantFound(t, sick, "indexes", "postgres: index shop.lost_key_pkey", "lacks matching index tuple")
		wantFound(t, sick, "heap", "postgres: table shop.gone", "could not open file")
	} else if c := found(t, sick, "indexes"); c.Outcome != "skipped" || !strings.Contains(c.Detail, "amcheck is not installed") {
		t.Errorf("amcheck is missing, and the check says %+v", c)
	}
	if has(t, s, "pg_visibility") {
		wantFound(t, sick, "visibility", "postgres: table shop.map_bit visibility map, row (0,7)")
	} else if c := found(t, sick, "visibility"); c.Outcome != "skipped" || !strings.Contains(c.Detail, "pg_visibility is not installed") {
		t.Errorf("pg_visibility is missing, and the check says %+v", c)
	}
	for _, c := range sick.Checks {
		for _, o := range c.Objects {
			if strings.Contains(o, "shop.good") && c.Name != "probes" || strings.Contains(o, "no_key") {
				t.Errorf("%s blames what is whole: %s", c.Name, o)
			}
		}
	}
	// The verdict lasts in the vault, and a bad backup is not taken for a restore.
	list, err := v.Backups(t.Context(), "orders")
	if err != nil || len(list) != 2 || !list[0].Validated() || list[1].Validation == nil || list[1].Validated() {
		t.Errorf("the vault lists %+v, %v", list, err)
	}
}
