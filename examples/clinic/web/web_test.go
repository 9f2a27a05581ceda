package web_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"mime/multipart"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"holdfast/examples/clinic/pgtest"
	"holdfast/examples/clinic/store"
	"holdfast/examples/clinic/web"
)

// site is a front over a store, and a browser's way of talking to it.
type site struct {
	t     *testing.T
	store *store.Store
	front *web.Server
}

func newSite(t *testing.T, url string, deadline time.Duration) *site {
	t.Helper()
	log := slog.New(slog.NewTextHandler(io.Discard, nil))
	s, err := store.Open(store.Config{URL: url, Log: log})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	front, err := web.New(web.Config{Store: s, Version: "1.2.3", Instance: "web-1", Deadline: deadline, Log: log})
	if err != nil {
		t.Fatal(err)
	}
	return &site{t: t, store: s, front: front}
}

func (s *site) do(method, target, contentType string, body []byte, header ...string) *httptest.ResponseRecorder {
	s.t.Helper()
	r := httptest.NewRequestWithContext(s.t.Context(), method, target, bytes.NewReader(body))
	if contentType != "" {
		r.Header.Set("Content-Type", contentType)
	}
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	s.front.ServeHTTP(w, r)
	return w
}

func (s *site) get(target string) *httptest.ResponseRecorder {
	return s.do(http.MethodGet, target, "", nil)
}

func (s *site) form(target string, values url.Values) *httptest.ResponseRecorder {
	return s.do(http.MethodPost, target, "application/x-www-form-urlencoded", []byte(values.Encode()))
}

func (s *site) json(target, body string, header ...string) *httptest.ResponseRecorder {
	return s.do(http.MethodPost, target, "application/json", []byte(body), header...)
}

func want(t *testing.T, w *httptest.ResponseRecorder, status int, parts ...string) {
	t.Helper()
	if w.Code != status {
		t.Errorf("status %d, want %d: %s", w.Code, status, w.Body)
	}
	for _, p := range parts {
		if !strings.Contains(w.Body.String(), p) {
			t.Errorf("%q is not in the answer:\n%s", p, w.Body)
		}
	}
}

// A database that nobody answers for stands in for one that is away: the port is closed.
const away = "postgres://clinic@127.45.0.2:1/clinic?sslmode=disable"

func TestWithoutADatabase(t *testing.T) {
	s := newSite(t, away, time.Second)
	t.Run("an instance lives before its schema is there, and is not ready", func(t *testing.T) {
		want(t, s.get("/livez"), 200, "alive")
		want(t, s.get("/readyz"), 503, "starting")
		want(t, s.get("/"), 503, "not prepared yet")
		want(t, s.json("/api/rows", `{"client":"a","number":1}`), 503, `"error"`)
		want(t, s.get("/version"), 200, `"version":"1.2.3"`, `"instance":"web-1"`)
	})
	t.Run("a ready instance stays ready while its database is away, and says so", func(t *testing.T) {
		s.front.Ready()
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		if _, err := s.store.Practices(ctx); err == nil {
			t.Error("a closed port answered")
		}
		want(t, s.get("/readyz"), 200, "ready; database: no answer")
		want(t, s.get("/livez"), 200)
	})
	t.Run("an instance that stops is not ready, and a late word that it is changes nothing", func(t *testing.T) {
		s.front.Drain()
		s.front.Ready()
		want(t, s.get("/readyz"), 503, "stopping")
		want(t, s.get("/livez"), 200)
	})
}

