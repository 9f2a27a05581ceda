package clustertest

import (
	"testing"

	"github.com/anishathalye/porcupine"
)

// The checker itself must be able to say no.
func TestModelRefusesBrokenHistories(t *testing.T) {
	put := func(value string, ifRev, rev, call, back int64) porcupine.Operation {
		return porcupine.Operation{Input: op{key: "k", verb: "put", value: value, ifRev: ifRev}, Output: outcome{rev: rev}, Call: call, Return: back}
	}
	get := func(value string, rev, call, back int64) porcupine.Operation {
		return porcupine.Operation{Input: op{key: "k", verb: "get"}, Output: outcome{value: value, rev: rev}, Call: call, Return: back}
	}
	unknown := func(value string, ifRev, call int64) porcupine.Operation {
		return porcupine.Operation{Input: op{key: "k", verb: "put", value: value, ifRev: ifRev}, Output: outcome{unknown: true}, Call: call, Return: 1000}
	}
	tests := []struct {
		name    string
		history []porcupine.Operation
		want    porcupine.CheckResult
	}{
		{"a plain sequence", []porcupine.Operation{put("a", 0, 1, 0, 1), get("a", 1, 2, 3), put("b", 1, 2, 4, 5), get("b", 2, 6, 7)}, porcupine.Ok},
		{"a stale read", []porcupine.Operation{put("a", 0, 1, 0, 1), put("b", 1, 2, 2, 3), get("a", 1, 4, 5)}, porcupine.Illegal},
		{"two swaps on one revision", []porcupine.Operation{put("a", 0, 1, 0, 9), put("b", 0, 2, 0, 9)}, porcupine.Illegal},
		{"a revision that does not rise", []porcupine.Operation{put("a", 0, 5, 0, 1), put("b", 5, 4, 2, 3)}, porcupine.Illegal},
		{"a lost answer that took effect", []porcupine.Operation{put("a", 0, 1, 0, 1), unknown("b", 1, 2), get("b", 7, 5, 6)}, porcupine.Ok},
		{"a lost answer that did not", []porcupine.Operation{put("a", 0, 1, 0, 1), unknown("b", 1, 2), get("a", 1, 5, 6)}, porcupine.Ok},
		{"a lost answer undone", []porcupine.Operation{put("a", 0, 1, 0, 1), unknown("b", 1, 2), get("b", 7, 5, 6), get("a", 1, 7, 8)}, porcupine.Illegal},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			if got := porcupine.CheckOperationsTimeout(model(), tc.history, 0); got != tc.want {
				t.Fatalf("judged %v, want %v", got, tc.want)
			}
		})
	}
}
