package lab_test

import (
	"holdfast/lab"
)

// lastNumber is the last of the numbered faults that a database must live through.
const lastNumber = 40

// scenarios is the list. Those in CI come to about a minute and a half together.
func scenarios() []lab.Scenario {
	return []lab.Scenario{
		{Number: 1, Name: "crash", InCI: true, Run: crash,
			Claim: "a killed postmaster: a standby takes over, and the old primary rejoins by itself"},
		{Number: 4, Name: "power-off", InCI: true, Run: powerOff,
			Claim: "the primary's host loses its power and falls silent: a standby takes over, and the host rejoins when it is back"},
		{Number: 8, Name: "cut-off", InCI: true, Run: cutOff,
			Claim: "the primary is cut off with its clients: a standby takes over, and the old primary acknowledges nothing after its deadline"},
		{Number: 8, Name: "link-cut-and-return", InCI: true, Run: cutAndReturn, Points: returns,
			Claim: "the primary's link is cut and comes back at one of many moments (all: every 50 ms up to 8 s); every other time clients still reach the old primary"},
		{Number: 8, Name: "open-sessions", Run: openSessions,
			Claim: "an idle session and one in a transaction beside a cut-off primary are ended before the new primary acknowledges anything"},
		{Number: 9, Name: "no-etcd-at-the-primary", InCI: true, Run: noEtcd,
			Claim: "the primary reaches its standbys but not the agreed state: nobody fails over, no request fails"},
		{Number: 10, Name: "cut-off-from-hosts", Run: cutOffFromHosts,
			Claim: "the primary reaches neither standbys nor the agreed state, but clients reach it: a standby takes over"},
		{Number: 11, Name: "mute", Run: oneWay((*lab.Network).Mute),
			Claim: "nobody hears the primary, which hears everybody: one change of primary, no flapping"},
		{Number: 11, Name: "deaf", Run: oneWay((*lab.Network).Deafen),
			Claim: "the primary hears nobody, everybody hears it: one change of primary, no flapping"},
		{Number: 12, Name: "one-link", Run: oneLink,
			Claim: "a standby that the primary alone does not reach leaves, writes flow, nothing fails over"},
		{Number: 26, Name: "switchover", InCI: true, Run: switchover,
			Claim: "a planned change of primary goes where it was asked to"},
	}
}

// other is a test that proves a number outside the list of scenarios, or the word why nothing does yet.
type other struct {
	number             int
	test, where, claim string
}

func elsewhere() []other {
	const links, chain, none = "`TestLinksBreakAndNothingAcknowledgedIsLost`", "`TestAWorldSurvivesOneFaultAfterTheOther`", "none yet"
	return []other{
		{1, chain, "CI", "a killed primary on loopback hosts, with services that wait for their database"},
		{6, chain, "CI", "a killed keeper fences its primary"},
		{7, links, "CI", "a frozen host wakes up cut off: it acknowledges nothing and answers nothing stale"},
		{8, links, "CI", "open sessions beside a cut-off primary: no commit, no answer after the new one acknowledged"},
		{11, links, "CI", "a primary that nobody hears, and one that hears nobody"},
		{12, links, "CI", "a standby that the primary alone does not reach leaves, both ways and one way; nothing fails over"},
		{13, links, "CI", "20 s without a majority of etcd: no failed request, agents killed meanwhile"},
		{26, chain, "CI", "a switchover, and the refusal of one to an unknown host"},
		{32, "`TestReadsAreSpreadOverStandbysAndNothingIsWritten`", "CI", "readers on both standbys; one falls behind, then all; a failover; no write ever succeeds"},
		{39, chain, "CI", "every agent killed in turn: no failed request"},
		{40, "`sim`: `TestSeeds`", "CI, `make sim`", "random faults on the decision core, each seed replayable"},
		{2, none, "", ""}, {3, none, "", ""}, {5, none, "", ""}, {14, none, "", ""}, {15, none, "", ""},
		{16, none, "", ""}, {17, none, "", ""}, {18, none, "", ""}, {19, none, "", ""}, {20, none, "", ""}, {21, none, "", ""}, {22, none, "", ""},
		{23, none, "", ""}, {24, none, "", ""}, {25, none, "", ""}, {27, none, "", ""}, {28, none, "", ""}, {29, none, "", ""}, {30, none, "", ""},
		{31, none, "", ""}, {33, none, "", ""}, {34, none, "", ""}, {35, none, "", ""}, {36, none, "", ""}, {37, none, "", ""},
		{38, none, "", ""},
	}
}
