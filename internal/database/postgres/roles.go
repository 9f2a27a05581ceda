package postgres

import (
	"context"
	"crypto/hmac"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/text/secure/precis"

	"holdfast/internal/redact"
)

// EnsureRoles creates the plan's roles and databases where they are missing and sets their passwords. What is
// right already is not written again. Other roles and databases are left alone.
func (s *Server) EnsureRoles(ctx context.Context) error {
	s.op.Lock()
	defer s.op.Unlock()
	if err := s.within(ctx, func(conn *pgx.Conn) error { return s.ensureRoles(ctx, conn) }); err != nil {
		return fmt.Errorf("make the plan's roles: %w", err)
	}
	s.mu.Lock()
	s.now.roles = true
	s.mu.Unlock()
	return nil
}

func (s *Server) ensureRoles(ctx context.Context, conn *pgx.Conn) error {
	for _, r := range s.cfg.Roles {
		verifier, login, found, err := roleState(ctx, conn, r.Name)
		if err != nil {
			return err
		}
		role := pgx.Identifier{r.Name}.Sanitize()
		if !found {
			if _, err := conn.Exec(ctx, "CREATE ROLE "+role); err != nil {
				return fmt.Errorf("create the role %s: %w", r.Name, err)
			}
		}
		if !login || !verifies(verifier, r.Password) {
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
	}
	return nil
}

func roleState(ctx context.Context, conn *pgx.Conn, name string) (verifier string, login, found bool, err error) {
	err = conn.QueryRow(ctx, "SELECT coalesce(rolpassword, ''), rolcanlogin FROM pg_authid WHERE rolname = $1", name).Scan(&verifier, &login)
	if err == pgx.ErrNoRows {
		return "", false, false, nil
	}
	if err != nil {
		return "", false, false, fmt.Errorf("look up the role %s: %w", name, err)
	}
	return verifier, login, true, nil
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

// rolesReady reports whether every role and database of the plan is as the plan says. Once they were, this life
// of the server is not asked again.
func (s *Server) rolesReady(ctx context.Context, conn *pgx.Conn) (bool, error) {
	s.mu.Lock()
	ready := s.now.roles
	s.mu.Unlock()
	if now := s.clock.Now(); ready || now.Sub(s.watch.rolesAt) < rolesEvery {
		return ready, nil
	}
	s.watch.rolesAt = s.clock.Now()
	for _, r := range s.cfg.Roles {
		verifier, login, _, err := roleState(ctx, conn, r.Name)
		if err != nil || !login || !verifies(verifier, r.Password) {
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
	s.mu.Lock()
	s.now.roles = true
	s.mu.Unlock()
	return true, nil
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
