package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"

	"holdfast/internal/agent"
	"holdfast/internal/event"
	"holdfast/internal/problem"
)

// Cluster is what a host can say of the agreed state's keeping, and be asked about it.
type Cluster interface {
	// Describe tells how this host sees the members. It answers without a majority too.
	Describe(ctx context.Context) ClusterStatus
	// MayReplace refuses what Replace would refuse, and changes nothing.
	MayReplace(ctx context.Context, host string) error
	// Replace gives the place of a host whose member is gone to an empty one, and returns what that host must be
	// told ([Client.Join]). Repeated, it gives another new member the place; only the last order then holds.
	Replace(ctx context.Context, host string) (JoinOrder, error)
	// Join makes this host enter the cluster that the order names; what its member held before is put aside. One
	// order is carried out once, however often it comes.
	Join(ctx context.Context, order JoinOrder) error
}

// JoinOrder is carried from the cluster to the host that shall enter it; only hosts read it.
type JoinOrder json.RawMessage

// MarshalJSON passes the order on as it is.
func (o JoinOrder) MarshalJSON() ([]byte, error) { return json.RawMessage(o).MarshalJSON() }

// UnmarshalJSON keeps the order as it is.
func (o *JoinOrder) UnmarshalJSON(b []byte) error { return (*json.RawMessage)(o).UnmarshalJSON(b) }

// ClusterStatus is the keeping of the agreed state as one host sees it.
type ClusterStatus struct {
	Host       string          `json:"host"`
	ClusterID  string          `json:"cluster_id"`            // hexadecimal; "" = none has answered yet
	Reachable  bool            `json:"reachable"`             // a majority answers this host
	Trouble    string          `json:"trouble,omitempty"`     // why not
	WrittenOff string          `json:"written_off,omitempty"` // why this host takes no part
	Seats      []SeatStatus    `json:"seats"`
	Fsync      event.Duration  `json:"fsync"` // the slowest of a few syncs beside its member's data, now; 0 = not measured
	Saved      []agent.Saved   `json:"saved"` // the last saving to each vault
	Recovery   *agent.Recovery `json:"recovery,omitempty"`
	Promised   []PromisedEpoch `json:"promised"` // by this host's own servers
}

// SeatStatus is one member.
type SeatStatus struct {
	Host    string `json:"host"`
	Role    string `json:"role"` // voter, learner
	Serves  bool   `json:"serves"`
	Leader  bool   `json:"leader"`
	Bytes   int64  `json:"bytes"`
	Trouble string `json:"trouble,omitempty"`
}

// PromisedEpoch is what a host's own server of a database swore.
type PromisedEpoch struct {
	Database   string `json:"database"`
	Epoch      int64  `json:"epoch"`
	Generation int64  `json:"generation"`
}

// Majority is how many voters must serve, and how many do.
func (s ClusterStatus) Majority() (need, serve int) {
	voters := 0
	for _, x := range s.Seats {
		if x.Role == "voter" {
			voters++
			if x.Serves {
				serve++
			}
		}
	}
	return voters/2 + 1, serve
}

func (s Source) clusterRoutes(mux *http.ServeMux) {
	mux.HandleFunc("GET /v1/cluster", func(w http.ResponseWriter, r *http.Request) {
		s.answer(w, http.StatusOK, s.Cluster.Describe(r.Context()))
	})
	known := func(do func(r *http.Request, host string) (any, error)) http.HandlerFunc {
		return s.operator(func(w http.ResponseWriter, r *http.Request) {
			name := r.PathValue("host")
			if _, ok := s.Plan.Host(name); !ok {
				s.refuse(w, http.StatusNotFound, UnknownHost(name, s.Plan.HostNames()))
				return
			}
			body, err := do(r, name)
			s.outcome(w, body, err)
		})
	}
	mux.HandleFunc("GET /v1/cluster/replace/{host}", known(func(r *http.Request, host string) (any, error) {
		return true, s.Cluster.MayReplace(r.Context(), host)
	}))
	mux.HandleFunc("POST /v1/cluster/replace/{host}", known(func(r *http.Request, host string) (any, error) {
		order, err := s.Cluster.Replace(r.Context(), host)
		if err == nil {
			s.note("cluster", host, "its place among the members of the agreed state is given to an empty one", asker(r)+" asked for it")
		}
		return order, err
	}))
	mux.HandleFunc("POST /v1/cluster/join", s.operator(func(w http.ResponseWriter, r *http.Request) {
		var order JoinOrder
		if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, requestMax)).Decode(&order); err != nil {
			s.refuse(w, http.StatusBadRequest, problem.Problem{
				Code: "api.bad-request", Severity: problem.Note, Title: "the order was not understood: " + err.Error(),
				Meaning: "Nothing was changed.", Remedy: "use a command line of the same version as the agents",
			})
			return
		}
		err := s.Cluster.Join(r.Context(), order)
		if err == nil {
			s.note("cluster", s.Self, "it enters the cluster of the agreed state anew", asker(r)+" asked for it")
		}
		s.outcome(w, true, err)
	}))
}

// outcome answers with a body, or with the problem that err is or becomes.
func (s Source) outcome(w http.ResponseWriter, body any, err error) {
	var p *problem.Problem
	switch {
	case err == nil:
		s.answer(w, http.StatusOK, body)
	case errors.As(err, &p):
		s.refuse(w, http.StatusConflict, *p)
	default:
		s.unavailable(w, err)
	}
}

// Clusters asks every agent how it sees the members, by address; an agent that does not answer is an error beside the others'.
func (c *Client) Clusters(ctx context.Context) ([]ClusterStatus, error) {
	var all []ClusterStatus
	replies := c.everyone(ctx, "/v1/cluster", 0)
	for _, r := range replies {
		var st ClusterStatus
		if r.into(&st) == nil {
			all = append(all, st)
		}
	}
	if len(all) == 0 {
		return nil, unreachable(failures(replies))
	}
	return all, nil
}

// MayReplace refuses what [Client.ReplaceMember] would refuse.
func (c *Client) MayReplace(ctx context.Context, host, own string) error {
	_, err := c.without(own).call(ctx, http.MethodGet, "/v1/cluster/replace/"+url.PathEscape(host), nil, nil)
	return err
}

// ReplaceMember asks a host that reaches a majority to give host's place to an empty member. The agent of the host itself, at
// own (addr:port), is not asked: it refuses to give its own place away, and a refusal would be taken for the answer of all.
func (c *Client) ReplaceMember(ctx context.Context, host, own string) (JoinOrder, error) {
	var order JoinOrder
	_, err := c.without(own).call(ctx, http.MethodPost, "/v1/cluster/replace/"+url.PathEscape(host), nil, &order)
	return order, err
}

// without leaves out the agent at addr:port, unless it is the only one.
func (c *Client) without(address string) *Client {
	others := slices.DeleteFunc(slices.Clone(c.urls), func(u string) bool { return u == "https://"+address })
	if len(others) == 0 {
		return c
	}
	return &Client{urls: others, http: c.http, answered: c.answered}
}

// Join tells the agent at addr:port to enter a cluster.
func (c *Client) Join(ctx context.Context, address string, order JoinOrder) error {
	if err := c.fetch(ctx, "https://"+address, http.MethodPost, "/v1/cluster/join", order).err; err != nil {
		return fmt.Errorf("tell %s to join: %w", address, err)
	}
	return nil
}
