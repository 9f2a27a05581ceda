package postgres

import (
	"context"
	"crypto/hmac"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/text/secure/precis"

	"holdfast/internal/redact"
)

// planned marks, among a role's own settings, that the plan has it or had it: a role that the plan lets go of is known by
// it, also by a primary that has seen no earlier plan. Its value is the cluster's system identifier and the role's name, so
// that neither a role that a person renamed nor one that came with a dump of another cluster is taken for one. Roles that
// people made never have it, and are left alone.
const planned = "holdfast.planned"

// markIs is the value that the role r of pg_authid has when the plan has or had it.
const markIs = `(SELECT system_identifier::text FROM pg_control_system()) || '/' || r.rolname`

// wishes are what the plan wants of roles.
type wishes struct {
	known bool // false = not yet: a password has not been read, and nothing is done about any role
	turn  int  // rises with each change
	roles []Role
}

// SetRoles takes over what the plan wants of roles from now on. Observations say that they are not ready until
// [Server.EnsureRoles] has made them so.
func (s *Server) SetRoles(roles []Role) error {
	for _, r := range roles {
		if err := r.check(); err != nil {
			return fmt.Errorf("change the roles: %w", err)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.planRoles, s.now.roles = wishes{true, s.planRoles.turn + 1, slices.Clone(roles)}, false
	return nil
}

// RolesLater says that the plan wants other roles, which are not known yet: those of before are none to go by. A primary that
// went on with them would undo what another has made.
func (s *Server) RolesLater() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.planRoles, s.now.roles = wishes{turn: s.planRoles.turn + 1}, false
}

// KnowsRoles reports whether the plan's roles are known.
func (s *Server) KnowsRoles() bool { return s.wishedRoles().known }

func (s *Server) wishedRoles() wishes {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.planRoles
}

// EnsureRoles creates the plan's roles and databases where they are missing and sets their passwords; a role that the
// plan has let go of may not log in any more. What is right already is not written again. Other roles and databases are
// left alone.
func (s *Server) EnsureRoles(ctx context.Context) error {
	s.op.Lock()
	defer s.op.Unlock()
	w := s.wishedRoles()
	if !w.known {
		return nil
	}
	if err := s.within(ctx, func(conn *pgx.Conn) error { return s.ensureRoles(ctx, conn, w.roles) }); err != nil {
		return fmt.Errorf("make the plan's roles: %w", err)
	}
	s.rolesAreReady(w.turn)
	return nil
}

// rolesWait bounds each wait for a lock, in milliseconds: somebody's open transaction may hold a role, and no other order to
// this server is carried out meanwhile.
const rolesWait = 1000

// ensureRoles does what it can: a role that is held keeps none of the others waiting.
func (s *Server) ensureRoles(ctx context.Context, conn *pgx.Conn, roles []Role) error {
	if _, err := conn.Exec(ctx, fmt.Sprintf("SET lock_timeout = %d", rolesWait)); err != nil {
		return fmt.Errorf("bound the wait for locks: %w", err)
	}
	var errs []error
	for _, r := range roles {
		errs = append(errs, r.ensure(ctx, conn))
	}
	former, err := formerRoles(ctx, conn, roles)
	errs = append(errs, err)
	for _, name := range former {
		role := pgx.Identifier{name}.Sanitize()
		// Both or neither: without its mark it would be left alone for ever.
		_, err := conn.Exec(ctx, "BEGIN; ALTER ROLE "+role+" NOLOGIN; ALTER ROLE "+role+" RESET "+planned+"; COMMIT")
		if err != nil {
			_, _ = conn.Exec(ctx, "ROLLBACK") // the session is closed where that fails
			errs = append(errs, fmt.Errorf("let the role %s log in no more: %w", name, err))
			continue
		}
		s.log.Info("a role that the plan has no more may not log in any more", "role", name)
	}
	return errors.Join(errs...)
}

// ensure makes one role, its password, and what it owns.
func (r Role) ensure(ctx context.Context, conn *pgx.Conn) error {
	is, err := roleState(ctx, conn, r.Name)
	if err != nil {
		return err
	}
	role := pgx.Identifier{r.Name}.Sanitize()
	if !is.found {
		if _, err := conn.Exec(ctx, "CREATE ROLE "+role); err != nil {
			return fmt.Errorf("create the role %s: %w", r.Name, err)
		}
	}
	if !is.marked {
		var mark string
		err := conn.QueryRow(ctx, "SELECT quote_literal("+markIs+") FROM pg_authid r WHERE r.rolname = $1", r.Name).Scan(&mark)
		if err == nil {
			_, err = conn.Exec(ctx, "ALTER ROLE "+role+" SET "+planned+" = "+mark)
		}
		if err != nil {
			return fmt.Errorf("mark the role %s: %w", r.Name, err)
		}
	}
	if !is.login || !verifies(is.verifier, r.Password) {
		made, err := newVerifier(r.Password)
		if err != nil {
			return fmt.Errorf("make the password of %s: %w", r.Name, err)
		}
		// Only the verifier travels, so that no log can hold the password; it has no quotes in it.
		if _, err := conn.Exec(ctx, "ALTER ROLE "+role+" LOGIN PASSWORD '"+made+"'"); err != nil {
			return fmt.Errorf("set the password of the role %s: %w", r.Name, err)
		}
	}
	for _, db := range r.Owns {
		if err := ensureDatabase(ctx, conn, db, r.Name); err != nil {
			return err
		}
	}
	return nil
}

// roleIs is a role as a server has it.
type roleIs struct {
	found, login, marked bool
	verifier             string
}

// markOf reads whether the role whose oid is given is marked.
const markOf = `EXISTS (SELECT FROM pg_db_role_setting s WHERE s.setrole = r.oid AND s.setdatabase = 0 AND '` + planned + `=' || ` + markIs + ` = ANY (s.setconfig))`

func roleState(ctx context.Context, conn *pgx.Conn, name string) (roleIs, error) {
	is := roleIs{found: true}
	err := conn.QueryRow(ctx, "SELECT coalesce(r.rolpassword, ''), r.rolcanlogin, "+markOf+" FROM pg_authid r WHERE r.rolname = $1", name).
		Scan(&is.verifier, &is.login, &is.marked)
	if err == pgx.ErrNoRows {
		return roleIs{}, nil
	}
	if err != nil {
		return roleIs{}, fmt.Errorf("look up the role %s: %w", name, err)
	}
	return is, nil
}

// formerRoles are those that the plan had, and does not have any more.
func formerRoles(ctx context.Context, conn *pgx.Conn, roles []Role) ([]string, error) {
	names := []string{Superuser}
	for _, r := range roles {
		names = append(names, r.Name)
	}
	rows, err := conn.Query(ctx, "SELECT r.rolname FROM pg_authid r WHERE "+markOf+" AND NOT r.rolname = ANY ($1) ORDER BY 1", names)
	if err != nil {
		return nil, fmt.Errorf("look up the roles of former plans: %w", err)
	}
	former, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, fmt.Errorf("look up the roles of former plans: %w", err)
	}
	return former, nil
}