func TestPagesAndAPI(t *testing.T) {
	server := pgtest.Start(t)
	s := newSite(t, server.URL, 30*time.Second)
	if err := s.store.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.front.Ready()

	t.Run("a person adds a practice, books, uploads, downloads and cancels", func(t *testing.T) {
		s := &site{t, s.store, s.front}
		want(t, s.get("/"), 200, "No practice yet")
		w := s.form("/practices", url.Values{"name": {"Dr. <Weiß>"}, "city": {"Köln"}, "key": {"k1"}})
		want(t, w, 303)
		page := w.Header().Get("Location")
		if again := s.form("/practices", url.Values{"name": {"Dr. <Weiß>"}, "city": {"Köln"}, "key": {"k1"}}); again.Header().Get("Location") != page {
			t.Errorf("sent twice: %s and %s", page, again.Header().Get("Location"))
		}
		want(t, s.get("/"), 200, "Dr. &lt;Weiß&gt;", "Köln", "Served by web-1")

		at := time.Now().UTC().Add(48 * time.Hour)
		want(t, s.form(page+"/appointments", url.Values{"patient": {"Eva <i>"}, "starts_at": {at.Format("2006-01-02T15:04")}, "note": {"molar"}}), 303)
		shown := s.get(page)
		want(t, shown, 200, "Eva &lt;i&gt;", "molar", at.Format("Mon 2 Jan 2006, 15:04"), "to come")
		if csp := shown.Header().Get("Content-Security-Policy"); !strings.Contains(csp, "default-src 'none'") {
			t.Errorf("policy: %q", csp)
		}

		var body bytes.Buffer
		m := multipart.NewWriter(&body)
		part, _ := m.CreateFormFile("file", `C:\scans\x "ray".html`)
		_, _ = part.Write([]byte("<script>alert(1)</script>"))
		if err := m.Close(); err != nil {
			t.Fatal(err)
		}
		want(t, s.do(http.MethodPost, page+"/attachments", m.FormDataContentType(), body.Bytes()), 303)
		link := regexp.MustCompile(`/attachments/\d+"`).FindString(strings.ReplaceAll(s.get(page).Body.String(), page+"/attachments", ""))
		got := s.get(strings.TrimSuffix(link, `"`))
		want(t, got, 200, "<script>alert(1)</script>")
		if d := got.Header().Get("Content-Disposition"); !strings.HasPrefix(d, "attachment;") || !strings.Contains(d, "ray") || strings.Contains(d, "scans") {
			t.Errorf("disposition: %q", d)
		}

		cancel := regexp.MustCompile(`/appointments/\d+/cancel`).FindString(s.get(page).Body.String())
		want(t, s.form(cancel, nil), 303)
		want(t, s.get(page), 200, "Nothing is booked.", "cancelled")
	})

	for _, c := range []struct {
		name, method, target, body string
		status                     int
		part                       string
	}{
		{"a practice needs a name", "POST", "/api/practices", `{"name":""}`, 400, "needs a name"},
		{"an unknown key is refused", "POST", "/api/practices", `{"name":"a","nmae":"b"}`, 400, "nmae"},
		{"a zero byte is refused before the database refuses it", "POST", "/api/practices", `{"name":"a\u0000"}`, 400, "plain text"},
		{"an appointment needs a patient", "POST", "/api/appointments", `{"practice_id":1,"starts_at":"2030-01-01T08:00:00Z"}`, 400, "patient"},
		{"an appointment needs a practice that is there", "POST", "/api/appointments",
			`{"practice_id":999,"patient":"a","starts_at":"2030-01-01T08:00:00Z"}`, 404, "no such entry"},
		{"an id must be a number", "GET", "/api/appointments?practice=x", "", 400, "not a number"},
		{"an unknown attachment is not found", "GET", "/api/attachments/999", "", 404, "no such entry"},
		{"an attachment whose hash differs is refused", "POST", "/api/attachments?practice=1&name=a&sha256=00", "content", 400, "was announced"},
		{"a row needs a client", "POST", "/api/rows", `{"number":1}`, 400, "client"},
		{"an unknown practice has a page that says so", "GET", "/practices/999", "", 404, "no such entry"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := &site{t, s.store, s.front}
			want(t, s.do(c.method, c.target, "", []byte(c.body)), c.status, c.part)
		})
	}

	t.Run("an attachment that is too large is refused", func(t *testing.T) {
		s := &site{t, s.store, s.front}
		want(t, s.do("POST", "/api/attachments?practice=1&name=a", "", make([]byte, 16<<20+1)), 413, "16.0 MiB")
	})

	t.Run("another site's form is refused", func(t *testing.T) {
		s := &site{t, s.store, s.front}
		w := s.do("POST", "/practices", "application/x-www-form-urlencoded", []byte("name=x"), "Sec-Fetch-Site", "cross-site")
		want(t, w, 403)
	})

	t.Run("an attachment goes in and out of the API unharmed", func(t *testing.T) {
		s := &site{t, s.store, s.front}
		content := slices.Repeat([]byte{0, 255, 10, 13}, 100000)
		w := s.do("POST", fmt.Sprintf("/api/attachments?practice=1&name=scan.bin&sha256=%x", sha256.Sum256(content)), "", content)
		want(t, w, 201)
		var a store.Attachment
		if err := json.Unmarshal(w.Body.Bytes(), &a); err != nil {
			t.Fatal(err)
		}
		if back := s.get(fmt.Sprintf("/api/attachments/%d", a.ID)).Body.Bytes(); !bytes.Equal(back, content) {
			t.Errorf("%d bytes came back, %d went in", len(back), len(content))
		}
		want(t, s.get("/api/attachments?practice=1"), 200, a.SHA256)
	})

	t.Run("rows are stored once and streamed over several pages in order", func(t *testing.T) {
		s := &site{t, s.store, s.front}
		server.Exec(t, `INSERT INTO numbered_rows (client, number) SELECT 'many', generate_series(1, 12000)`)
		want(t, s.json("/api/rows", `{"client":"many","number":12001}`), 201, `"attempts":1`)
		want(t, s.json("/api/rows", `{"client":"many","number":12001}`), 201, `"attempts":2`)
		lines := strings.Fields(s.get("/api/rows?client=many&after=1").Body.String())
		if len(lines) != 12000 || lines[0] != "2" || lines[11999] != "12001" {
			t.Errorf("%d lines", len(lines))
		}
		want(t, s.get("/api/rows?client=nobody"), 200)
	})

	t.Run("an API caller's key makes a repeated request one request", func(t *testing.T) {
		s := &site{t, s.store, s.front}
		one := s.json("/api/practices", `{"name":"Keyed"}`, "Idempotency-Key", "abc").Body.String()
		two := s.json("/api/practices", `{"name":"Keyed"}`, "Idempotency-Key", "abc").Body.String()
		if one != two {
			t.Errorf("%s and %s", one, two)
		}
	})

	t.Run("a request that nobody can carry out says that repeating is safe, and no more", func(t *testing.T) {
		server.Stop(t)
		s := newSite(t, server.URL, 200*time.Millisecond)
		s.front.Ready()
		w := s.json("/api/rows", `{"client":"a","number":1}`)
		want(t, w, 503, "nothing is stored twice")
		if strings.Contains(w.Body.String(), "127.45") || w.Header().Get("Retry-After") == "" {
			t.Errorf("answer: %v %s", w.Header(), w.Body)
		}
	})
}
