package keeper

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"
)

const (
	connsMax   = 64       // agent, gate, CLI and a few watchers
	requestMax = 16 << 10 // bytes of one request line
	writeWait  = time.Second
)

// server takes orders from the socket to the loop.
type server struct {
	l      *net.UnixListener
	orders chan<- order
	ended  <-chan struct{} // the loop takes no more orders
	wg     sync.WaitGroup

	mu     sync.Mutex // guards what follows
	conns  map[net.Conn]bool
	closed bool
}

func serve(l *net.UnixListener, orders chan<- order, ended <-chan struct{}) *server {
	s := &server{l: l, orders: orders, ended: ended, conns: make(map[net.Conn]bool)}
	s.wg.Go(s.accept)
	return s
}

func (s *server) accept() {
	for {
		c, err := s.l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil { // out of descriptors, say: go on when some are free again
			time.Sleep(50 * time.Millisecond)
			continue
		}
		if !s.admit(c) {
			_ = c.Close() // too many, or ending; the client sees the end of the stream
			continue
		}
		s.wg.Go(func() {
			defer s.forget(c)
			s.talk(c)
		})
	}
}

func (s *server) admit(c net.Conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || len(s.conns) >= connsMax {
		return false
	}
	s.conns[c] = true
	return true
}

func (s *server) forget(c net.Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.conns, c)
	_ = c.Close() // everything was written, or nobody reads
}

// close ends all connections after they were sent what they wait for, and waits for the goroutines. Reads end
// at once, writes by themselves within writeWait.
func (s *server) close(wait time.Duration) error {
	err := s.l.Close()
	s.mu.Lock()
	s.closed = true
	for c := range s.conns {
		_ = c.SetReadDeadline(time.Now().Add(-time.Second)) // fails only on a closed connection
	}
	s.mu.Unlock()
	done := make(chan struct{})
	go func() { // ends with the connections, which the deadlines above bound
		s.wg.Wait()
		close(done)
	}()
	t := time.NewTimer(wait + writeWait)
	defer t.Stop()
	select {
	case <-done:
		return err
	case <-t.C:
		return errors.Join(err, fmt.Errorf("close the socket: clients still hold it after %v", wait+writeWait))
	}
}

// talk answers the requests of one connection, one after the other.
func (s *server) talk(c net.Conn) {
	in := bufio.NewReader(c)
	for {
		line, err := readLine(in)
		if err != nil {
			return
		}
		var r request
		if err := json.Unmarshal(line, &r); err != nil {
			if send(c, refuse(fmt.Errorf("read a request: %w", err))) != nil {
				return
			}
			continue
		}
		if r.Op == "watch" {
			s.watch(c, r)
			return
		}
		o := order{request: r, answer: make(chan reply, 1)}
		if !s.give(o) {
			return
		}
		select { // a stop may take long; its answer comes even when the loop has ended
		case rep := <-o.answer:
			if send(c, rep) != nil {
				return
			}
		case <-s.ended:
			select {
			case rep := <-o.answer:
				_ = send(c, rep) // the last word on this connection either way
			default:
			}
			return
		}
	}
}

// watch sends each Exit as it comes, until the last one or until the client leaves.
func (s *server) watch(c net.Conn, r request) {
	exits := make(chan Exit, 4)
	if !s.give(order{request: r, watch: exits}) {
		return
	}
	sent := make(chan struct{})
	go func() { // ends with exits, which the loop closes at its end and this function when the client leaves
		defer close(sent)
		for e := range exits {
			if send(c, reply{Exit: &e}) != nil {
				return
			}
		}
	}()
	_, _ = c.Read(make([]byte, 1)) // until the client leaves, or the server closes
	if s.give(order{request: r, watch: exits, unwatch: true}) {
		close(exits) // the loop forgot it, so nobody else will
	}
	<-sent
}

// give hands an order to the loop; false when it takes no more.
func (s *server) give(o order) bool {
	select {
	case s.orders <- o:
		return true
	case <-s.ended:
		return false
	}
}

func send(c net.Conn, r reply) error {
	if err := c.SetWriteDeadline(time.Now().Add(writeWait)); err != nil {
		return err
	}
	return json.NewEncoder(c).Encode(r)
}

// readLine reads one line of at most requestMax bytes.
func readLine(in *bufio.Reader) ([]byte, error) {
	var line []byte
	for {
		part, err := in.ReadSlice('\n')
		line = append(line, part...)
		if len(line) > requestMax {
			return nil, fmt.Errorf("read a request: longer than %d bytes", requestMax)
		}
		if !errors.Is(err, bufio.ErrBufferFull) {
			return line, err
		}
	}
}
