package restore

import (
	"fmt"
	"regexp"
	"strings"
	"time"
)

// ParseTime reads a date with a time as operators, PostgreSQL's log and psql write it: "2026-11-20 14:30", "2026-11-20T14:30:05.25",
// and behind that, with a space or without, what names a zone: Z, UTC, GMT, an offset (+01, +0100, +01:00; east of Greenwich is
// plus), or the short name that zone itself has at that moment. Without one it is local, in zone. ok = s is meant for such a time;
// then err says why it is none.
func ParseTime(s string, zone *time.Location) (at time.Time, ok bool, err error) {
	m := regexp.MustCompile(`^(\d{4}-\d\d-\d\d)[ Tt](\d?\d:\d\d)(:\d\d(?:\.\d+)?)?\s*(\S*)$`).FindStringSubmatch(strings.TrimSpace(s))
	if m == nil {
		return time.Time{}, false, nil
	}
	if m[3] == "" {
		m[3] = ":00"
	}
	wall := m[1] + " " + m[2] + m[3]
	at, err = inZone(wall, m[4], zone)
	return at, true, err
}

// wallLayout also reads fractions of a second.
const wallLayout = "2006-01-02 15:04:05"

func inZone(wall, name string, local *time.Location) (time.Time, error) {
	switch strings.ToUpper(name) {
	case "":
		return time.ParseInLocation(wallLayout, wall, local)
	case "Z", "UTC", "GMT":
		return time.ParseInLocation(wallLayout, wall, time.UTC)
	}
	for _, layout := range []string{"-07", "-0700", "-07:00"} {
		if offset, err := time.Parse(layout, name); err == nil {
			_, seconds := offset.Zone()
			return time.ParseInLocation(wallLayout, wall, time.FixedZone("", seconds))
		}
	}
	// Of a name that it does not know, time.Parse makes one of UTC: what comes out is looked at.
	at, err := time.ParseInLocation(wallLayout+" MST", wall+" "+name, local)
	if err == nil && at.Location() == local {
		if is, _ := at.Zone(); is == name {
			return at, nil
		}
	}
	if _, err := time.Parse(wallLayout, wall); err != nil {
		return time.Time{}, err
	}
	return time.Time{}, fmt.Errorf("%q is not the name of this machine's time zone at that moment, and such names mean different things in different places: write UTC, or the offset, as +01:00", name)
}
