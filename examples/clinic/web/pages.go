package web

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"io"
	"mime"
	"net/http"
	"path"
	"strings"
	"time"
	"unicode/utf8"

	"holdfast/examples/clinic/store"
)

// formTime is what an <input type="datetime-local"> sends.
const formTime = "2006-01-02T15:04"

// view is what every page gets. Key makes a form's submission safe to send twice.
type view struct {
	Title    string
	Instance string
	Key      string
	Now      string // for the form's earliest time
	Body     any
}

func (s *Server) when(t time.Time) string { return t.In(s.cfg.Zone).Format("Mon 2 Jan 2006, 15:04") }

// render fills the whole page before the first byte is sent, so that an error can still become a status.
func (s *Server) render(w http.ResponseWriter, status int, page, title string, body any) error {
	var out bytes.Buffer
	v := view{Title: title, Instance: s.cfg.Instance, Key: rand.Text(), Now: time.Now().In(s.cfg.Zone).Format(formTime), Body: body}
	if err := s.pages[page].Execute(&out, v); err != nil {
		return fmt.Errorf("fill page %s: %w", page, err)
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_, _ = out.WriteTo(w) // the client has gone: there is nobody left to tell
	return nil
}

func (s *Server) failPage(w http.ResponseWriter, r *http.Request, status int, message string) {
	if err := s.render(w, status, "error.html", http.StatusText(status), message); err != nil {
		s.cfg.Log.ErrorContext(r.Context(), "error page not shown", "err", err)
		http.Error(w, message, status)
	}
}

func (s *Server) showPractices(w http.ResponseWriter, r *http.Request) error {
	list, err := s.cfg.Store.Practices(r.Context())
	if err != nil {
		return err
	}
	return s.render(w, http.StatusOK, "practices.html", "Practices", list)
}

func (s *Server) addPractice(w http.ResponseWriter, r *http.Request) error {
	if err := readForm(w, r); err != nil {
		return err
	}
	p := store.Practice{Name: field(r, "name"), City: field(r, "city")}
	if err := checkPractice(p); err != nil {
		return err
	}
	p, err := s.cfg.Store.AddPractice(r.Context(), requestKey(field(r, "key")), p)
	if err != nil {
		return err
	}
	return seePractice(w, r, p.ID)
}

// practiceView is one practice's page.
type practiceView struct {
	Practice    store.Practice
	Coming      []store.Appointment
	Past        []store.Appointment // begun already, or cancelled
	Attachments []store.Attachment
}

func (s *Server) showPractice(w http.ResponseWriter, r *http.Request) error {
	id, err := pathID(r)
	if err != nil {
		return err
	}
	var v practiceView
	if v.Practice, err = s.cfg.Store.Practice(r.Context(), id); err != nil {
		return err
	}
	appointments, err := s.cfg.Store.Appointments(r.Context(), id)
	if err != nil {
		return err
	}
	now := time.Now()
	for _, a := range appointments {
		if a.Cancelled == nil && a.StartsAt.After(now) {
			v.Coming = append(v.Coming, a)
		} else {
			v.Past = append(v.Past, a)
		}
	}
	if v.Attachments, err = s.cfg.Store.Attachments(r.Context(), id); err != nil {
		return err
	}
	return s.render(w, http.StatusOK, "practice.html", v.Practice.Name, v)
}

func (s *Server) addAppointment(w http.ResponseWriter, r *http.Request) error {
	id, err := pathID(r)
	if err != nil {
		return err
	}
	if err := readForm(w, r); err != nil {
		return err
	}
	starts, err := time.ParseInLocation(formTime, field(r, "starts_at"), s.cfg.Zone)
	if err != nil {
		return &badRequest{"Time: please choose a day and a time."}
	}
	a := store.Appointment{PracticeID: id, Patient: field(r, "patient"), StartsAt: starts, Note: field(r, "note")}
	if err := checkAppointment(a); err != nil {
		return err
	}
	if _, err := s.cfg.Store.AddAppointment(r.Context(), requestKey(field(r, "key")), a); err != nil {
		return err
	}
	return seePractice(w, r, id)
}

func (s *Server) cancelAppointment(w http.ResponseWriter, r *http.Request) error {
	id, err := pathID(r)
	if err != nil {
		return err
	}
	practice, err := s.cfg.Store.CancelAppointment(r.Context(), id)
	if err != nil {
		return err
	}
	return seePractice(w, r, practice)
}

func (s *Server) addAttachment(w http.ResponseWriter, r *http.Request) error {
	id, err := pathID(r)
	if err != nil {
		return err
	}
	r.Body = http.MaxBytesReader(w, r.Body, maxUploadBytes+64<<10) // the form's other fields
	file, header, err := r.FormFile("file")
	if err != nil {
		return badForm("read the upload", err)
	}
	defer func() {
		_ = file.Close() // read-only
		_ = r.MultipartForm.RemoveAll()
	}()
	content, err := io.ReadAll(io.LimitReader(file, maxUploadBytes+1))
	if err != nil {
		return fmt.Errorf("read the upload: %w", err)
	}
	if len(content) > maxUploadBytes {
		return &http.MaxBytesError{Limit: maxUploadBytes}
	}
	a := store.Attachment{PracticeID: id, Name: fileName(header.Filename), ContentType: contentType(header.Header.Get("Content-Type"))}
	if text := field(r, "appointment"); text != "" {
		appointment, err := parseID("appointment", text)
		if err != nil {
			return err
		}
		a.AppointmentID = &appointment
	}
	if _, err := s.cfg.Store.AddAttachment(r.Context(), requestKey(field(r, "key")), a, content); err != nil {
		return err
	}
	return seePractice(w, r, id)
}

// download sends a document to be saved, never shown: what a patient sent must not run in our pages.
func (s *Server) download(w http.ResponseWriter, r *http.Request) error {
	id, err := pathID(r)
	if err != nil {
		return err
	}
	a, content, err := s.cfg.Store.Attachment(r.Context(), id)
	if err != nil {
		return err
	}
	h := w.Header()
	h.Set("Content-Type", a.ContentType)
	h.Set("Content-Disposition", mime.FormatMediaType("attachment", map[string]string{"filename": a.Name}))
	h.Set("Content-Length", fmt.Sprint(len(content)))
	h.Set("ETag", `"`+a.SHA256+`"`)
	h.Set("Cache-Control", "private, no-cache")
	_, _ = w.Write(content) // the client has gone: there is nobody left to tell
	return nil
}

// readForm parses a small form and blames the caller for a broken one.
func readForm(w http.ResponseWriter, r *http.Request) error {
	r.Body = http.MaxBytesReader(w, r.Body, 64<<10)
	if err := r.ParseForm(); err != nil {
		return badForm("read the form", err)
	}
	return nil
}

// badForm keeps "too large" apart from every other mistake in a form.
func badForm(what string, err error) error {
	if strings.Contains(err.Error(), "too large") {
		return fmt.Errorf("%s: %w", what, &http.MaxBytesError{Limit: maxUploadBytes})
	}
	return &badRequest{"The form could not be read: " + err.Error() + "."}
}

func field(r *http.Request, name string) string { return strings.TrimSpace(r.FormValue(name)) }

func checkPractice(p store.Practice) error {
	if p.Name == "" || len(p.Name) > 200 || len(p.City) > 200 || !storable(p.Name, p.City) {
		return &badRequest{"A practice needs a name; name and city have at most 200 bytes of plain text."}
	}
	return nil
}

func checkAppointment(a store.Appointment) error {
	if a.Patient == "" || len(a.Patient) > 200 || len(a.Note) > 4000 || !storable(a.Patient, a.Note) {
		return &badRequest{"An appointment needs a patient's name of at most 200 bytes of plain text; a note has at most 4000."}
	}
	if a.StartsAt.Year() < 1990 || a.StartsAt.Year() > 2200 {
		return &badRequest{"Time: the year must lie between 1990 and 2200."}
	}
	return nil
}

// storable reports whether PostgreSQL takes the texts as they are: valid UTF-8, and no zero byte.
func storable(texts ...string) bool {
	for _, t := range texts {
		if !utf8.ValidString(t) || strings.ContainsRune(t, 0) {
			return false
		}
	}
	return true
}

// fileName drops the folders that some browsers send along, and what cannot be stored.
func fileName(name string) string {
	name = path.Base(strings.ReplaceAll(name, `\`, "/"))
	name = strings.ReplaceAll(strings.ToValidUTF8(name[:min(len(name), 200)], ""), "\x00", "")
	if name == "." || name == "/" || name == "" {
		return "document"
	}
	return name
}

// contentType accepts what parses and calls everything else bytes.
func contentType(given string) string {
	if kind, params, err := mime.ParseMediaType(given); err == nil && strings.Contains(kind, "/") {
		return mime.FormatMediaType(kind, params)
	}
	return "application/octet-stream"
}

func seePractice(w http.ResponseWriter, r *http.Request, id int64) error {
	http.Redirect(w, r, fmt.Sprintf("/practices/%d", id), http.StatusSeeOther)
	return nil
}
