package repotest

import (
	"testing"

	"holdfast/internal/vault/store"
	"holdfast/internal/vault/store/storetest"
)

func TestStoreInMemoryIsAStore(t *testing.T) {
	storetest.Run(t, func(*testing.T) store.Store { return New() })
}
