package web

import (
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"

	"holdfast/examples/clinic/store"
)

// keyHeader carries a caller's key for a request, so that sending it again stores nothing twice.
const keyHeader = "Idempotency-Key"

// readBody decodes one JSON object and refuses what it does not know.
func readBody(w http.ResponseWriter, r *http.Request, into any) error {
	d := json.NewDecoder(http.MaxBytesReader(w, r.Body, 64<<10))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		return &badRequest{"The body is not the JSON object that is expected here: " + err.Error() + "."}
	}
	return nil
}

func (s *Server) apiPractices(w http.ResponseWriter, r *http.Request) error {
	list, err := s.cfg.Store.Practices(r.Context())
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, orEmpty(list))
	return nil
}

func (s *Server) apiAddPractice(w http.ResponseWriter, r *http.Request) error {
	var in struct{ Name, City string }
	if err := readBody(w, r, &in); err != nil {
		return err
	}
	p := store.Practice{Name: in.Name, City: in.City}
	if err := checkPractice(p); err != nil {
		return err
	}
	p, err := s.cfg.Store.AddPractice(r.Context(), requestKey(r.Header.Get(keyHeader)), p)
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusCreated, p)
	return nil
}

func (s *Server) apiAppointments(w http.ResponseWriter, r *http.Request) error {
	practice, err := parseID("practice", r.URL.Query().Get("practice"))
	if err != nil {
		return err
	}
	list, err := s.cfg.Store.Appointments(r.Context(), practice)
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, orEmpty(list))
	return nil
}

func (s *Server) apiAddAppointment(w http.ResponseWriter, r *http.Request) error {
	var in struct {
		PracticeID int64     `json:"practice_id"`
		Patient    string    `json:"patient"`
		StartsAt   time.Time `json:"starts_at"`
		Note       string    `json:"note"`
	}
	if err := readBody(w, r, &in); err != nil {
		return err
	}
	a := store.Appointment{PracticeID: in.PracticeID, Patient: in.Patient, StartsAt: in.StartsAt, Note: in.Note}
	if err := checkAppointment(a); err != nil {
		return err
	}
	a, err := s.cfg.Store.AddAppointment(r.Context(), requestKey(r.Header.Get(keyHeader)), a)
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusCreated, a)
	return nil
}

func (s *Server) apiCancelAppointment(w http.ResponseWriter, r *http.Request) error {
	id, err := pathID(r)
	if err != nil {
		return err
	}
	if _, err := s.cfg.Store.CancelAppointment(r.Context(), id); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func (s *Server) apiAttachments(w http.ResponseWriter, r *http.Request) error {
	practice, err := parseID("practice", r.URL.Query().Get("practice"))
	if err != nil {
		return err
	}
	list, err := s.cfg.Store.Attachments(r.Context(), practice)
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, orEmpty(list))
	return nil
}

// apiAddAttachment stores the request's body: ?practice=ID&name=FILE, optionally &appointment=ID and
// &sha256=HEX, which must match what arrived.
func (s *Server) apiAddAttachment(w http.ResponseWriter, r *http.Request) error {
	q := r.URL.Query()
	practice, err := parseID("practice", q.Get("practice"))
	if err != nil {
		return err
	}
	a := store.Attachment{PracticeID: practice, Name: fileName(q.Get("name")), ContentType: contentType(r.Header.Get("Content-Type"))}
	if q.Has("appointment") {
		appointment, err := parseID("appointment", q.Get("appointment"))
		if err != nil {
			return err
		}
		a.AppointmentID = &appointment
	}
	content, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxUploadBytes))
	if err != nil {
		return fmt.Errorf("read the upload: %w", err)
	}
	sum := sha256.Sum256(content)
	if want := q.Get("sha256"); want != "" && want != hex.EncodeToString(sum[:]) {
		return &badRequest{fmt.Sprintf("sha256: %s was announced, %x arrived.", want, sum)}
	}
	a, err = s.cfg.Store.AddAttachment(r.Context(), requestKey(r.Header.Get(keyHeader)), a, content)
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusCreated, a)
	return nil
}

// apiAddRow answers 201 only after a commit that the database acknowledged.
func (s *Server) apiAddRow(w http.ResponseWriter, r *http.Request) error {
	var in struct {
		Client string `json:"client"`
		Number int64  `json:"number"`
	}
	if err := readBody(w, r, &in); err != nil {
		return err
	}
	if in.Client == "" || len(in.Client) > 200 || !storable(in.Client) {
		return &badRequest{"client: a name of 1 to 200 bytes of plain text is needed."}
	}
	attempts, err := s.cfg.Store.AddRow(r.Context(), in.Client, in.Number)
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusCreated, map[string]any{"client": in.Client, "number": in.Number, "attempts": attempts})
	return nil
}

// apiRows streams a client's numbers, one on a line, in order: ?client=NAME, optionally &after=NUMBER. A
// stream that cannot be finished is cut, so that half a list never looks whole.
func (s *Server) apiRows(w http.ResponseWriter, r *http.Request) error {
	q := r.URL.Query()
	after := int64(-1 << 63)
	if q.Has("after") {
		n, err := strconv.ParseInt(q.Get("after"), 10, 64)
		if err != nil {
			return &badRequest{fmt.Sprintf("after: %q is not a number.", q.Get("after"))}
		}
		after = n
	}
	client := q.Get("client")
	if !storable(client) {
		return &badRequest{"client: a name of plain text is needed."}
	}
	const pageRows = 5000
	var out *bufio.Writer
	for {
		page, err := s.cfg.Store.RowsAfter(r.Context(), client, after, pageRows)
		if err != nil && out == nil {
			return err
		}
		if err != nil {
			s.cfg.Log.WarnContext(r.Context(), "list of rows cut short", "err", err)
			panic(http.ErrAbortHandler)
		}
		if out == nil {
			w.Header().Set("Content-Type", "text/plain; charset=utf-8")
			out = bufio.NewWriter(w)
		}
		for _, n := range page {
			_, _ = fmt.Fprintln(out, n) // bufio keeps the first error for Flush
		}
		if err := out.Flush(); err != nil || len(page) < pageRows {
			return nil // finished, or the client has gone: there is nobody left to tell
		}
		after = page[len(page)-1]
	}
}

// orEmpty makes an empty list [] in JSON rather than null.
func orEmpty[T any](list []T) []T {
	if list == nil {
		return []T{}
	}
	return list
}
