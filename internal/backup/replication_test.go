package backup

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"holdfast/internal/vault/wal"
)

// answer is one result with these rows; the word NULL stands for what has no value.
func answer(rows ...[]string) []*pgconn.Result {
	r := &pgconn.Result{}
	for _, row := range rows {
		values := make([][]byte, len(row))
		for i, v := range row {
			if v != "NULL" {
				values[i] = []byte(v)
			}
		}
		r.Rows = append(r.Rows, values)
	}
	return []*pgconn.Result{r}
}

func TestTheServersIdentityIsRead(t *testing.T) {
	got, err := parseIdentity(answer([]string{"18446744073709551615", "4294967295", "1A/2B3C4D5E", "NULL"}))
	if err != nil || got.systemID != 1<<64-1 || got.timeline != 1<<32-1 || got.flushed != 0x1A_2B3C4D5E {
		t.Errorf("read %+v, %v", got, err)
	}
	good := []string{"7500000000000000001", "3", "0/3000148", "NULL"}
	with := func(column int, v string) []*pgconn.Result {
		row := append([]string(nil), good...)
		row[column] = v
		return answer(row)
	}
	for name, c := range map[string]struct {
		answer []*pgconn.Result
		want   string
	}{
		"no result":                      {nil, "no single answer"},
		"two results":                    {append(answer(good), answer(good)...), "no single answer"},
		"no row":                         {answer(), "no single answer"},
		"two rows":                       {answer(good, good), "no single answer"},
		"too few columns":                {answer(good[:2]), "2 columns"},
		"a system without a number":      {with(0, "NULL"), "system"},
		"a system that is none":          {with(0, "-1"), "system"},
		"a timeline without a value":     {with(1, "NULL"), "timeline"},
		"a timeline of more than 32 bit": {with(1, "4294967296"), "timeline"},
		"a position without a value":     {with(2, "NULL"), "log position"},
		"a position without a slash":     {with(2, "3000148"), "log position"},
		"a position beyond 64 bit":       {with(2, "0/100000000"), "log position"},
	} {
		if got, err := parseIdentity(c.answer); err == nil || !strings.Contains(err.Error(), c.want) || got.systemID != 0 {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
}

func TestATimelinesHistoryIsReadAsItIs(t *testing.T) {
	content := "1\t0/3000148\tno recovery target specified\n\\x00\n"
	if got, err := parseHistory(answer([]string{"00000002.history", content})); err != nil || string(got) != content {
		t.Errorf("read %q, %v", got, err)
	}
	for name, c := range map[string]struct {
		answer []*pgconn.Result
		want   string
	}{
		"no result":             {nil, "no single answer"},
		"no row":                {answer(), "no single answer"},
		"the name alone":        {answer([]string{"00000002.history"}), "1 columns"},
		"nothing in it":         {answer([]string{"00000002.history", ""}), "empty"},
		"content with no value": {answer([]string{"00000002.history", "NULL"}), "empty"},
	} {
		if got, err := parseHistory(c.answer); err == nil || !strings.Contains(err.Error(), c.want) || got != nil {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
}

func TestWhatTheServerStreamsIsRead(t *testing.T) {
	header := []byte{
		0, 0, 0, 1, 2, 3, 4, 5,
		0, 0, 0, 1, 2, 3, 4, 9,
		0, 0, 0, 0, 0, 0x0f, 0x42, 0x40, // a second after 2000 began, in microseconds
	}
	sent := time.Date(2000, 1, 1, 0, 0, 1, 0, time.UTC)
	log := append(append([]byte{'w'}, header...), "log"...)
	got, err := parseCopy(log)
	if err != nil || got.at != 0x1_02030405 || got.serverEnd != 0x1_02030409 || !got.sent.Equal(sent) || !bytes.Equal(got.data, []byte("log")) || got.wantReply {
		t.Errorf("of log: %+v, %v", got, err)
	}
	alive := append(append([]byte{'k'}, header[8:]...), 1)
	got, err = parseCopy(alive)
	if err != nil || got.serverEnd != 0x1_02030409 || !got.sent.Equal(sent) || !got.wantReply || got.data != nil || got.at != 0 {
		t.Errorf("of a keepalive: %+v, %v", got, err)
	}
	alive[17] = 0
	if got, err = parseCopy(alive); err != nil || got.wantReply {
		t.Errorf("of a keepalive that wants no answer: %+v, %v", got, err)
	}
	for name, b := range map[string][]byte{
		"nothing": nil, "half a header of log": log[:24], "half a keepalive": alive[:17], "another message": append([]byte{'s'}, header...),
	} {
		if got, err := parseCopy(b); err == nil {
			t.Errorf("%s was read as %+v", name, got)
		}
	}
}

// The bytes are those that the manual gives for a standby status update.
func TestAWordOnWhereWeAreGoesOverTheWire(t *testing.T) {
	for ask, last := range map[bool]byte{false: 0, true: 1} {
		got := statusUpdate(wal.LSN(0x1_00000002), wal.LSN(3), ask, time.Date(2000, 1, 1, 0, 0, 1, 0, time.UTC))
		want := []byte{
			'r',
			0, 0, 0, 1, 0, 0, 0, 2,
			0, 0, 0, 0, 0, 0, 0, 3,
			0, 0, 0, 0, 0, 0, 0, 3,
			0, 0, 0, 0, 0, 0x0f, 0x42, 0x40,
			last,
		}
		if !bytes.Equal(got, want) {
			t.Errorf("sent %x, want %x", got, want)
		}
	}
}
