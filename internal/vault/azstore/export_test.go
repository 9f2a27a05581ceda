package azstore

// PageOf makes lists come in small pages.
func (s *Store) PageOf(n int32) { s.pageSize = &n }
