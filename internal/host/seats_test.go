package host

import (
	"testing"

	"holdfast/internal/plan"
)

// A member that is told to begin empty under the id of one that voted would have forgotten what for.
func TestAnOrderToJoinFitsTheHost(t *testing.T) {
	const url = "https://b2:2380"
	clients := []string{"https://b1:2379"}
	for name, c := range map[string]struct {
		etcd  bool
		order founding
		want  bool
	}{
		"a place for a member":                     {true, founding{ClusterID: 7, Clients: clients, Members: map[string]string{"b1": "https://b1:2380", "b2": url}}, true},
		"no place for it":                          {true, founding{ClusterID: 7, Clients: clients, Members: map[string]string{"b1": "https://b1:2380"}}, false},
		"another one's address":                    {true, founding{ClusterID: 7, Clients: clients, Members: map[string]string{"b2": "https://b9:2380"}}, false},
		"a host without a member":                  {false, founding{ClusterID: 7, Clients: clients, Members: map[string]string{"b1": "https://b1:2380"}}, true},
		"one whose member the plan has taken away": {false, founding{ClusterID: 7, Clients: clients, Members: map[string]string{"b2": url}}, false},
		"no cluster":                               {false, founding{Clients: clients}, false},
		"nobody to ask":                            {false, founding{ClusterID: 7}, false},
	} {
		if got := c.order.admits(plan.Host{Name: "b2", Etcd: c.etcd}, url); got != c.want {
			t.Errorf("%s: %t", name, got)
		}
	}
}
