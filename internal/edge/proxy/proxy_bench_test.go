package proxy

import (
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"testing"
)

// BenchmarkGet is one GET of 1 KiB by many clients at once: to the backend itself, through the standard
// library's proxy with nothing around it, and through an edge. Everything shares the machine, so what
// counts is how the three compare.
func BenchmarkGet(b *testing.B) {
	body := make([]byte, 1024)
	backend := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write(body)
	}))
	defer backend.Close()
	target, err := url.Parse(backend.URL)
	if err != nil {
		b.Fatal(err)
	}
	plain := httptest.NewServer(&httputil.ReverseProxy{
		Rewrite:    func(p *httputil.ProxyRequest) { p.SetURL(target) },
		Transport:  &http.Transport{MaxIdleConnsPerHost: 512},
		BufferPool: &bufferPool{},
	})
	defer plain.Close()
	e, at := startEdge(b, testSpec(b)), freeAddr(b)
	e.apply(b, Snapshot{Revision: 1, Routes: []Route{webRoute(at, target.Host)}})
	e.waitUp(b)

	for _, way := range []struct{ name, url string }{
		{"direct", backend.URL}, {"plain", plain.URL}, {"edge", "http://" + at},
	} {
		b.Run(way.name, func(b *testing.B) {
			transport := &http.Transport{MaxIdleConnsPerHost: 512}
			defer transport.CloseIdleConnections()
			client := &http.Client{Transport: transport}
			b.SetParallelism(32)
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					resp, err := client.Get(way.url)
					if err != nil {
						b.Error(err)
						return
					}
					if _, err := io.Copy(io.Discard, resp.Body); err != nil {
						b.Error(err)
					}
					resp.Body.Close()
				}
			})
		})
	}
}
