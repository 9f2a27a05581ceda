// Package web is the clinic's front: pages for people and JSON for programs, over one store. Start at [New].
//
// A request that changes something is carried to its end even when its client has gone away: cancelling a
// commit would only leave a row that no standby holds.
package web

import (
	"context"
	"crypto/rand"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"html/template"
	"log/slog"
	"net/http"
	"strconv"
	"sync/atomic"
	"time"

	"holdfast/examples/clinic/store"
)

//go:embed pages/*.html static
var assets embed.FS

// Config is what the front needs. Zero fields mean the default in their comment.
type Config struct {
	Store    *store.Store   // required
	Version  string         // shown by /version
	Instance string         // shown by /version and at the foot of each page
	Zone     *time.Location // of the times that people read and type (UTC)
	Deadline time.Duration  // longest that a request waits for the database (10 s)
	Log      *slog.Logger   // slog.Default()
}

// Server answers HTTP. Its zero value is not usable.
type Server struct {
	cfg     Config
	pages   map[string]*template.Template
	handler http.Handler
	state   atomic.Int32 // one of the states below
}

const (
	starting int32 = iota // the schema is not there yet
	ready
	draining
)

// maxUploadBytes bounds one attachment: it is held in memory on its way.
const maxUploadBytes = 16 << 20

// New makes a front that is not ready until [Server.Ready].
func New(cfg Config) (*Server, error) {
	if cfg.Store == nil {
		return nil, errors.New("make the web front: no store")
	}
	if cfg.Zone == nil {
		cfg.Zone = time.UTC
	}
	if cfg.Deadline == 0 {
		cfg.Deadline = 10 * time.Second
	}
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	s := &Server{cfg: cfg, pages: map[string]*template.Template{}}
	for _, name := range []string{"practices.html", "practice.html", "error.html"} {
		t, err := template.New("layout.html").Funcs(template.FuncMap{"when": s.when, "size": humanSize}).
			ParseFS(assets, "pages/layout.html", "pages/"+name)
		if err != nil {
			return nil, fmt.Errorf("parse page %s: %w", name, err)
		}
		s.pages[name] = t
	}
	s.handler = http.NewCrossOriginProtection().Handler(s.secured(s.routes()))
	return s, nil
}

// Ready says that the schema is there. From then on the instance can serve: a database that goes away later
// goes away for all instances alike, and taking all of them out of the edge would help nobody.
func (s *Server) Ready() { s.state.CompareAndSwap(starting, ready) }

// Drain says that this instance is about to stop, so that no new requests are sent to it.
func (s *Server) Drain() { s.state.Store(draining) }

// ServeHTTP answers one request.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.handler.ServeHTTP(w, r) }

func (s *Server) routes() *http.ServeMux {
	m := http.NewServeMux()
	m.HandleFunc("GET /livez", func(w http.ResponseWriter, _ *http.Request) { plain(w, http.StatusOK, "alive") })
	m.HandleFunc("GET /readyz", s.readyz)
	m.HandleFunc("GET /version", s.version)
	m.Handle("GET /static/", http.FileServerFS(assets))

	m.Handle("GET /{$}", s.page(s.showPractices))
	m.Handle("POST /practices", s.page(s.addPractice))
	m.Handle("GET /practices/{id}", s.page(s.showPractice))
	m.Handle("POST /practices/{id}/appointments", s.page(s.addAppointment))
	m.Handle("POST /practices/{id}/attachments", s.page(s.addAttachment))
	m.Handle("POST /appointments/{id}/cancel", s.page(s.cancelAppointment))
	m.Handle("GET /attachments/{id}", s.page(s.download))

	m.Handle("GET /api/practices", s.api(s.apiPractices))
	m.Handle("POST /api/practices", s.api(s.apiAddPractice))
	m.Handle("GET /api/appointments", s.api(s.apiAppointments))
	m.Handle("POST /api/appointments", s.api(s.apiAddAppointment))
	m.Handle("POST /api/appointments/{id}/cancel", s.api(s.apiCancelAppointment))
	m.Handle("GET /api/attachments", s.api(s.apiAttachments))
	m.Handle("POST /api/attachments", s.api(s.apiAddAttachment))
	m.Handle("GET /api/attachments/{id}", s.api(s.download))
	m.Handle("POST /api/rows", s.api(s.apiAddRow))
	m.Handle("GET /api/rows", s.api(s.apiRows))
	return m
}

// secured sets the headers that keep a browser from doing more than these pages need.
func (s *Server) secured(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'")
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "same-origin")
		next.ServeHTTP(w, r)
	})
}

// handler answers one request or returns why it cannot; the wrapper turns that into a page or into JSON.
type handler func(w http.ResponseWriter, r *http.Request) error

