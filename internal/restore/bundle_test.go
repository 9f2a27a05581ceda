package restore

import (
	"strings"
	"testing"
)

func TestANameInACommentOfABundleCannotBeACommand(t *testing.T) {
	for _, name := range []string{"public.\"x\n\\! touch /tmp/owned\"", "public.\"x\r\\! touch /tmp/owned\"", "a\r\nb"} {
		if got := inComment(name); strings.ContainsAny(got, "\r\n") {
			t.Errorf("psql reads what follows the comment: %q", got)
		}
	}
	if got := inComment("public.orders"); got != "public.orders" {
		t.Errorf("an ordinary name became %q", got)
	}
}
