// Package redact keeps secrets from being printed.
package redact

import "log/slog"

// String is a secret value: every way of printing it gives a placeholder; Reveal is the only way in.
type String struct{ value string }

// Secret wraps a value.
func Secret(v string) String { return String{v} }

// Reveal gives the value to the one place that needs it.
func (s String) Reveal() string { return s.value }

// String is the placeholder.
func (s String) String() string { return "(secret)" }

// GoString is the placeholder.
func (s String) GoString() string { return "(secret)" }

// MarshalText is the placeholder, so that JSON never holds the value.
func (s String) MarshalText() ([]byte, error) { return []byte("(secret)"), nil }

// LogValue is the placeholder.
func (s String) LogValue() slog.Value { return slog.StringValue("(secret)") }
