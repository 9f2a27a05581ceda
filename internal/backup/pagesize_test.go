package backup_test

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"holdfast/internal/backup"
	"holdfast/internal/pgdata"
	"holdfast/internal/problem"
)

// directoryOf has the pg_control of a PostgreSQL 15 that was built with pages of that size, and nothing else.
func directoryOf(t *testing.T, pageSize uint32) string {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join("..", "pgcontrol", "testdata", "pg_control.15"))
	if err != nil {
		t.Fatal(err)
	}
	const sizeAt, crcAt = 216, 288
	if got := binary.LittleEndian.Uint32(raw[sizeAt:]); got != pgdata.PageSize {
		t.Fatalf("its page size is %d", got)
	}
	binary.LittleEndian.PutUint32(raw[sizeAt:], pageSize)
	binary.LittleEndian.PutUint32(raw[crcAt:], crc32.Checksum(raw[:crcAt], crc32.MakeTable(crc32.Castagnoli)))
	dir := t.TempDir()
	if err := errors.Join(os.Mkdir(filepath.Join(dir, "global"), 0o700), os.WriteFile(filepath.Join(dir, "global", "pg_control"), raw, 0o600)); err != nil {
		t.Fatal(err)
	}
	return dir
}

// Scenario 38: pages of another size are refused before the server is asked for anything.
func TestAServerOfAnotherPageSizeIsRefused(t *testing.T) {
	_, err := backup.Base(t.Context(), backup.BaseOptions{DataDir: directoryOf(t, 4096), Database: "orders"})
	p, ok := errors.AsType[*problem.Problem](err)
	if !ok || p.Code != "backup.block-size" || p.Subject != "orders" || !strings.Contains(p.Title, "4096 bytes") || !strings.Contains(p.Meaning, "No backup was made") {
		t.Errorf("got %v", err)
	}
}
