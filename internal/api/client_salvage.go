package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"

	"holdfast/internal/database"
	"holdfast/internal/problem"
)

// failoverMore is how long the other hosts are waited for once one has said what a forced failover would lose. They say it from
// memory; each says what it heard of the others too.
const failoverMore = 2 * time.Second

// Failover asks every host what a forced failover would lose, and gives the answer of the one that would lose least;
// where all refuse, of the one that knows the newest epoch.
func (c *Client) Failover(ctx context.Context, name, to string) (Failover, error) {
	var best Failover
	found := false
	replies := c.everyone(ctx, "/v1/databases/"+url.PathEscape(name)+"/failover?to="+url.QueryEscape(to), failoverMore)
	for _, r := range replies {
		if r.refused("api.unknown") {
			return Failover{}, r.err
		}
		var f Failover
		if r.into(&f) == nil && (!found || better(f, best)) {
			best, found = f, true
		}
	}
	if !found {
		return Failover{}, unreachable(failures(replies))
	}
	return best, nil
}

func better(a, b Failover) bool {
	allowedA, allowedB := a.Risk.Refused == "", b.Risk.Refused == ""
	switch {
	case a.Epoch != b.Epoch:
		return a.Epoch > b.Epoch
	case allowedA != allowedB:
		return allowedA
	case a.Risk.Known.Heard != b.Risk.Known.Heard:
		return a.Risk.Known.Heard
	}
	return a.Risk.At > b.Risk.At
}

// salvagesMore is how long the other hosts are waited for once one has listed what was put aside: each reads all its lists for that,
// and who has none answers at once.
const salvagesMore = 4 * time.Second

// Salvages lists what was put aside on every host that answers, and which hosts did not.
func (c *Client) Salvages(ctx context.Context) (all []Salvaged, silent []string, err error) {
	replies := c.everyone(ctx, "/v1/salvage", salvagesMore)
	for _, r := range replies {
		var some []Salvaged
		if r.into(&some) != nil {
			silent = append(silent, r.url)
			continue
		}
		all = append(all, some...)
	}
	if len(silent) == len(replies) {
		return nil, silent, unreachable(failures(replies))
	}
	return all, silent, nil
}

func salvagePath(name, id string) string {
	return "/v1/salvage/" + url.PathEscape(name) + "/" + url.PathEscape(id)
}

// Salvage fetches one whole report from the host that keeps it.
func (c *Client) Salvage(ctx context.Context, name, id string) (database.Salvage, error) {
	r, err := c.keeper(ctx, name, id)
	if err != nil {
		return database.Salvage{}, err
	}
	var whole database.Salvage
	for {
		var page SalvagePage
		if err := r.into(&page); err != nil {
			return database.Salvage{}, fmt.Errorf("fetch the report %s: %w", id, err)
		}
		page.Salvage.Commits = append(whole.Commits, page.Salvage.Commits...)
		grown := len(page.Salvage.Commits) > len(whole.Commits)
		whole = page.Salvage
		if len(whole.Commits) >= page.Total {
			return whole, nil
		}
		if !grown {
			return whole, fmt.Errorf("fetch the report %s: it ends after %d of %d commits", id, len(whole.Commits), page.Total)
		}
		r = c.fetch(ctx, r.url, http.MethodGet, fmt.Sprintf("%s?from=%d", salvagePath(name, id), len(whole.Commits)), nil)
	}
}

// keeper looks for the host that keeps a report, and gives what it answers: the report's first page.
func (c *Client) keeper(ctx context.Context, name, id string) (reply, error) {
	r, found, others := c.look(ctx, salvagePath(name, id), func(r reply) bool { return r.into(&SalvagePage{}) == nil })
	if found {
		return r, nil
	}
	for _, r := range others {
		var p *problem.Problem
		if errors.As(r.err, &p) && p.Code != "api.unknown" {
			return reply{}, p
		}
	}
	return reply{}, failures(others)
}

// Bundle writes the rows of a report as SQL to out. The host that keeps it makes a copy of its data first, so this
// takes as long as ctx allows.
func (c *Client) Bundle(ctx context.Context, name, id string, out io.Writer) error {
	keeps, err := c.keeper(ctx, name, id)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, keeps.url+salvagePath(name, id)+"/bundle", nil)
	if err != nil {
		return err
	}
	slow := http.Client{Transport: c.http.Transport}
	resp, err := slow.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }() // read as far as it matters
	if resp.StatusCode == http.StatusOK {
		_, err = io.Copy(out, resp.Body)
		return err
	}
	var p problem.Problem
	if err := json.NewDecoder(io.LimitReader(resp.Body, 1<<20)).Decode(&p); err != nil || p.Code == "" {
		return fmt.Errorf("ask %s: %s", keeps.url, resp.Status)
	}
	return &p
}
