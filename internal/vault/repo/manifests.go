package repo

import "context"

// committedManifests is what a repository remembers of the manifests that are stored.
type committedManifests struct{}

// sessionManifests is what a writer keeps of manifests until they are flushed.
type sessionManifests struct{}

// flushManifests stores what the session has of manifests as contents. Flush calls it before anything else.
func (w *Writer) flushManifests(ctx context.Context) error { return nil }
