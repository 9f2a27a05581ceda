package lab_test

import (
	"time"

	"holdfast/lab"
)

// lastNumber is the last of the numbered faults that a database must live through.
const lastNumber = 40

// ownDisks is the kind of the worlds whose hosts have a disk of their own each.
const ownDisks = "own-disks"

// scenarios is the list. Those in CI come to about two minutes together.
func scenarios() []lab.Scenario {
	return []lab.Scenario{
		{Number: 1, Name: "crash", InCI: true, Run: crash,
			Claim: "a killed postmaster: a standby takes over, and the old primary rejoins by itself"},
		{Number: 2, Name: "crash-backend", Run: crashBackend,
			Claim: "a killed backend ends its server, which never restarts itself: one change of primary"},
		{Number: 2, Name: "crashes-everywhere", Run: crashesEverywhere,
			Claim: "a backend of each new primary crashes by itself: the third time nothing moves, the server starts in place, and an operator lets moves go on"},
		{Number: 3, Name: "crash-much-wal", Run: crashMuchWAL(300),
			Claim: "a primary with 300 MB of WAL to replay is not waited for: that a restart in place would take longer is said before, and what became of its server after"},
		{Number: 4, Name: "power-off", InCI: true, Run: powerOff,
			Claim: "the primary's host loses its power and falls silent: a standby takes over, and the host rejoins when it is back"},
		{Number: 4, Name: "power-off-etcd-leader", Run: powerOffLeader,
			Claim: "the same where the dead host leads etcd"},
		{Number: 5, Name: "power-off-two-of-three", Run: primaryAndStandbyOff,
			Claim: "primary and one standby of two lose their power: nobody is promoted, it is said, and all is well when they are back"},
		{Number: 5, Name: "power-off-both-that-hold-it", Kind: "five-hosts-two-standbys", Shape: lab.Shape{Hosts: 5}, Run: primaryAndStandbyOfFiveOff,
			Claim: "primary and one standby of two lose their power, a majority of etcd is left: nobody is promoted, the alarm names who is missing and how to force it, and what that would cost is shown"},
		{Number: 5, Name: "power-off-two-of-four", Kind: "five-hosts", Shape: lab.Shape{Hosts: 5, Standbys: 3, AcknowledgedBy: 2}, Run: primaryAndOneOfThreeOff,
			Claim: "primary and one standby of three, two of which must hold a commit, lose their power: a standby takes over, and strictly no write is acknowledged before a third server is back"},
		{Number: 6, Name: "stop-keeper", InCI: true, Run: stopKeeper,
			Claim: "the primary's keeper is paused while its server lives: the server is ended, a standby takes over"},
		{Number: 6, Name: "stop-agent", Run: stopAgent,
			Claim: "the primary's agent is paused: the keeper fences the server, a standby takes over, the agent goes on later and harms nothing"},
		{Number: 7, Name: "freeze-5s", Run: freeze(5 * time.Second),
			Claim: "the primary's whole host stands still for 5 s and comes back with its links: at most one change of primary"},
		{Number: 7, Name: "freeze-15s", Run: freeze(15 * time.Second), Claim: "the same for 15 s"},
		{Number: 7, Name: "freeze-60s", Run: freeze(time.Minute), Claim: "the same for 60 s"},
		{Number: 8, Name: "cut-off", Run: cutOff,
			Claim: "the primary is cut off with its clients: a standby takes over, and the old primary acknowledges nothing after its deadline"},
		{Number: 8, Name: "link-cut-and-return", Run: cutAndReturn, Points: returns,
			Claim: "the primary's link is cut and comes back at one of many moments (all: every 50 ms up to 8 s); every other time clients still reach the old primary"},
		{Number: 8, Name: "link-cut-briefly", Run: cutBriefly, Points: brief,
			Claim: "the primary's link is cut for one to two seconds (all: every 50 ms): nothing moves"},
		{Number: 8, Name: "open-sessions", Run: openSessions,
			Claim: "an idle session and one in a transaction beside a cut-off primary are ended before the new primary acknowledges anything"},
		{Number: 9, Name: "no-etcd-at-the-primary", Run: noEtcd,
			Claim: "the primary reaches its standbys but not the agreed state: nobody fails over, no request fails"},
		{Number: 10, Name: "cut-off-from-hosts", Run: cutOffFromHosts,
			Claim: "the primary reaches neither standbys nor the agreed state, but clients reach it: a standby takes over"},
		{Number: 10, Name: "linearizable", Run: linearizable,
			Claim: "reads and writes of six sessions through a crash, a cut-off from the hosts and a switchover, judged by porcupine"},
		{Number: 11, Name: "mute", Run: oneWay((*lab.Network).Mute),
			Claim: "nobody hears the primary, which hears everybody: one change of primary, no flapping"},
		{Number: 11, Name: "deaf", Run: oneWay((*lab.Network).Deafen),
			Claim: "the primary hears nobody, everybody hears it: one change of primary, no flapping"},
		{Number: 12, Name: "one-link", Run: oneLink,
			Claim: "a standby that the primary alone does not reach leaves, writes flow, nothing fails over"},
		{Number: 13, Name: "no-etcd-majority", Run: noMajority(whole(10*time.Minute, time.Minute)),
			Claim: "10 min without a majority of etcd: no request fails, a change is refused in words, nothing moves"},
		{Number: 14, Name: "no-etcd-then-standby", Run: noMajorityThenStandby,
			Claim: "no majority of etcd, then a standby's host dies: the other standby acknowledges, nothing is agreed meanwhile; that one dies, too: nothing is acknowledged"},
		{Number: 15, Name: "no-etcd-then-primary", Run: noMajorityThenPrimary,
			Claim: "no majority of etcd, then the primary dies: nobody serves until there is a majority again, then somebody does"},
		{Number: 16, Name: "etcd-leader-churn", Run: leaderChurn(whole(2*time.Minute, 30*time.Second)),
			Claim: "etcd's leader stands still for 3 s of every 5: nothing moves, no request fails"},
		{Number: 17, Name: "etcd-from-backup-lower-epoch", Run: oldAgreedState(anotherEpoch),
			Claim: "etcd is put back to before a failover: refused by everybody, nobody serves; the newest state put back heals it"},
		{Number: 17, Name: "etcd-from-backup-same-epoch", Run: oldAgreedState(anotherVoter),
			Claim: "etcd is put back to other voters of the same epoch: refused likewise"},
		{Number: 18, Name: "disk-pauses", Kind: ownDisks, Shape: lab.Shape{Disk: ownDisk}, Run: diskPauses(5 * time.Second),
			Claim: "the primary's file system is frozen for 5 s (fsfreeze): writes wait, nothing moves"},
		{Number: 18, Name: "disk-stalls", Kind: ownDisks, Shape: lab.Shape{Disk: ownDisk}, Run: diskStalls(time.Minute),
			Claim: "it is frozen for 60 s: a standby takes over although the old server can neither end nor write, and becomes a standby again when it goes on"},
		{Number: 18, Name: "disk-mended-by-command", Kind: ownDisks, Shape: lab.Shape{Disk: ownDisk}, Run: diskMended,
			Claim: "it stands still, and the plan's `on_trouble` mends it: nothing moves; it stands still again within ten minutes: a standby takes over"},
		{Number: 18, Name: "disk-read-only", Kind: ownDisks, Shape: lab.Shape{Disk: ownDisk}, Run: diskRefuses((*lab.World).SealDisk),
			Claim: "it turns read-only, as ext4 does when it finds an error: a standby takes over, it is said, and the host rejoins when it is mended"},
		{Number: 18, Name: "disk-errors", Kind: ownDisks, Shape: lab.Shape{Disk: ownDisk}, Run: diskRefuses((*lab.World).FailDisk),
			Claim: "it answers everything with input/output errors: the same"},
		{Number: 19, Name: "disk-full", Kind: ownDisks, Shape: lab.Shape{Disk: ownDisk}, Run: diskFull,
			Claim: "the primary's disk is all but full: it is said, new transactions may not write, reads go on, nothing moves, and with room again writes go on"},
		{Number: 19, Name: "disk-full-moves", Kind: ownDisks + "-hand-over", Shape: lab.Shape{Disk: ownDisk, Plan: handOver}, Run: diskFullMoves,
			Claim: "the same with `disk_full: failover`: a standby that has room takes over in good order"},
		{Number: 20, Name: "standby-away-for-long", Kind: "little-log", Shape: lab.Shape{Plan: keepLittle}, Run: standbyAwayForLong,
			Claim: "a dead standby under load, with 64 MB of log kept for it at most: the log is let go, the disk does not fill, and it is made anew by itself"},
		{Number: 21, Name: "standby-stuck", Run: standbyStuck,
			Claim: "a standby's server stands still: it leaves, the other acknowledges, nothing moves"},
		{Number: 21, Name: "standby-power-off", Run: standbyOff,
			Claim: "a standby's host loses its power: it leaves, the other acknowledges, nothing moves"},
		{Number: 23, Name: "laggard", Kind: "four-of-five", Shape: lab.Shape{Hosts: 5, Plan: fourOfFive}, Run: laggard,
			Points: moments([]time.Duration{time.Second, 5 * time.Second}, 2*time.Second, 4*time.Second, 7*time.Second),
			Claim:  "a standby that counts is cut off from its primary; while it leaves those that count, the primary and the level standby lose their power: it is refused, and it is said"},
		{Number: 23, Name: "laggard-while-more-is-asked", Kind: "four-of-five", Shape: lab.Shape{Hosts: 5, Plan: fourOfFive}, Run: laggardWhileMoreIsAsked,
			Points: moments([]time.Duration{300 * time.Millisecond}, 3*time.Second),
			Claim:  "the same while the plan begins to want two standbys to hold a commit"},
		{Number: 23, Name: "newcomer", Kind: "four-of-five", Shape: lab.Shape{Hosts: 5, Plan: fourOfFive}, Run: newcomer,
			Points: moments([]time.Duration{0}, 300*time.Millisecond, time.Second),
			Claim:  "a standby is added and cut off while it joins those that count; all others lose their power: it is refused"},
		{Number: 24, Name: "cancelled-wait", InCI: true, Run: cancelledWait,
			Claim: "a commit that was given up while it waited for a standby comes with a warning, and is no acknowledgement"},
		{Number: 25, Name: "crash-alone", InCI: true, Run: crashAlone,
			Claim: "a primary that comes back by itself with a commit that no standby holds shows it to nobody before one does"},
		{Number: 26, Name: "switchover", InCI: true, Run: switchover,
			Claim: "a planned change of primary goes where it was asked to, in one epoch"},
		{Number: 26, Name: "switchover-pgbench", Run: pgbenchSwitchover,
			Claim: "the same under eight sessions of pgbench: only what was on its way fails"},
		{Number: 27, Name: "switchover-target-dies", Run: targetDies, Points: steps,
			Claim: "the target's host dies every 50 ms of the first 1.2 s of a switchover: the old primary resumes or another takes over"},
		{Number: 29, Name: "rewind-cut-short", Run: rewindCut,
			Claim: "a former primary loses its power while it rewinds or copies: it becomes a copy all the same"},
		{Number: 30, Name: "promoted-by-hand", InCI: true, Run: promotedByHand,
			Claim: "a standby that somebody promotes by hand acknowledges nothing, is found out and heals; the primary stays"},
		{Number: 37, Name: "cpu-starvation", Run: starve(whole(5*time.Minute, time.Minute)),
			Claim: "forty programs compete for each pair of cores for 5 min: nothing moves"},
		{Number: 38, Name: "clock-jumps", Run: clocksJump(whole(6*time.Second, 2*time.Second)),
			Claim: "the wall clock of each host jumps an hour ahead, two hours back and right again, for everything that runs there: no request fails, nothing moves"},
		{Number: 38, Name: "clocks-apart", Run: clocksApart,
			Claim: "the primary crashes while the clocks of three hosts are an hour apart each: one change of primary, and all is well again"},
		{Number: 39, Name: "agents-and-members-restart", Run: agentsRestart,
			Claim: "every agent and every etcd member is killed in turn: no request fails, nothing moves"},
	}
}

