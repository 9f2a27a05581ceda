// Package keeper is the parent of one child process for one life of it. A keeper is a process of its own
// (`holdfast keeper SPECFILE`, whose body is [Main]), so that the agent may come and go: [Launch] starts one,
// [Find] finds it again by its directory, [Client] gives it orders over a Unix socket. It reports the child's
// exit at once, ends whole process trees, keeps the child's output, and holds a fence deadline: unless it is
// extended, the child's clients are cut off, then the tree is frozen, then killed.
//
// DESIGN.md beside this file has the flow, and what is done when a keeper itself dies.
package keeper

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// Spec is everything a keeper is told, once, at its start.
type Spec struct {
	Name    string   `json:"name"` // "postgres-records", "web.3", "etcd"; only for people
	Dir     string   `json:"dir"`  // the keeper's own directory, absolute; made 0700 when missing
	Argv    []string `json:"argv"` // Argv[0] without a slash is looked up in the keeper's PATH
	Env     []string `json:"-"`    // the child's whole environment; handed over in memory, never written to disk
	WorkDir string   `json:"work_dir"`

	UID int `json:"uid"` // 0 = as the keeper
	GID int `json:"gid"` // 0 = as the keeper

	StopSignal syscall.Signal `json:"stop_signal"` // asks the child to end; 0 = SIGTERM

	LogFile     string `json:"log_file"`      // the child's output; "" = Dir/output.log
	LogMaxBytes int64  `json:"log_max_bytes"` // size at which a new file is begun; 0 = 8 MiB
	LogKeep     int    `json:"log_keep"`      // older files kept (LogFile.1 is the newest of them); 0 = 3

	Fence *Fence `json:"fence,omitempty"` // nil = no deadline, and Extend is refused

	Tree TreeMode `json:"tree"` // how the process tree is held together; "" = TreeAuto
}

// Fence is a deadline that the agent must keep extending.
type Fence struct {
	// Cut is the Unix socket of a gate that gets the one line {"cut":true,"epoch":N} before the freeze, and at most
	// 100 ms to answer. "" = nothing to cut.
	Cut string `json:"cut"`
	// First arms the deadline from the start, counted from the call of Launch. 0 = armed by the first Extend.
	First time.Duration `json:"first"`
}

// TreeMode says how a keeper holds on to the processes that its child starts.
type TreeMode string

const (
	TreeAuto TreeMode = ""     // an own cgroup v2 where possible, else as TreeProc
	TreeProc TreeMode = "proc" // descendants by /proc alone
)

// Exit tells how one life ended. With TreeGone false the child has ended but processes that it started may
// still live; a second Exit with TreeGone true follows.
type Exit struct {
	Name      string         `json:"name"`
	Life      string         `json:"life"` // random id of this life
	KeeperPID int            `json:"keeper_pid"`
	PID       int            `json:"pid"`
	Code      int            `json:"code"`   // exit status; -1 when a signal ended it or nobody knows
	Signal    syscall.Signal `json:"signal"` // 0 when none
	TreeGone  bool           `json:"tree_gone"`
	Fenced    bool           `json:"fenced"`
	// KeeperLost: the keeper died without a report, so only what is left of the tree is known. [KillTree]
	// must come before the next Launch.
	KeeperLost bool   `json:"keeper_lost"`
	Reason     string `json:"reason"` // why it ended, for people

	Started     time.Time     `json:"started"`      // wall clock
	Ended       time.Time     `json:"ended"`        // wall clock
	StartedMono time.Duration `json:"started_mono"` // since the host's boot, suspension included
	EndedMono   time.Duration `json:"ended_mono"`
}

// Phase is where a life stands.
type Phase string

const (
	Running  Phase = "running"
	Stopping Phase = "stopping" // asked to end, grace running
	Killing  Phase = "killing"  // the tree is being killed
	Ended    Phase = "ended"    // nothing of the tree is left
)

// Status is a keeper's answer about itself and its child.
type Status struct {
	Name       string        `json:"name"`
	Life       string        `json:"life"`
	Phase      Phase         `json:"phase"`
	KeeperPID  int           `json:"keeper_pid"`
	PID        int           `json:"pid"`
	Started    time.Time     `json:"started"` // wall clock
	Age        time.Duration `json:"age"`     // since the child's start
	Frozen     bool          `json:"frozen"`
	Armed      bool          `json:"armed"`    // a deadline is set
	FenceIn    time.Duration `json:"fence_in"` // until the deadline; meaningless unless Armed
	Epoch      int64         `json:"epoch"`    // highest that extended the deadline
	Cgroup     string        `json:"cgroup"`   // "" = descendants are followed by /proc
	LogDropped int64         `json:"log_dropped"`
	LogFault   string        `json:"log_fault"` // why output was dropped last
}

var (
	// ErrRunning: a live keeper holds the directory.
	ErrRunning = errors.New("a live keeper holds the directory")
	// ErrLost: the last keeper of the directory died without a report, and KillTree was not called since.
	ErrLost = errors.New("the last keeper died without a report")
	// ErrEpoch: the order carries a lower epoch than one already seen.
	ErrEpoch = errors.New("epoch is lower than one already seen")
	// ErrFenced: too late, the deadline has passed and the child is being ended.
	ErrFenced = errors.New("the deadline has passed")
	// ErrNoFence: the spec set no Fence.
	ErrNoFence = errors.New("the keeper was started without a fence")
	// ErrEnding: the child is being killed or has ended, so the order makes no sense any more.
	ErrEnding = errors.New("the child is ending")
	// ErrGone: no keeper answers any more.
	ErrGone = errors.New("the keeper is gone")
)

const (
	specName    = "spec.json"
	socketName  = "keeper.sock"
	recordName  = "pid"
	exitName    = "exit.json"
	lockName    = "lock"
	ownLogName  = "keeper.log" // the keeper's own words: faults, and a trace should it ever panic
	childLogDef = "output.log"

	logMaxDefault  = 8 << 20
	logKeepDefault = 3
)

// check reports every bad field at once.
func (s Spec) check() error {
	var bad []error
	if s.Name == "" {
		bad = append(bad, errors.New("name is empty"))
	}
	if !filepath.IsAbs(s.Dir) {
		bad = append(bad, fmt.Errorf("directory %q is not absolute", s.Dir))
	}
	if len(s.Argv) == 0 || s.Argv[0] == "" {
		bad = append(bad, errors.New("argv is empty"))
	}
	for _, e := range s.Env {
		if !strings.Contains(e, "=") || strings.ContainsRune(e, 0) {
			bad = append(bad, errors.New("an environment entry is not NAME=value")) // the entry itself may be a secret
		}
	}
	if s.UID < 0 || s.GID < 0 || s.LogMaxBytes < 0 || s.LogKeep < 0 {
		bad = append(bad, errors.New("a number is negative"))
	}
	if s.Fence != nil && s.Fence.First < 0 {
		bad = append(bad, errors.New("the first deadline is in the past"))
	}
	if s.Tree != TreeAuto && s.Tree != TreeProc {
		bad = append(bad, fmt.Errorf("tree mode %q is unknown", s.Tree))
	}
	return errors.Join(bad...)
}

func (s Spec) withDefaults() Spec {
	if s.StopSignal == 0 {
		s.StopSignal = syscall.SIGTERM
	}
	if s.LogFile == "" {
		s.LogFile = filepath.Join(s.Dir, childLogDef)
	}
	if s.LogMaxBytes == 0 {
		s.LogMaxBytes = logMaxDefault
	}
	if s.LogKeep == 0 {
		s.LogKeep = logKeepDefault
	}
	return s
}
