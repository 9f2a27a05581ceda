package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"sync"
)

// program is a command that is run to its end, or first to where it has opened its repository.
type program struct {
	*exec.Cmd
	word  io.WriteCloser // ends its wait; nil = it does not wait
	said  bytes.Buffer   // once it has ended
	rest  sync.WaitGroup
	ended bool
}

// open starts it, and returns when it waits.
func (p *program) open() error {
	var err error
	if p.word, err = p.StdinPipe(); err != nil {
		return err
	}
	p.Stderr = &p.said
	out, err := p.StdoutPipe()
	if err != nil {
		return err
	}
	if err := p.Start(); err != nil {
		return err
	}
	lines := bufio.NewReader(out)
	line, err := lines.ReadString('\n')
	if strings.TrimSpace(line) != ready {
		p.abandon()
		return errors.Join(fmt.Errorf("it does not wait with its vault open: %s%s", line, tail(p.said.Bytes())), err)
	}
	p.rest.Go(func() { _, _ = io.Copy(io.Discard, lines) }) // its exit tells how it went
	return nil
}

// finish lets it go on to its end, or runs it from its beginning.
func (p *program) finish() ([]byte, error) {
	if p.word == nil {
		return p.CombinedOutput()
	}
	_, err := io.WriteString(p.word, "go\n")
	p.rest.Wait()
	p.ended = true
	err = errors.Join(err, p.word.Close(), p.Wait())
	return p.said.Bytes(), err
}

// abandon ends one that was opened and not finished.
func (p *program) abandon() {
	if p.ended {
		return
	}
	p.ended = true
	_ = p.Process.Kill() // it may have ended by itself
	p.rest.Wait()
	_ = p.Wait() // killed
}