// other is a test that proves a number outside the list of scenarios. A number without any is listed as such.
type other struct {
	number             int
	test, where, claim string
}

func elsewhere() []other {
	const forcedTest = "`TestAForcedFailoverListsWhatItLost`"
	const links, chain = "`TestLinksBreakAndNothingAcknowledgedIsLost`", "`TestAWorldSurvivesOneFaultAfterTheOther`"
	return []other{
		{1, chain, "CI", "a killed primary on loopback hosts, with services that wait for their database"},
		{6, chain, "CI", "a killed keeper fences its primary"},
		{7, links, "CI", "a frozen host wakes up cut off: it acknowledges nothing and answers nothing stale"},
		{8, links, "CI", "open sessions beside a cut-off primary: no commit, no answer after the new one acknowledged"},
		{11, links, "CI", "a primary that nobody hears, and one that hears nobody"},
		{12, links, "CI", "a standby that the primary alone does not reach leaves, both ways and one way; nothing fails over"},
		{13, links, "CI", "20 s without a majority of etcd: no failed request, agents killed meanwhile"},
		{22, "`TestStandbysChangeWhileTheDatabaseRuns`", "CI", "standbys are added, removed, made asynchronous and cascading, W goes up, down, to 0 and back, under load; each step with the agent's memory lost after it: `internal/database`"},
		{17, "`TestAnOldAgreedStateIsRebuiltWithoutTheNewestOne`", "make lab", "the newest state is lost: a forced failover is refused, the outlook of a rebuilding says that its record is old, and the rebuilt application is whole again"},
		{18, "`TestAPrimaryThatCannotWrite`; `sim`: hang disk, slow disk", "CI", "a disk that hangs, of the model"},
		{26, chain, "CI", "a switchover, and the refusal of one to an unknown host"},
		{26, "`TestTheKernelPathFollowsThePrimary`", "make lab", "a switchover and a killed primary while rules lead each host's own clients straight to it"},
		{28, forcedTest, "make lab", "a primary that runs ahead of standbys that nothing waits for is cut off; the loss is shown, forced, and listed commit by commit"},
		{29, forcedTest, "make lab", "it comes back: its log is put aside first, it waits for a decision, then it is made a copy again"},
		{29, "`TestThePlanSalvagesLostCommits`", "make lab", "three databases lose the same commits; their plan has a command take them back, exports them, discards them, and nobody is asked"},
		{30, "`TestAStandbyThatWasRunAsAPrimaryByHandIsNoCopy`", "CI", "data that somebody ran as a primary without a promotion, whose log has forked on one timeline, are refused: `internal/database/postgres`"},
		{31, "`TestWhetherTwoMachinesRunAsOneHost`", "CI", "of two agents with one host's identity the first goes on and the newcomer runs nothing, and both say so; who is only silent is not taken for gone: `internal/host`"},
		{31, "`TestANewcomerWithAHostsNameRunsNothing`", "make lab", "a copied directory as on another machine: refused while the first answers and while it has no power, no request fails, nothing moves; let in by an operator, and then the first is refused"},
		{31, "`TestMakingADatabase`, `TestForeignDataAreNeverTouched`", "CI", "data of something else, or with another system identifier, are told and left alone: neither started nor copied over"},
		{32, "`TestReadsAreSpreadOverStandbysAndNothingIsWritten`", "CI", "readers on both standbys; one falls behind, then all; a failover; no write ever succeeds"},
		{38, "`sim`: jump clock", "CI, `make sim`", "among other random faults, a host's wall clock jumps by up to an hour"},
		{39, chain, "CI", "every agent killed in turn: no failed request"},
		{40, "`sim`: `TestSeeds`", "CI, `make sim`", "random faults on the decision core, each seed replayable"},
	}
}
