package backup

import (
	"os"
	"testing"

	"holdfast/internal/clock"
	"holdfast/internal/vault/wal"
)

// What could not be spooled is not counted as received: the server must send it again.
func TestWhatCannotBeSpooledWasNotReceived(t *testing.T) {
	const size = 1 << 20
	dir := t.TempDir()
	sp, err := openSpool(dir, size, 4*size)
	if err != nil {
		t.Fatal(err)
	}
	r := &Receiver{o: ReceiverOptions{Clock: clock.Real()}}
	g := gathering{s: &stream{r: r, spool: sp}, timeline: 1, begin: size}
	say := func(at wal.LSN, n int) error { return g.take(message{at: at, data: make([]byte, n)}) }
	if err := say(size, 100); err != nil {
		t.Fatal(err)
	}
	if waiting := sp.waiting(); waiting != 0 || g.begin != size || g.end() != size+100 {
		t.Errorf("a small message is in the spool at once: %d bytes, %s to %s", waiting, g.begin, g.end())
	}
	if err := say(size+99, 1); err == nil {
		t.Error("a message that does not follow was taken")
	}
	if err := say(size+100, bulk); err != nil {
		t.Fatal(err)
	}
	if waiting := sp.waiting(); waiting != 100+bulk || g.begin != size+100+bulk {
		t.Errorf("much is not in the spool: %d bytes, from %s", waiting, g.begin)
	}
	begin := g.begin
	if err := say(begin, 10); err != nil {
		t.Fatal(err)
	}
	if err := sp.close(); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(dir); err != nil { // no segment can be made any more
		t.Fatal(err)
	}
	if err := g.put(); err == nil || g.begin != begin || g.end() != begin {
		t.Errorf("what could not be written counts: %s to %s, %v", g.begin, g.end(), err)
	}
}
