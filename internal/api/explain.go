package api

import (
	"context"
	"net/http"
	"net/url"
	"time"

	"holdfast/internal/agent"
	"holdfast/internal/database"
)

// Explained is what one host would expect if a database's primary were gone this moment.
type Explained struct {
	Via   string `json:"via"` // the host whose view it is
	Epoch int64  `json:"epoch"`
	database.Explanation
}

// explain says who would take over a database by itself, why not the others, and what keeps anybody from it.
func (s Source) explain(w http.ResponseWriter, r *http.Request) {
	name, snap := r.PathValue("name"), s.Snapshot()
	for _, d := range snap.Facts.Databases {
		if d.Name == name {
			s.answer(w, http.StatusOK, Explained{Via: s.Self, Epoch: d.Record.Epoch,
				Explanation: database.Explain(s.Policy(name), agent.ViewOf(s.Self, snap.Facts, d), snap.Outcome.Decisions[name])})
			return
		}
	}
	s.refuse(w, http.StatusNotFound, UnknownDatabase(name, s.Plan))
}

// explainMore is how long the other hosts are waited for once one has answered.
const explainMore = time.Second

// Explain asks every host that answers, and gives the view of the one that knows most: the newest epoch, and then
// whoever hears most of the others.
func (c *Client) Explain(ctx context.Context, name string) (Explained, error) {
	var best Explained
	found := false
	replies := c.everyone(ctx, "/v1/databases/"+url.PathEscape(name)+"/explanation", explainMore)
	for _, r := range replies {
		if r.refused("api.unknown") {
			return Explained{}, r.err
		}
		var x Explained
		if r.into(&x) != nil {
			continue
		}
		if !found || x.Epoch > best.Epoch || x.Epoch == best.Epoch && x.Able > best.Able {
			best, found = x, true
		}
	}
	if !found {
		return Explained{}, unreachable(failures(replies))
	}
	return best, nil
}
