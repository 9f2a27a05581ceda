package restore

import (
	"fmt"
	"os"
	"os/user"
	"strings"
)

// Login lets a user of the host in as a role of a scratch server. The kernel says who comes, so no password is needed and
// nobody else gets in.
type Login struct{ User, Role string }

// whoMay is what the server's rules on access say. Without logins the directory is the lock: its mode is 0700. With them
// anybody may reach the socket, and is let in only as the pairs say.
func (s *Scratch) whoMay() (hba, ident string, err error) {
	if len(s.o.Logins) == 0 {
		return "local all all trust\n", "", nil
	}
	self, err := user.LookupId(fmt.Sprint(os.Geteuid()))
	if err != nil {
		return "", "", fmt.Errorf("find this process's user: %w", err)
	}
	var lines strings.Builder
	for _, l := range append([]Login{{self.Username, s.o.Superuser}}, s.o.Logins...) {
		fmt.Fprintf(&lines, "scratch %s %s\n", quoteToken(l.User), quoteToken(l.Role))
	}
	return "local all all peer map=scratch\n", lines.String(), os.Chmod(s.runDir, 0o711)
}

// quoteToken quotes a name for the files of access rules, so that no word there has a meaning of its own (PostgreSQL
// manual, "The pg_hba.conf File").
func quoteToken(s string) string { return `"` + strings.ReplaceAll(s, `"`, `""`) + `"` }

// Socket is the directory with the server's socket; its port is 5432.
func (s *Scratch) Socket() string { return s.runDir }
