package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"

	"holdfast/internal/database"
	"holdfast/internal/problem"
)

// Failover asks every host what a forced failover would lose, and gives the answer of the one that would lose least;
// where all refuse, of the one that knows the newest epoch.
func (c *Client) Failover(ctx context.Context, name, to string) (Failover, error) {
	var best Failover
	found := false
	var errs []error
	for _, u := range c.urls {
		var f Failover
		_, err := c.one(ctx, u, http.MethodGet, "/v1/databases/"+url.PathEscape(name)+"/failover?to="+url.QueryEscape(to), nil, &f)
		var p *problem.Problem
		switch {
		case errors.As(err, &p) && p.Code == "api.unknown":
			return f, err
		case err != nil:
			errs = append(errs, err)
			continue
		}
		if !found || better(f, best) {
			best, found = f, true
		}
	}
	if !found {
		return Failover{}, unreachable(errors.Join(errs...))
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

// Salvages lists what was put aside on every host that answers, and which hosts did not.
func (c *Client) Salvages(ctx context.Context) (all []Salvaged, silent []string, err error) {
	var errs []error
	for _, u := range c.urls {
		var some []Salvaged
		if _, err := c.one(ctx, u, http.MethodGet, "/v1/salvage", nil, &some); err != nil {
			errs, silent = append(errs, err), append(silent, u)
			continue
		}
		all = append(all, some...)
	}
	if len(errs) == len(c.urls) {
		return nil, silent, unreachable(errors.Join(errs...))
	}
	return all, silent, nil
}

// Salvage fetches one whole report from the host that keeps it.
func (c *Client) Salvage(ctx context.Context, name, id string) (database.Salvage, error) {
	var errs []error
	for _, u := range c.urls {
		var whole database.Salvage
		for {
			var page SalvagePage
			path := fmt.Sprintf("/v1/salvage/%s/%s?from=%d", url.PathEscape(name), url.PathEscape(id), len(whole.Commits))
			if _, err := c.one(ctx, u, http.MethodGet, path, nil, &page); err != nil {
				errs = append(errs, err)
				break
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
		}
	}
	for _, err := range errs {
		if p := (*problem.Problem)(nil); errors.As(err, &p) && p.Code != "api.unknown" {
			return database.Salvage{}, err
		}
	}
	return database.Salvage{}, errors.Join(errs...)
}

// Bundle writes the rows of a report as SQL to out. The host that keeps it makes a copy of its data first, so this
// takes as long as ctx allows.
func (c *Client) Bundle(ctx context.Context, name, id string, out io.Writer) error {
	slow := http.Client{Transport: c.http.Transport}
	var errs []error
	for _, u := range c.urls {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("%s/v1/salvage/%s/%s/bundle", u, url.PathEscape(name), url.PathEscape(id)), nil)
		if err != nil {
			return err
		}
		resp, err := slow.Do(req)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		var p problem.Problem
		if resp.StatusCode != http.StatusOK {
			if err := json.NewDecoder(io.LimitReader(resp.Body, 1<<20)).Decode(&p); err != nil || p.Code == "" {
				errs = append(errs, fmt.Errorf("ask %s: %s", u, resp.Status))
			} else {
				errs = append(errs, &p)
			}
		} else {
			_, err = io.Copy(out, resp.Body)
		}
		_ = resp.Body.Close() // read as far as it matters
		if resp.StatusCode == http.StatusOK || p.Code != "" && p.Code != "api.unknown" {
			return errors.Join(err, last(errs, resp.StatusCode))
		}
	}
	return errors.Join(errs...)
}

// last is the newest error of a host that refused; an answer has none.
func last(errs []error, status int) error {
	if status == http.StatusOK || len(errs) == 0 {
		return nil
	}
	return errs[len(errs)-1]
}
