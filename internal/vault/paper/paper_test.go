package paper_test

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"holdfast/internal/vault/paper"
)

func sheet(key string) paper.Sheet {
	return paper.Sheet{Vault: "main", ID: "0123abcd", Application: "clinic", Places: []string{"s3://x/y at host"}, Key: []byte(key)}
}

func TestWhatIsPrintedIsReadBack(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := sheet(string(rapid.SliceOfN(rapid.Byte(), 1, 200).Draw(t, "key")))
		text, err := paper.Print(want)
		if err != nil {
			t.Fatal(err)
		}
		// As somebody types it: small letters, without dashes, O for 0.
		lines := strings.Split(text, "\n")
		for i, l := range lines {
			if strings.HasPrefix(l, "key ") {
				lines[i] = "key " + strings.ToLower(strings.NewReplacer("-", " ", "0", "O").Replace(l[8:]))
				lines[i] = l[:8] + strings.TrimPrefix(lines[i], "key ")
			}
		}
		got, err := paper.Read("\n" + strings.Join(lines, "\r\n"))
		if err != nil {
			t.Fatalf("%v\n%s", err, strings.Join(lines, "\n"))
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Fatal(d)
		}
	})
}

func TestAMistypedSheetIsRefusedWithItsLine(t *testing.T) {
	text, err := paper.Print(sheet("a passphrase of more than one line of letters"))
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(text, "\n")
	row := func(n int) int {
		for i, l := range lines {
			if strings.HasPrefix(l, "key 0") && l[5] == byte('0'+n) {
				return i
			}
		}
		t.Fatalf("no line %d in\n%s", n, text)
		return 0
	}
	change := func(at int, f func(string) string) string {
		all := append([]string{}, lines...)
		all[at] = f(all[at])
		return strings.Join(all, "\n")
	}
	other := func(l string) string {
		b := []byte(l)
		if b[10]++; b[10] > 'Z' || b[10] == 'I' || b[10] == 'L' || b[10] == 'O' || b[10] == 'U' || b[10] == ':' {
			b[10] = '7'
		}
		return string(b)
	}
	for name, c := range map[string]struct{ text, says string }{
		"a wrong letter":       {change(row(2), other), "line 02 of the key"},
		"a line left out":      {change(row(2), func(string) string { return "" }), "is not line 02"},
		"the last line gone":   {change(row(4), func(string) string { return "" }), "the end does not fit"},
		"another identifier":   {strings.Replace(text, "0123abcd", "0123abce", 1), "the end does not fit"},
		"no identifier":        {strings.Replace(text, "identifier", "id", 1), "identifier is missing"},
		"a passphrase, simply": {"correct horse", "no printed key"},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := paper.Read(c.text); err == nil || !strings.Contains(err.Error(), c.says) {
				t.Errorf("got %v, want %q", err, c.says)
			}
		})
	}
}

func TestCheckWordsTellKeysAndVaultsApart(t *testing.T) {
	a, b, c := paper.Words("v", []byte("k")), paper.Words("v", []byte("l")), paper.Words("w", []byte("k"))
	if a == b || a == c || len(strings.Fields(a)) != 4 || strings.Contains(a, "k\x00") {
		t.Errorf("words %q, %q, %q", a, b, c)
	}
}

func TestNothingIsPrintedWithoutAKey(t *testing.T) {
	s := sheet("")
	s.Made = time.Now()
	if text, err := paper.Print(s); err == nil {
		t.Errorf("printed\n%s", text)
	}
}
