// Package holdfast is the root of the module. It holds no code: the program is cmd/holdfast, its rooms lie under
// internal, and the tests here are about the whole tree: layout_test.go says who may import whom, docs_test.go
// that the documents match the code.
package holdfast
