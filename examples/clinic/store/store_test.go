package store_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5/pgconn"

	"holdfast/examples/clinic/pgtest"
	"holdfast/examples/clinic/store"
)

func open(t *testing.T, url string) *store.Store {
	t.Helper()
	s, err := store.Open(store.Config{URL: url, Log: slog.New(slog.NewTextHandler(t.Output(), nil))})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

func within(t *testing.T, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

func must[T any](v T, err error) func(*testing.T) T {
	return func(t *testing.T) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func TestStoreOnARealServer(t *testing.T) {
	server := pgtest.Start(t)
	s := open(t, server.URL)

	t.Run("four instances that migrate an empty database at once all come up", func(t *testing.T) {
		var wg sync.WaitGroup
		for range 4 {
			one := open(t, server.URL)
			wg.Go(func() {
				if err := one.Migrate(within(t, time.Minute)); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if n := server.Number(t, `SELECT count(*) FROM schema_migrations`); n != 1 {
			t.Errorf("schema_migrations has %d rows, want 1", n)
		}
	})

	t.Run("the same request twice stores one practice and answers alike", func(t *testing.T) {
		ctx := within(t, time.Minute)
		first := must(s.AddPractice(ctx, "key-1", store.Practice{Name: "Dr. Azul", City: "Porto"}))(t)
		second := must(s.AddPractice(ctx, "key-1", store.Practice{Name: "Dr. Azul", City: "Porto"}))(t)
		if first != second || first.ID == 0 {
			t.Errorf("answers %v and %v", first, second)
		}
		if diff := cmp.Diff([]store.Practice{first}, must(s.Practices(ctx))(t)); diff != "" {
			t.Error(diff)
		}
	})

	t.Run("an appointment is booked, cancelled once, and needs its practice", func(t *testing.T) {
		ctx := within(t, time.Minute)
		p := must(s.AddPractice(ctx, "key-2", store.Practice{Name: "Dr. Verde"}))(t)
		at := time.Now().Add(72 * time.Hour).Truncate(time.Second)
		a := must(s.AddAppointment(ctx, "key-3", store.Appointment{PracticeID: p.ID, Patient: "Eva", StartsAt: at, Note: "<b>"}))(t)
		for range 2 {
			if got := must(s.CancelAppointment(ctx, a.ID))(t); got != p.ID {
				t.Errorf("cancelled at practice %d, want %d", got, p.ID)
			}
		}
		list := must(s.Appointments(ctx, p.ID))(t)
		if len(list) != 1 || list[0].Cancelled == nil || !list[0].StartsAt.Equal(at) || list[0].Note != "<b>" {
			t.Errorf("appointments: %+v", list)
		}
		_, err := s.AddAppointment(ctx, "key-4", store.Appointment{PracticeID: 999999, Patient: "Eva", StartsAt: at})
		if !errors.Is(err, store.ErrNotFound) {
			t.Errorf("unknown practice: %v", err)
		}
		if _, err := s.CancelAppointment(ctx, 999999); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("unknown appointment: %v", err)
		}
	})

	t.Run("an attachment comes back whole, and one that rotted does not", func(t *testing.T) {
		ctx := within(t, time.Minute)
		p := must(s.AddPractice(ctx, "key-5", store.Practice{Name: "Dr. Rojo"}))(t)
		content := slices.Repeat([]byte{0, 1, 2, 250}, 50000)
		a := must(s.AddAttachment(ctx, "key-6", store.Attachment{PracticeID: p.ID, Name: "x-ray.png", ContentType: "image/png"}, content))(t)
		_, back, err := s.Attachment(ctx, a.ID)
		if err != nil || !slices.Equal(back, content) {
			t.Errorf("read back %d of %d bytes: %v", len(back), len(content), err)
		}
		server.Exec(t, `ALTER TABLE attachments DROP CONSTRAINT content_matches_its_hash`)
		server.Exec(t, `UPDATE attachments SET content = content || '\x00' WHERE id = $1`, a.ID)
		if _, _, err := s.Attachment(ctx, a.ID); err == nil {
			t.Error("a rotten attachment was served")
		}
	})

	t.Run("a due reminder is sent once by two workers, and not again for an appointment that was put back", func(t *testing.T) {
		ctx := within(t, time.Minute)
		p := must(s.AddPractice(ctx, "key-7", store.Practice{Name: "Dr. Gris"}))(t)
		for i := range 40 {
			soon, late := time.Now().Add(time.Hour), time.Now().Add(72*time.Hour)
			must(s.AddAppointment(ctx, fmt.Sprintf("due-%d", i), store.Appointment{PracticeID: p.ID, Patient: "due", StartsAt: soon}))(t)
			must(s.AddAppointment(ctx, fmt.Sprintf("late-%d", i), store.Appointment{PracticeID: p.ID, Patient: "late", StartsAt: late}))(t)
		}
		var wg sync.WaitGroup
		var mu sync.Mutex
		total := int64(0)
		for i := range 2 {
			wg.Go(func() {
				for range 5 {
					sent, err := s.SendReminders(ctx, fmt.Sprintf("worker-%d", i))
					if err != nil {
						t.Error(err)
					}
					mu.Lock()
					total += sent
					mu.Unlock()
				}
			})
		}
		wg.Wait()
		if n := server.Number(t, `SELECT count(*) FROM reminder_log WHERE patient = 'due'`); n != 40 || total != 40 {
			t.Errorf("log holds %d, workers say %d, want 40", n, total)
		}
		server.Exec(t, `UPDATE appointments SET reminded_at = NULL WHERE patient = 'due'`)
		if sent := must(s.SendReminders(ctx, "worker-0"))(t); sent != 0 {
			t.Errorf("%d reminders were sent again", sent)
		}
		if n := server.Number(t, `SELECT count(*) FROM reminder_log WHERE patient = 'late'`); n != 0 {
			t.Errorf("%d reminders came too early", n)
		}
	})

	t.Run("rows are kept once and listed in order, page by page", func(t *testing.T) {
		ctx := within(t, time.Minute)
		for i, n := range []int64{3, 1, 2, 3} {
			if tries := must(s.AddRow(ctx, "pages", n))(t); tries != 1 && i != 3 {
				t.Errorf("row %d: %d attempts", n, tries)
			}
		}
		if diff := cmp.Diff([]int64{2, 3}, must(s.RowsAfter(ctx, "pages", 1, 2))(t)); diff != "" {
			t.Error(diff)
		}
	})

	t.Run("a write during a crash is late, not lost and not an error", func(t *testing.T) {
		must(s.AddRow(within(t, time.Minute), "crash", 1))(t)
		server.Crash(t)
		done := make(chan error, 1)
		go func() {
			_, err := s.AddRow(within(t, time.Minute), "crash", 2)
			done <- err
		}()
		for s.Health().Trouble == nil {
			time.Sleep(5 * time.Millisecond)
		}
		server.Run(t)
		if err := <-done; err != nil {
			t.Error(err)
		}
		if diff := cmp.Diff([]int64{1, 2}, must(s.RowsAfter(within(t, time.Minute), "crash", 0, 10))(t)); diff != "" {
			t.Error(diff)
		}
	})

	t.Run("sessions that the administrator ends cost no error", func(t *testing.T) {
		for n := range int64(20) {
			server.Exec(t, `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'clinic'`)
			must(s.AddRow(within(t, time.Minute), "ended", n))(t)
		}
	})

	t.Run("a server that became read-only is waited for", func(t *testing.T) {
		server.Exec(t, `ALTER ROLE clinic SET default_transaction_read_only = on`)
		server.Exec(t, `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'clinic'`)
		done := make(chan error, 1)
		go func() {
			_, err := s.AddRow(within(t, time.Minute), "read-only", 1)
			done <- err
		}()
		for pe := (*pgconn.PgError)(nil); pe == nil || pe.Code != "25006"; time.Sleep(5 * time.Millisecond) {
			pe, _ = errors.AsType[*pgconn.PgError](s.Health().Trouble)
		}
		server.Exec(t, `ALTER ROLE clinic RESET default_transaction_read_only`)
		if err := <-done; err != nil {
			t.Error(err)
		}
	})

	// The failure that this guards against: a cancelled wait leaves the row on the primary alone; a second try
	// that finds it there and writes nothing would be acknowledged at once.
	t.Run("a cancelled wait for a standby is not an acknowledgement, and neither is trying again", func(t *testing.T) {
		server.Exec(t, `ALTER SYSTEM SET synchronous_standby_names = 'ANY 1 (nobody)'`)
		server.Exec(t, `SELECT pg_reload_conf()`)
		const waiting = `SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep' AND usename = 'clinic'`
		const cancel = `SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep'`
		// A reload takes effect some time after it was asked for: write until a commit does wait.
		inForce := make(chan error, 1)
		go func() {
			var err error
			for n := int64(1); err == nil; n++ {
				_, err = s.AddRow(within(t, time.Minute), "probe", n)
			}
			inForce <- err
		}()
		server.Await(t, 1, waiting)
		server.Exec(t, cancel)
		if err := <-inForce; !errors.Is(err, store.ErrUnacknowledged) {
			t.Fatalf("probe: %v, want ErrUnacknowledged", err)
		}
		for try := range 2 {
			done := make(chan error, 1)
			go func() {
				_, err := s.AddRow(within(t, time.Minute), "cancelled", 1)
				done <- err
			}()
			server.Await(t, 1, waiting)
			server.Exec(t, cancel)
			if err := <-done; !errors.Is(err, store.ErrUnacknowledged) {
				t.Errorf("try %d: %v, want ErrUnacknowledged", try, err)
			}
			if n := server.Number(t, `SELECT attempts FROM numbered_rows WHERE client = 'cancelled'`); n != int64(try)+1 {
				t.Errorf("try %d: the row says %d attempts", try, n)
			}
		}
		server.Exec(t, `ALTER SYSTEM RESET synchronous_standby_names`)
		server.Exec(t, `SELECT pg_reload_conf()`)
		must(s.AddRow(within(t, time.Minute), "cancelled", 1))(t)
	})

	t.Run("a server that stays away is an unavailable database when the deadline ends", func(t *testing.T) {
		server.Stop(t)
		_, err := s.AddRow(within(t, 300*time.Millisecond), "away", 1)
		if !errors.Is(err, store.ErrUnavailable) {
			t.Errorf("got %v, want ErrUnavailable", err)
		}
	})
}

func TestRetryable(t *testing.T) {
	for _, c := range []struct {
		name string
		err  error
		want bool
	}{
		{"an administrator's shutdown is tried again", &pgconn.PgError{Code: "57P01"}, true},
		{"a server that is starting is tried again", &pgconn.PgError{Code: "57P03"}, true},
		{"a standby is tried again", &pgconn.PgError{Code: "25006"}, true},
		{"a broken connection is tried again", fmt.Errorf("receive: %w", io.ErrUnexpectedEOF), true},
		{"a try that took too long is tried again", context.DeadlineExceeded, true},
		{"a class 08 error is tried again", &pgconn.PgError{Code: "08006"}, true},
		{"a broken rule is final", &pgconn.PgError{Code: "23505"}, false},
		{"a wrong password is final", fmt.Errorf("connect: %w", &pgconn.PgError{Code: "28P01"}), false},
		{"a missing row is final", store.ErrNotFound, false},
		{"an unacknowledged commit is final", fmt.Errorf("%w: canceling wait", store.ErrUnacknowledged), false},
		{"a caller who gave up is final", context.Canceled, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := store.Retryable(c.err); got != c.want {
				t.Errorf("Retryable(%v) = %v", c.err, got)
			}
		})
	}
}
