package plan

// SplitWords splits a command line as a plan file does; see splitWords.
func SplitWords(s string) ([]string, error) { return splitWords(s) }
