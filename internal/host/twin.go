package host

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"time"

	"holdfast/internal/problem"
)

// Two machines with one host's files, say a copied disk, would be the same host to everybody: same name, same certificate, same
// promises. A lock on the directory keeps two agents of one directory apart; between directories and machines the agreed state
// does. Each life of an agent puts its mark under the host's name before it takes part in anything. Who finds another's
// there asks whether that one lives, and the one that lives answers: who came first stays, and the newcomer runs nothing.

const (
	// twinAnswer is how long a question may go unanswered: an agent looks every half second, and writes once.
	twinAnswer = 3 * time.Second
	// twinGone is the same for an agent that runs already, because nobody could be asked when it began.
	twinGone = time.Minute
	// twinAsks is how often a newcomer that is refused asks again.
	twinAsks = 5 * time.Second
	// twinForgets is how long a question is told as a problem.
	twinForgets = time.Minute
)

// mark is one life of an agent.
type mark struct {
	Life    string    `json:"life"`
	Machine string    `json:"machine"` // its name, and which boot of it
	Process int       `json:"process"`
	Dir     string    `json:"dir"`
	Since   time.Time `json:"since"` // by its own clock

	Address  string `json:"address,omitempty"`  // of its agent
	Kernel   string `json:"kernel,omitempty"`   // which boot and which process ids: whoever has the same can look at Process
	Born     string `json:"born,omitempty"`     // when Process began, by that kernel
	Hardware string `json:"hardware,omitempty"` // of the machine; "" = it tells nothing of itself
	After    string `json:"after,omitempty"`    // the life that did not answer when this one took the name
	Answers  string `json:"answers,omitempty"`  // the newest question that it has answered
}

func (m mark) String() string {
	at := ""
	if m.Address != "" {
		at = " at " + m.Address
	}
	return fmt.Sprintf("process %d in %s on %s%s, since %s", m.Process, m.Dir, m.Machine, at, m.Since.UTC().Format(time.RFC3339))
}

// question asks whoever holds a name whether it lives.
type question struct {
	Number string `json:"number"` // random
	By     mark   `json:"by"`     // who wants the name; the zero mark = an operator asks
}

// sight is what one look at a host's name finds.
type sight struct {
	now      mark          // the zero mark = nobody's stands there
	here     bool          // its process can be looked at
	lives    bool          // and does live
	asked    bool          // it was asked by us
	answered bool          // and its mark has changed since
	quiet    time.Duration // since it was asked first, without an answer
	runs     bool          // our own host runs already
}

// verdict is whose a host's name is.
type verdict int

const (
	nameOurs     verdict = iota // our mark stands there
	nameFree                    // nobody has it: put our mark there
	nameSilent                  // the one that had it is as good as surely gone: the same, but that one may take it back
	nameUnclear                 // ask, and wait
	nameOrphaned                // the one that has it does not answer, and only a person can know that it is gone
	nameTaken                   // another lives under it
)

// judge says whose the name is. The one that was there first is never judged gone by silence alone: a network that is
// cut looks the same. It is gone when its process is, when its machine is ours, and when an operator has said so, which
// removes its mark.
func (m mark) judge(s sight) verdict {
	sameMachine := s.now.Kernel == "" || s.now.Hardware != "" && s.now.Hardware == m.Hardware && s.now.Address == m.Address
	switch {
	case s.now.Life == "", s.now.After == m.Life:
		return nameFree
	case s.now.Life == m.Life:
		return nameOurs
	case s.here && !s.lives, s.now.Kernel == "" && s.now.Dir == m.Dir && s.now.Machine == m.Machine:
		return nameFree // a release that told no kernel ran in our directory, on this boot: we hold that directory, so it has ended
	case s.here, s.answered:
		return nameTaken
	case !s.asked || s.quiet < twinAnswer:
		return nameUnclear
	case sameMachine, s.runs && s.quiet >= twinGone:
		return nameSilent
	}
	return nameOrphaned
}

// refusal is what a newcomer says.
func (m mark) refusal(host string, v verdict, first mark) problem.Problem {
	p := problem.Problem{
		Code: "host.name-taken", Subject: host, Severity: problem.Critical,
		Title:   fmt.Sprintf("another agent runs as this host and answers: %s", first),
		Meaning: fmt.Sprintf("This one (%s) runs no database, no service and no member, votes on nothing, and waits. The other is not disturbed.", m),
		Remedy:  "if this is the copy: end this agent and move its files away. If the other shall go: end it there with everything it runs (SIGINT); this one takes its place by itself",
	}
	if v == nameOrphaned {
		p.Title = fmt.Sprintf("the name is another agent's, which does not answer now: %s", first)
		p.Meaning = fmt.Sprintf("It may be gone, or only cut off. This one (%s) runs nothing until that is known.", m)
		p.Remedy = "if that machine is gone for good, say so from any other host: holdfast cluster replace " + host + "; if it is not, end this agent and move its files away"
	}
	return p
}

// asker is what the one that stays says while a newcomer asks for its name.
func (m mark) asker(host string, other mark) problem.Problem {
	return problem.Problem{
		Code: "host.runs-twice", Subject: host, Severity: problem.Degraded,
		Title:   fmt.Sprintf("another agent wants to run as host %s, and is refused: %s; this is %s", host, other, m),
		Meaning: "Two machines use one host's identity, as after a copied disk. The newcomer runs nothing and votes on nothing; this host goes on as before.",
		Remedy:  "end the newcomer and move its files away; its machine can only be a host under a name of its own (handbook, hosts)",
	}
}

// newMark is a life that begins now, in a host's directory.
func newMark(dir, address string, now time.Time) mark {
	m := mark{Life: rand.Text(), Process: os.Getpid(), Dir: dir, Address: address, Since: now, Born: bornAt(os.Getpid()), Hardware: hardware()}
	name, err := os.Hostname()
	if err != nil {
		name = "a machine without a name"
	}
	m.Machine = name
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return m
	}
	m.Machine += " (boot " + strings.TrimSpace(string(boot)) + ")"
	if ids, err := os.Readlink("/proc/self/ns/pid"); err == nil {
		m.Kernel = strings.TrimSpace(string(boot)) + " " + ids
	}
	return m
}

// look says whether the process of another mark can be looked at from here, and whether it lives. An earlier life of this very
// process does not.
func (m mark) look(other mark) (here, lives bool) {
	if m.Kernel == "" || other.Kernel != m.Kernel || other.Born == "" {
		return false, false
	}
	return true, other.Process != m.Process && bornAt(other.Process) == other.Born
}

// bornAt is when a process began, in ticks since the boot; "" = there is no such process. Field 22 of proc_pid_stat(5), counted
// from behind the name, which may hold anything; a zombie has ended.
func bornAt(pid int) string {
	text, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return ""
	}
	_, rest, _ := strings.Cut(string(text[strings.LastIndexByte(string(text), ')')+1:]), " ")
	f := strings.Fields(rest)
	if len(f) < 20 || f[0] == "Z" || f[0] == "X" {
		return ""
	}
	return f[19]
}

// hardware tells one machine from another across boots, where it has anything of the kind.
func hardware() string {
	sum, known := sha256.New(), false
	for _, path := range []string{"/sys/class/dmi/id/product_uuid", "/etc/machine-id"} {
		text, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) || len(text) == 0 {
			continue
		}
		known = known || err == nil
		sum.Write(append(text, 0))
	}
	if !known {
		return ""
	}
	return hex.EncodeToString(sum.Sum(nil)[:8])
}
