// Package paper writes a vault's key so that it can be printed, kept away from the machines, and typed in again: short
// groups of letters that cannot be mistaken for each other, a check at the end of each line, and check words for the
// whole. It is arithmetic alone.
package paper

import (
	"crypto/sha256"
	"encoding/base32"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"time"
)

// Sheet is what stands on the paper.
type Sheet struct {
	Vault       string
	ID          string // the vault's identifier
	Application string
	Places      []string
	Made        time.Time // when it was printed
	Key         []byte
}

// Title is the first line of every sheet; a file that begins with it is one.
const Title = "HOLDFAST VAULT KEY"

// letters leaves out I, L, O and U: the first three are read as 1, 1 and 0.
var letters = base32.NewEncoding("0123456789ABCDEFGHJKMNPQRSTVWXYZ").WithPadding(base32.NoPadding)

const (
	lineLetters  = 20 // of the key, on one line
	groupLetters = 5
	keyMax       = 4096 // bytes
)

// ErrNoSheet is returned for text that is no sheet at all.
var ErrNoSheet = errors.New("it is no printed key: its first line is not " + Title)

// Is reports whether text begins as a sheet does.
func Is(text string) bool { return strings.HasPrefix(strings.TrimSpace(text), Title) }

// Print gives the sheet's text.
func Print(s Sheet) (string, error) {
	if len(s.Key) == 0 || len(s.Key) > keyMax || s.ID == "" {
		return "", fmt.Errorf("print the key of vault %s: a key of %d bytes is none", s.Vault, len(s.Key))
	}
	var b strings.Builder
	p := func(format string, args ...any) { fmt.Fprintf(&b, format, args...) }
	p("%s\n\n", Title)
	p("vault        %s of %s\nidentifier   %s\nprinted      %s\n", s.Vault, s.Application, s.ID, s.Made.UTC().Format("2006-01-02 15:04 UTC"))
	for _, x := range s.Places {
		p("lies at      %s\n", x)
	}
	p("check words  %s\n\n", Words(s.ID, s.Key))
	all := letters.EncodeToString(s.Key)
	for n := 1; len(all) > 0; n++ {
		line := all[:min(lineLetters, len(all))]
		all = all[len(line):]
		p("key %02d   %s   %s\n", n, grouped(line), lineCheck(n, line))
	}
	p("end      %s\n\n", sum(s.ID, s.Key))
	p("Whoever holds this sheet reads every backup. Keep it where no host of the application is.\n")
	p("Read everything back with it:  holdfast restore database NAME --vault URL --key THIS-SHEET.txt --to DIR\n")
	return b.String(), nil
}

// Words are four words that are easily compared by two people on the telephone.
func Words(id string, key []byte) string {
	h := sha256.Sum256([]byte("holdfast check words\x00" + id + "\x00" + string(key)))
	var out []string
	for i := range 4 {
		out = append(out, spoken(binary.BigEndian.Uint16(h[2*i:])))
	}
	return strings.Join(out, " ")
}

// spoken gives sixteen bits as consonant, vowel, consonant, vowel, consonant.
func spoken(n uint16) string {
	const consonants, vowels = "bdfghjklmnprstvz", "aiou"
	return string([]byte{consonants[n>>12], vowels[n>>10&3], consonants[n>>6&15], vowels[n>>4&3], consonants[n&15]})
}

func grouped(line string) string {
	var groups []string
	for len(line) > groupLetters {
		groups, line = append(groups, line[:groupLetters]), line[groupLetters:]
	}
	return strings.Join(append(groups, line), "-")
}

// lineCheck is two letters: one line in a thousand that was mistyped gets through, and then the end does not fit.
func lineCheck(n int, line string) string {
	h := sha256.Sum256(fmt.Appendf(nil, "holdfast line %d %s", n, line))
	return letters.EncodeToString(h[:2])[:2]
}

func sum(id string, key []byte) string {
	h := sha256.Sum256([]byte("holdfast key\x00" + id + "\x00" + string(key)))
	return grouped(letters.EncodeToString(h[:])[:10])
}

// Read takes a sheet that was printed, or typed in from one. An error names the line that does not fit.
func Read(text string) (Sheet, error) {
	if !Is(text) {
		return Sheet{}, ErrNoSheet
	}
	var s Sheet
	var all, end string
	n := 0
	for at, line := range strings.Split(text, "\n") {
		f := strings.Fields(line)
		if len(f) < 2 {
			continue
		}
		switch f[0] {
		case "vault":
			s.Vault = f[1]
			if len(f) > 3 {
				s.Application = f[3]
			}
		case "identifier":
			s.ID = f[1]
		case "lies":
			s.Places = append(s.Places, strings.Join(f[2:], " "))
		case "end":
			end = clean(strings.Join(f[1:], ""))
		case "key":
			n++
			if len(f) < 4 || strings.TrimLeft(f[1], "0") != fmt.Sprint(n) {
				return Sheet{}, fmt.Errorf("line %d is not line %02d of the key", at+1, n)
			}
			part := clean(strings.Join(f[2:len(f)-1], ""))
			if lineCheck(n, part) != clean(f[len(f)-1]) {
				return Sheet{}, fmt.Errorf("line %02d of the key is not as it was printed: compare it letter by letter", n)
			}
			all += part
		}
	}
	key, err := letters.DecodeString(all)
	switch {
	case s.ID == "":
		return Sheet{}, errors.New("the vault's identifier is missing")
	case n == 0 || err != nil || len(key) == 0:
		return Sheet{}, errors.New("the lines of the key are missing or not whole")
	case clean(sum(s.ID, key)) != end:
		return Sheet{}, errors.New("the end does not fit: a line of the key is missing, or the identifier is not as it was printed")
	}
	s.Key = key
	return s, nil
}

// clean reads what a hand may write for what was printed.
func clean(s string) string {
	return strings.NewReplacer("-", "", " ", "", "I", "1", "L", "1", "O", "0").Replace(strings.ToUpper(s))
}
