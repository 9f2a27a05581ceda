package proxy

import (
	"crypto/tls"
	"fmt"
	"os"
	"sync"
	"time"
)

// certificates are key pairs from files, read again when the files change. The zero value is ready.
type certificates struct {
	mu    sync.Mutex // guards pairs; held while files are read, which happens once a change
	pairs map[[2]string]*pair
}

type pair struct {
	cert   *tls.Certificate
	marks  [2]mark
	looked time.Time
	err    error // why the files as they are now are not used; cert is from before
}

// mark tells one version of a file from another.
type mark struct {
	changed time.Time
	size    int64
}

// lookPause is how old a look at the files may be.
const lookPause = time.Second

// load gives the pair. Files that became unreadable, or do not belong together (one of them is being
// replaced), leave the pair from before in use.
func (c *certificates) load(certFile, keyFile string, now time.Time) (*tls.Certificate, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	key := [2]string{certFile, keyFile}
	p := c.pairs[key]
	if p == nil {
		p = &pair{}
		if c.pairs == nil {
			c.pairs = map[[2]string]*pair{}
		}
		c.pairs[key] = p
	}
	if p.looked.IsZero() || now.Sub(p.looked) >= lookPause {
		p.look(certFile, keyFile)
		p.looked = now
	}
	if p.cert == nil {
		return nil, p.err
	}
	return p.cert, nil
}

func (p *pair) look(certFile, keyFile string) {
	var marks [2]mark
	for i, f := range []string{certFile, keyFile} {
		info, err := os.Stat(f)
		if err != nil {
			p.err = fmt.Errorf("look at certificate: %w", err)
			return
		}
		marks[i] = mark{info.ModTime(), info.Size()}
	}
	if p.err == nil && p.cert != nil && marks == p.marks {
		return
	}
	cert, err := tls.LoadX509KeyPair(certFile, keyFile)
	if err != nil {
		p.err = fmt.Errorf("read certificate %s: %w", certFile, err)
		return
	}
	p.cert, p.marks, p.err = &cert, marks, nil
}

// problem is why the files are not used as they are, or nil.
func (c *certificates) problem(certFile, keyFile string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if p := c.pairs[[2]string{certFile, keyFile}]; p != nil {
		return p.err
	}
	return nil
}
