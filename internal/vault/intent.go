package vault

import (
	"context"
	"fmt"
	"time"
)

// What may be said of a blob before and after a deletion, see [row].
const (
	going = "going" // it is being deleted: that it is missing is no loss, and that it is there is no fault
	stays = "stays" // it was not deleted after all
)

const (
	// intentOld is the age after which an intent was carried out or was not: a scrub says which.
	intentOld = 24 * time.Hour
	// intentMax bounds how long the outcome of deletions is written down for after the work was ended.
	intentMax = 5 * time.Second
)

// intend writes down that blobs are about to be deleted. Whoever is killed between a deletion and its row in the catalog
// would leave what looks lost for ever; and what is not deleted in the end is still held against what was stored.
func (v *Vault) intend(ctx context.Context, names []string) error {
	now := time.Now().Unix()
	p := page{}
	for _, n := range names {
		p.rows = append(p.rows, row{Name: n, At: now, Intent: going})
	}
	if _, err := v.putPage(ctx, p); err != nil {
		return fmt.Errorf("write down what is to be deleted from vault %s: %w", v.name, err)
	}
	return nil
}

// carriedOut writes down what was deleted, and what stays after all, even when the work has been ended meanwhile.
func (v *Vault) carriedOut(ctx context.Context, stay []string) error {
	for _, n := range stay {
		v.recorder.add(row{Name: n, Intent: stays})
	}
	ctx, done := context.WithTimeout(context.WithoutCancel(ctx), intentMax)
	defer done()
	return v.writeDown(ctx, false)
}

// mayBeGone reports whether a blob was about to be deleted since it was last stored, and nothing says what came of that.
func (c catalog) mayBeGone(name string) bool {
	i, ok := c.intents[name]
	return ok && i.Intent == going && i.At >= c.rows[name].At && !c.rows[name].Gone
}

// settle ends an intent that nobody did: what is nowhere any more is gone, and what is everywhere stays.
func (s *scrubbing) settle(name string) {
	i := s.cat.intents[name]
	if !s.cat.mayBeGone(name) || s.clock.Now().Sub(time.Unix(i.At, 0)) < intentOld || len(s.out.Away) > 0 {
		return
	}
	there := 0
	for _, list := range s.lists {
		if _, ok := list[name]; ok {
			there++
		}
	}
	switch there {
	case 0:
		s.out.fresh = append(s.out.fresh, row{Name: name, At: i.At, Gone: true})
	case len(s.lists):
		s.out.fresh = append(s.out.fresh, row{Name: name, At: i.At, Intent: stays})
	}
}
