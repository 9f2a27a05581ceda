package point

// Side is one of the two contents that an application may have: both lie there, and one of them has the live names.
type Side string

// The sides.
const (
	Was  Side = "was"   // what was live before
	Came Side = "point" // what was restored
)

// other is the side across.
func (s Side) other() Side {
	if s == Was {
		return Came
	}
	return Was
}

// Step is what a restore in place does next.
type Step string

// The steps, as they follow each other.
const (
	StepRestore Step = "restore"           // files and database beside, compared, and looked at by the application
	StepLoad    Step = "load"              // the SQL databases into the live server, under names of their own
	StepFreeze  Step = "freeze"            // the plan's command before
	StepSQL     Step = "exchange-database" // names of SQL databases, in one transaction
	StepFiles   Step = "exchange-files"    // the two directories, in one call
	StepThaw    Step = "go-on"             // the plan's command after
	StepDone    Step = "done"              // what nobody needs any more is removed
)

// Seen is how it stands, as it is found before each step.
type Seen struct {
	Restored   bool // in this process: files and database of the point lie beside, and have passed
	Loaded     bool // what is to get the names of the SQL databases lies in the live server
	Frozen     bool // in this process: before has run, and after has not
	Held       bool // before may have run, and after has not succeeded since, in whichever process
	SQL, Files Side // who has the live names
}

// Halves reports whether database and files belong to different moments: the application must not go on.
func (s Seen) Halves() bool { return s.SQL != s.Files }

// Next says what brings a side to be live. Names are exchanged only between freeze and go-on, the ones that may fail first;
// whatever takes long comes before, while the application goes on. Equal arguments, equal result.
func Next(to Side, s Seen) Step {
	there := s.SQL == to && s.Files == to
	switch {
	case there && s.Held:
		return StepThaw
	case there:
		return StepDone
	case s.Held && !s.Frozen && !s.Halves() && !s.Loaded:
		return StepThaw // a process that died left it so, and what comes first takes long
	case s.SQL != to && !s.Loaded && !s.Restored:
		return StepRestore
	case s.SQL != to && !s.Loaded:
		return StepLoad
	case !s.Frozen:
		return StepFreeze
	case s.SQL != to:
		return StepSQL
	}
	return StepFiles
}

// after is how it stands when a step has done what it is there for.
func (s Seen) after(step Step) Seen {
	switch step {
	case StepRestore:
		s.Restored = true
	case StepLoad:
		s.Loaded = true
	case StepFreeze:
		s.Frozen, s.Held = true, true
	case StepSQL:
		s.SQL = s.SQL.other()
	case StepFiles:
		s.Files = s.Files.other()
	case StepThaw:
		s.Frozen, s.Held = false, false
	}
	return s
}

// Steps are all that would be done from here.
func Steps(to Side, s Seen) []Step {
	var out []Step
	for {
		step := Next(to, s)
		out = append(out, step)
		if step == StepDone {
			return out
		}
		s = s.after(step)
	}
}
