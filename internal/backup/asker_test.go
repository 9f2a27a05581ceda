package backup

import (
	"context"
	"log/slog"
	"net"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"holdfast/internal/clock"
)

func TestHowManyVotesAreGivenToAServerThatDoesNotSay(t *testing.T) {
	for name, c := range map[string]struct {
		is       *asker
		standbys int
		want     int
	}{
		"nobody asks for votes":                               {nil, 3, 0},
		"no answer has had the time to come":                  {&asker{}, 3, 0},
		"it cannot be asked, and never could":                 {&asker{failed: true}, 3, 3},
		"it cannot be asked, and there are no standbys":       {&asker{failed: true}, 0, 1},
		"it cannot be asked, and the plan asks for no vote":   {&asker{failed: true}, -1, 0},
		"it cannot be asked any more, and asked for two":      {&asker{failed: true, known: true, last: 2}, 3, 2},
		"it cannot be asked any more, and asked for none":     {&asker{failed: true, known: true}, 3, 0},
		"it says how many, whatever the plan has of standbys": {&asker{known: true, last: 4}, 2, 4},
	} {
		if got := c.is.wanted(c.standbys); got != c.want {
			t.Errorf("%s: %d votes, want %d", name, got, c.want)
		}
	}
}

// A server that takes the connection and says nothing keeps nobody waiting, also not for the end.
func TestNobodyWaitsForAServerThatDoesNotSayWhatItAsksFor(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	to := l.Addr().(*net.TCPAddr)
	cfg, err := pgconn.ParseConfig("host=127.0.0.1 user=nobody dbname=none sslmode=disable")
	if err != nil {
		t.Fatal(err)
	}
	cfg.Port = uint16(to.Port)
	a := newAsker(cfg, slog.New(slog.DiscardHandler), clock.Real(), 2).begin(t.Context())
	conn, err := l.Accept() // the question is under way
	if err != nil {
		t.Fatal(err)
	}
	got := make(chan int, 1)
	go func() { got <- a.wanted(2); a.end() }()
	most := time.NewTimer(time.Minute)
	defer most.Stop()
	select {
	case <-got: // before or after the question is given up
	case <-most.C:
		t.Fatal("the answer is waited for")
	}
	_ = conn.Close()
	a.end()

	_ = l.Close() // and one that cannot be reached is given what its plan may ask for
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	a = newAsker(cfg, slog.New(slog.DiscardHandler), clock.Real(), 2)
	a.ask(ctx)
	if n := a.wanted(2); n != 2 {
		t.Errorf("%d votes for a server that cannot be reached", n)
	}
	select {
	case <-a.news:
	default:
		t.Error("that is no news")
	}
}
