package postgres

import "testing"

func TestLastWordsAreTheServersOwn(t *testing.T) {
	const at = "2026-11-21 01:02:03.456 UTC [77] "
	start := at + "LOG:  starting PostgreSQL 18.0 on x86_64\n"
	panicked := at + `PANIC:  could not open file "pg_xact/0000": No such file or directory` + "\n"
	for name, tt := range map[string]struct{ log, sign string }{
		"a panic": {start + panicked, `PANIC: could not open file "...": No such file or directory`},
		"a panic comes before the abort that follows from it": {
			start + panicked + at + "LOG:  checkpointer process (PID 9) was terminated by signal 6: Aborted\n",
			`PANIC: could not open file "...": No such file or directory`,
		},
		"a panic of a client's own process": {start + at + "app@orders PANIC:  could not fsync file \"base/5/16384\": Input/output error\n",
			`PANIC: could not fsync file "...": Input/output error`},
		"a process that crashed":    {start + at + "LOG:  server process (PID 123) was terminated by signal 11: Segmentation fault\n", "server process was terminated by signal 11: Segmentation fault"},
		"a process that was killed": {start + at + "LOG:  server process (PID 123) was terminated by signal 9: Killed\n", ""},
		"an error of recovery": {
			start + at + "FATAL:  could not access file \"vector\": No such file or directory\n" + at + "LOG:  startup process (PID 8) exited with exit code 1\n",
			`FATAL: could not access file "...": No such file or directory`,
		},
		"a client that is sent away is none":            {start + at + "app@orders FATAL:  the database system is starting up\n" + at + "LOG:  database system is shut down\n", ""},
		"words of an earlier life count no more":        {start + panicked + start + at + "LOG:  database system is ready to accept connections\n", ""},
		"a statement cannot say it":                     {start + at + "app@orders LOG:  statement: SELECT\n\t" + panicked + at + "app@orders LOG:  PANIC:  x\n", ""},
		"positions and process numbers make no new one": {start + at + "PANIC:  could not locate record at 0/30000D8 (7)\n", "PANIC: could not locate record at #/# (#)"},
		"nothing": {"", ""},
	} {
		if sign, text := wordsOf(tt.log); sign != tt.sign || (text == "") != (sign == "") {
			t.Errorf("%s: %q (%q), want %q", name, sign, text, tt.sign)
		}
	}
}
