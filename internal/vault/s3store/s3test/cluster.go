package s3test

import (
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"holdfast/internal/disktest"
)

// cluster is Ceph's monitor and its one OSD, which keeps everything in memory. It is the store behind every [Server] of this
// process: it takes a second to start, and a radosgw in front of it a tenth.
type cluster struct {
	dir    string // of its own, removed when the process has ended
	conf   string // the file that every program of Ceph is given
	spaces atomic.Int32
	alive  io.Closer // that it is open says that this process has not ended
}

// startMax bounds the start of the cluster, and of a server. It takes a second or two; a machine that tests in parallel has less time.
const startMax = 2 * time.Minute

// shared starts the cluster of this process when it is first asked for. It is not stopped: it dies with the process, however that
// ends, for no test knows that it is the last.
var shared = sync.OnceValues(func() (*cluster, error) {
	ctx, done := context.WithTimeout(context.Background(), startMax)
	defer done()
	dir, err := os.MkdirTemp("", "holdfast-ceph-")
	if err != nil {
		return nil, err
	}
	alive, err := disktest.RemoveBehindUs(dir)
	if err != nil {
		return nil, fmt.Errorf("start what removes %s: %w", dir, err)
	}
	c := &cluster{dir: dir, conf: filepath.Join(dir, "ceph.conf"), alive: alive}
	if err := c.start(ctx); err != nil {
		return nil, fmt.Errorf("start a Ceph cluster: %w", err)
	}
	return c, nil
})

// settings are those of all programs. Where they differ from Ceph's own:
//   - nobody proves who they are: only this machine can reach it, and the accounts of S3 are apart from that. radosgw wants an
//     encrypted session with the monitor, which is not to be had so, unless it is told otherwise;
//   - there is one copy of everything, in one pool, which no manager watches over;
//   - the monitor, alone, waits for no others before it decides;
//   - radosgw remembers nothing of accounts and buckets: others would wait to tell it of changes when it was killed;
//   - radosgw does nothing of its own accord: no test waits for what its clean-up would do.
const settings = `[global]
fsid = %[1]s
mon host = v2:%[2]s
public addr = %[3]s
cluster addr = %[3]s
ms bind msgr1 = false
ms mon client mode = crc
auth cluster required = none
auth service required = none
auth client required = none
keyring = %[4]s/keyring
run dir = %[4]s
crash dir = %[4]s
admin socket =
pid file =
log file =
mon cluster log file =
log to stderr = true
err to stderr = true
debug rgw = 0
mon data = %[4]s/mon
mon data avail warn = 0
mon data avail crit = 0
mon allow pool size one = true
mon max pg per osd = 10000
paxos propose interval = 0.02
paxos min wait = 0.01
osd data = %[4]s/osd
osd objectstore = memstore
memstore device bytes = 64G
osd crush chooseleaf type = 0
osd pool default size = 1
osd pool default min size = 1
osd pool default pg autoscale mode = off
rgw data = %[4]s
rgw enable apis = s3
rgw thread pool size = 32
rgw cache enabled = false
rgw run sync thread = false
rgw enable gc threads = false
rgw enable lc threads = false
rgw enable quota threads = false
`

// pool holds what all servers of this process store.
const pool = "all"

// start starts monitor and OSD, and waits until they have made the pool.
func (c *cluster) start(ctx context.Context) error {
	monitor, err := freeAddress()
	if err != nil {
		return err
	}
	host, _, err := net.SplitHostPort(monitor)
	if err != nil {
		return err
	}
	id, osd, within := uuid(), uuid(), func(name string) string { return filepath.Join(c.dir, name) }
	for _, d := range []string{"mon", "osd"} {
		if err := os.Mkdir(within(d), 0o700); err != nil {
			return err
		}
	}
	for name, text := range map[string]string{"ceph.conf": fmt.Sprintf(settings, id, monitor, host, c.dir), "keyring": ""} {
		if err := os.WriteFile(within(name), []byte(text), 0o600); err != nil {
			return err
		}
	}
	var daemons []*daemon
	step := func(f func() error) {
		if err == nil {
			err = f()
		}
	}
	once := func(program string, args ...string) {
		step(func() error { return run(ctx, program, args...) })
	}
	forever := func(name, program string, args ...string) {
		step(func() error {
			d, err := begin(within(name+".log"), program, append(args, "-c", c.conf, "-f")...)
			if err == nil {
				daemons = append(daemons, d)
			}
			return err
		})
	}
	once("monmaptool", "--create", "--fsid", id, "--addv", "m", "[v2:"+monitor+"]", within("monmap"))
	once("ceph-mon", "-c", c.conf, "--mkfs", "--id", "m", "--monmap", within("monmap"))
	forever("mon", "ceph-mon", "--id", "m")
	once("ceph", "-c", c.conf, "--connect-timeout", "60", "osd", "new", osd, "0")
	once("ceph-osd", "-c", c.conf, "--id", "0", "--mkfs", "--osd-uuid", osd)
	forever("osd", "ceph-osd", "--id", "0")
	once("ceph", "-c", c.conf, "--connect-timeout", "60", "osd", "pool", "create", pool, "8")
	for _, d := range daemons {
		if err != nil {
			err = fmt.Errorf("%w\n%s says: %s", err, filepath.Base(d.cmd.Path), d.said())
		}
	}
	return err
}

// freeAddress is an address where nothing listens yet, and where no other process of tests looks for one.
func freeAddress() (string, error) {
	l, err := net.Listen("tcp", fmt.Sprintf("127.84.3.%d:0", os.Getpid()%250+3))
	if err != nil {
		return "", err
	}
	return l.Addr().String(), l.Close() // the server takes its place
}

// uuid draws a name that no other cluster and no other OSD has (RFC 9562, version 4).
func uuid() string {
	b := make([]byte, 16)
	_, _ = rand.Read(b) // never fails
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}