func ensureDatabase(ctx context.Context, conn *pgx.Conn, db, owner string) error {
	var is string
	err := conn.QueryRow(ctx, "SELECT pg_get_userbyid(datdba) FROM pg_database WHERE datname = $1", db).Scan(&is)
	name, role := pgx.Identifier{db}.Sanitize(), pgx.Identifier{owner}.Sanitize()
	switch {
	case err == pgx.ErrNoRows:
		_, err = conn.Exec(ctx, "CREATE DATABASE "+name+" OWNER "+role)
	case err == nil && is != owner:
		_, err = conn.Exec(ctx, "ALTER DATABASE "+name+" OWNER TO "+role)
	}
	if err != nil {
		return fmt.Errorf("make the database %s of %s: %w", db, owner, err)
	}
	return nil
}

// rolesEvery bounds how often roles that are not right yet are compared in observations.
const rolesEvery = time.Second

// rolesReady reports whether every role and database is as the plan says. Once they were, this life of the server is not
// asked again until the plan says otherwise.
func (s *Server) rolesReady(ctx context.Context, conn *pgx.Conn) (bool, error) {
	s.mu.Lock()
	ready, w := s.now.roles, s.planRoles
	s.mu.Unlock()
	if now := s.clock.Now(); ready || !w.known || now.Sub(s.watch.rolesAt) < rolesEvery {
		return ready || !w.known, nil
	}
	s.watch.rolesAt = s.clock.Now()
	for _, r := range w.roles {
		is, err := roleState(ctx, conn, r.Name)
		if err != nil || !is.login || !is.marked || !verifies(is.verifier, r.Password) {
			return false, err
		}
		for _, db := range r.Owns {
			var right bool
			err := conn.QueryRow(ctx, "SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1 AND pg_get_userbyid(datdba) = $2)", db, r.Name).Scan(&right)
			if err != nil || !right {
				return false, err
			}
		}
	}
	if former, err := formerRoles(ctx, conn, w.roles); err != nil || len(former) > 0 {
		return false, err
	}
	return s.rolesAreReady(w.turn), nil
}

// rolesAreReady notes that the roles are as they were wished in turn, unless others are wished meanwhile.
func (s *Server) rolesAreReady(turn int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.now.roles = s.planRoles.turn == turn
	return s.now.roles
}

// scramIterations is PostgreSQL's own default.
const scramIterations = 4096

// newVerifier is what PostgreSQL stores for SCRAM-SHA-256 (RFC 5803; src/common/scram-common.c).
func newVerifier(password redact.String) (string, error) {
	salt := make([]byte, 16)
	_, _ = rand.Read(salt) // never fails: crypto/rand ends the program instead
	return verifier(password, salt, scramIterations)
}

func verifier(password redact.String, salt []byte, iterations int) (string, error) {
	// SASLprep, with the text as it is where that is not defined, as PostgreSQL does.
	text := password.Reveal()
	if prepared, err := precis.OpaqueString.String(text); err == nil {
		text = prepared
	}
	salted, err := pbkdf2.Key(sha256.New, text, salt, iterations, sha256.Size)
	if err != nil {
		return "", err
	}
	sign := func(what string) []byte {
		m := hmac.New(sha256.New, salted)
		m.Write([]byte(what))
		return m.Sum(nil)
	}
	stored := sha256.Sum256(sign("Client Key"))
	b64 := base64.StdEncoding.EncodeToString
	return fmt.Sprintf("SCRAM-SHA-256$%d:%s$%s:%s", iterations, b64(salt), b64(stored[:]), b64(sign("Server Key"))), nil
}

// verifies reports whether a stored verifier is of this password.
func verifies(stored string, password redact.String) bool {
	rest, ok := strings.CutPrefix(stored, "SCRAM-SHA-256$")
	head, _, found := strings.Cut(rest, "$")
	count, salt64, cut := strings.Cut(head, ":")
	iterations, err := strconv.Atoi(count)
	if !ok || !found || !cut || err != nil || iterations < 1 || iterations > 1<<20 {
		return false
	}
	salt, err := base64.StdEncoding.DecodeString(salt64)
	if err != nil {
		return false
	}
	want, err := verifier(password, salt, iterations)
	return err == nil && subtle.ConstantTimeCompare([]byte(want), []byte(stored)) == 1
}
