package s3test

import (
	"bytes"
	"fmt"
	"html"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// lag is what of one object cannot be seen yet.
type lag struct {
	lookups int  // requests for it that are still answered with 404
	lists   int  // lists that still show how it was
	gone    bool // how it was: there, with these
	size    int64
	at      time.Time
}

// known is an object that was stored through the proxy.
type known struct {
	size int64
	at   time.Time
}

// stored notes that the server has taken an object. One that it had before is seen at once: there is one to be seen.
func (p *Proxy) stored(f Faults, name string, size int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, there := p.there[name]; !there {
		p.lags[name] = &lag{lookups: f.Lookups, lists: f.Unlisted}
	}
	p.there[name] = known{size, time.Now().UTC()}
}

// deleted notes that the server has let go of an object.
func (p *Proxy) deleted(f Faults, name string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	was, there := p.there[name]
	if delete(p.there, name); there {
		p.lags[name] = &lag{lists: f.Listed, gone: true, size: was.size, at: was.at}
	}
}

// unseen reports whether an object that was just stored is not found once more.
func (p *Proxy) unseen(name string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	l := p.lags[name]
	if l == nil || l.lookups == 0 {
		return false
	}
	l.lookups--
	p.count["not found yet"]++
	return true
}

// late answers a request as a store does whose lists and lookups lag behind what was stored; false when it is no such request.
func (p *Proxy) late(f Faults, w http.ResponseWriter, r *http.Request, pass http.Handler) bool {
	if f.Lookups == 0 && f.Unlisted == 0 && f.Listed == 0 {
		return false
	}
	bucket, key, ok := object(r)
	isObject := ok && key != "" && r.URL.RawQuery == ""
	switch {
	case isObject && (r.Method == http.MethodPut || r.Method == http.MethodDelete):
		told := &telling{ResponseWriter: w, status: http.StatusOK}
		size := r.ContentLength
		pass.ServeHTTP(told, r)
		switch {
		case told.status >= 300:
		case r.Method == http.MethodPut:
			p.stored(f, bucket+"/"+key, size)
		default:
			p.deleted(f, bucket+"/"+key)
		}
		return true
	case isObject && p.unseen(bucket+"/"+key):
		answer(w, http.StatusNotFound, "NoSuchKey")
		return true
	case r.Method == http.MethodGet && r.URL.Query().Get("list-type") == "2":
		whole := &kept{header: http.Header{}, status: http.StatusOK}
		pass.ServeHTTP(whole, r)
		body := whole.body.Bytes()
		if whole.status == http.StatusOK {
			body = p.stale(strings.TrimSuffix(bucket, "/"), r.URL.Query(), body)
		}
		for k, v := range whole.header {
			w.Header()[k] = v
		}
		w.Header().Set("Content-Length", strconv.Itoa(len(body)))
		w.WriteHeader(whole.status)
		_, _ = w.Write(body) // the client may have gone
		return true
	}
	return false
}

var (
	entry    = regexp.MustCompile(`(?s)<Contents>.*?</Contents>`)
	entryKey = regexp.MustCompile(`<Key>(.*?)</Key>`)
)

// stale makes of a page of a list what it was before the latest changes. Each such change is counted once for each list that it is kept from.
func (p *Proxy) stale(bucket string, q url.Values, page []byte) []byte {
	p.mu.Lock()
	defer p.mu.Unlock()
	entries := map[string][]byte{} // by key
	encode, decode := html.EscapeString, html.UnescapeString
	if bytes.Contains(page, []byte("<EncodingType>url</EncodingType>")) {
		encode, decode = url.QueryEscape, unescaped
	}
	for _, e := range entry.FindAll(page, -1) {
		if m := entryKey.FindSubmatch(e); m != nil {
			entries[decode(string(m[1]))] = e
		}
	}
	last := ""
	if bytes.Contains(page, []byte("<IsTruncated>true</IsTruncated>")) {
		for k := range entries {
			last = max(last, k)
		}
	}
	for name, l := range p.lags {
		key, ours := strings.CutPrefix(name, bucket+"/")
		rest, below := strings.CutPrefix(key, q.Get("prefix"))
		inPage := key > q.Get("start-after") && q.Get("continuation-token") == "" && (last == "" || key < last)
		if !ours || !below || l.lists == 0 || !inPage || q.Get("delimiter") != "" && strings.Contains(rest, q.Get("delimiter")) {
			continue
		}
		switch _, listed := entries[key]; {
		case !l.gone && listed:
			delete(entries, key)
		case l.gone && !listed:
			entries[key] = fmt.Appendf(nil, `<Contents><Key>%s</Key><LastModified>%s</LastModified><ETag>"0"</ETag><Size>%d</Size><StorageClass>STANDARD</StorageClass></Contents>`,
				encode(key), l.at.Format("2006-01-02T15:04:05.000Z"), l.size)
		default:
			continue
		}
		l.lists--
		p.count["stale list"]++
	}
	var all []byte
	keys := make([]string, 0, len(entries))
	for k := range entries {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	for _, k := range keys {
		all = append(all, entries[k]...)
	}
	page = entry.ReplaceAll(page, nil)
	end := bytes.LastIndex(page, []byte("</ListBucketResult>"))
	if end < 0 {
		return page
	}
	return slices.Concat(page[:end], all, page[end:])
}

func unescaped(key string) string {
	if k, err := url.QueryUnescape(key); err == nil {
		return k
	}
	return key
}

// telling passes an answer on, and remembers its status.
type telling struct {
	http.ResponseWriter
	status int
}

func (t *telling) WriteHeader(status int) {
	t.status = status
	t.ResponseWriter.WriteHeader(status)
}

// kept is an answer that has not gone on yet.
type kept struct {
	header http.Header
	status int
	body   bytes.Buffer
}

func (k *kept) Header() http.Header         { return k.header }
func (k *kept) Write(b []byte) (int, error) { return k.body.Write(b) }
func (k *kept) WriteHeader(status int)      { k.status = status }

// Hide makes an object (bucket/key) that was stored by another way one that was just stored.
func (p *Proxy) Hide(name string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.lags[name] = &lag{lookups: p.faults.Lookups, lists: p.faults.Unlisted}
}