func (s *Server) page(h handler) http.Handler { return s.bounded(h, s.failPage) }
func (s *Server) api(h handler) http.Handler  { return s.bounded(h, s.failJSON) }

// bounded gives the request its deadline and answers for its error.
func (s *Server) bounded(h handler, fail func(http.ResponseWriter, *http.Request, int, string)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if s.state.Load() == starting {
			w.Header().Set("Retry-After", "2")
			fail(w, r, http.StatusServiceUnavailable, "The database is not prepared yet. Please try again in a moment.")
			return
		}
		ctx := r.Context()
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			ctx = context.WithoutCancel(ctx)
		}
		ctx, cancel := context.WithTimeout(ctx, s.cfg.Deadline)
		defer cancel()
		err := h(w, r.WithContext(ctx))
		if err == nil {
			return
		}
		status, message := describe(err)
		if status >= 500 {
			s.cfg.Log.ErrorContext(ctx, "request not answered", "method", r.Method, "path", r.URL.Path, "err", err)
		}
		if status == http.StatusServiceUnavailable {
			w.Header().Set("Retry-After", "1")
		}
		fail(w, r, status, message)
	})
}

// badRequest is a mistake of the caller, worded for the caller.
type badRequest struct{ message string }

func (e *badRequest) Error() string { return e.message }

// describe says what the caller may know about an error: never the text of the database's own.
func describe(err error) (status int, message string) {
	if bad, ok := errors.AsType[*badRequest](err); ok {
		return http.StatusBadRequest, bad.message
	}
	if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return http.StatusRequestEntityTooLarge, fmt.Sprintf("Larger than %s.", humanSize(maxUploadBytes))
	}
	switch {
	case errors.Is(err, store.ErrNotFound):
		return http.StatusNotFound, "There is no such entry."
	case errors.Is(err, store.ErrUnacknowledged):
		return http.StatusServiceUnavailable, "The change could not be confirmed and may be lost. Please send it again."
	case errors.Is(err, store.ErrUnavailable):
		return http.StatusServiceUnavailable, "The database does not answer. Please send it again; nothing is stored twice."
	}
	return http.StatusInternalServerError, "Something went wrong here. The operators see why in the log."
}

func (s *Server) failJSON(w http.ResponseWriter, _ *http.Request, status int, message string) {
	writeJSON(w, status, map[string]string{"error": message})
}

func (s *Server) readyz(w http.ResponseWriter, _ *http.Request) {
	health := s.cfg.Store.Health()
	database := "not asked yet"
	switch {
	case health.Trouble != nil && health.Answered.IsZero():
		database = "no answer so far"
	case health.Trouble != nil:
		database = fmt.Sprintf("no answer for %.1f s", time.Since(health.Answered).Seconds())
	case !health.Answered.IsZero():
		database = "answers"
	}
	status, word := http.StatusOK, "ready"
	switch s.state.Load() {
	case starting:
		status, word = http.StatusServiceUnavailable, "starting: the schema is not there yet"
	case draining:
		status, word = http.StatusServiceUnavailable, "stopping"
	}
	plain(w, status, word+"; database: "+database)
}

func (s *Server) version(w http.ResponseWriter, _ *http.Request) {
	writeJSON(w, http.StatusOK, map[string]string{"version": s.cfg.Version, "instance": s.cfg.Instance})
}

func plain(w http.ResponseWriter, status int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_, _ = fmt.Fprintln(w, text) // the client has gone: there is nobody left to tell
}

func writeJSON(w http.ResponseWriter, status int, value any) {
	body, err := json.Marshal(value)
	if err != nil {
		status, body = http.StatusInternalServerError, []byte(`{"error":"The answer could not be written."}`)
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_, _ = w.Write(append(body, '\n')) // the client has gone: there is nobody left to tell
}

// requestKey is the caller's key for this request, or a fresh one: then only our own tries share it.
func requestKey(given string) string {
	if given != "" {
		return given
	}
	return rand.Text()
}

// pathID reads {id} from the path.
func pathID(r *http.Request) (int64, error) { return parseID("id", r.PathValue("id")) }

func parseID(what, text string) (int64, error) {
	id, err := strconv.ParseInt(text, 10, 64)
	if err != nil || id <= 0 {
		return 0, &badRequest{fmt.Sprintf("%s: %q is not a number above 0.", what, text)}
	}
	return id, nil
}

// humanSize writes a size as people read it.
func humanSize(bytes int64) string {
	switch {
	case bytes < 1<<10:
		return fmt.Sprintf("%d B", bytes)
	case bytes < 1<<20:
		return fmt.Sprintf("%.1f KiB", float64(bytes)/(1<<10))
	}
	return fmt.Sprintf("%.1f MiB", float64(bytes)/(1<<20))
}
