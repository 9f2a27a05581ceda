package upkeep

import "context"

// Options is who has a say in a run. The zero value asks nobody.
type Options struct {
	// May is asked before each step and before anything is made known, for who runs this may have slept for days: an error says that
	// it is for another to do now, and ends the run.
	May func(context.Context) error
	// Join is asked when packs are due to be joined, which needs room before it frees any. false = not in this run.
	Join func(context.Context) (bool, error)
	// GivenUp says of a pack from which something cannot be read whether somebody has given it up, as no place has it whole.
	GivenUp func(ctx context.Context, pack string) (bool, error)
	// Finish is called when a task has deleted all that it will: where the place puts deletions off, they are done when it returns.
	Finish func(context.Context) error
}

func (o Options) filled() Options {
	if o.May == nil {
		o.May = func(context.Context) error { return nil }
	}
	if o.Join == nil {
		o.Join = func(context.Context) (bool, error) { return true, nil }
	}
	if o.GivenUp == nil {
		o.GivenUp = func(context.Context, string) (bool, error) { return false, nil }
	}
	if o.Finish == nil {
		o.Finish = func(context.Context) error { return nil }
	}
	return o
}
