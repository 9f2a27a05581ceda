package holdfast_test

import "testing"

// room is a row of the table below: what the packages of a folder may import, tests aside.
type room struct {
	folder string // with everything below it that has no row of its own
	pure   bool   // judges: touches nothing, reads no clock, starts no goroutine
	std    bool   // of other people's modules only golang.org/x/sys
	ours   string // packages of this module, apart from its own folder; "x/..." means x and below
	why    string // said when the row is broken
}

// leaves are small promises that stand on the standard library alone; everybody may use them.
const leaves = " internal/problem internal/event internal/redact internal/clock internal/durable internal/pgdata "

// roomsOwn are the rooms without their drivers: types and judgement.
const roomsOwn = " internal/receipt internal/plan internal/service internal/edge internal/database internal/database/stored internal/files internal/vault/... internal/backup/... internal/restore "

// drivers touch real servers and sockets. Only who puts a host together knows them.
const drivers = " internal/service/... internal/edge/... internal/database/... internal/cluster/... "

// rooms says who may import whom. A folder without a row is a failure: a new room states its place here first.
var rooms = []room{
	{folder: "internal/problem", pure: true, std: true, why: "the vocabulary of what is wrong stands on nothing"},
	{folder: "internal/event", pure: true, std: true, why: "the vocabulary of what happened stands on nothing"},
	{folder: "internal/redact", std: true, why: "a leaf stands on the standard library alone"},
	{folder: "internal/clock", std: true, why: "a leaf stands on the standard library alone"},
	{folder: "internal/durable", std: true, why: "a leaf stands on the standard library alone"},
	{folder: "internal/disktest", std: true, why: "a fixture of tests that need a disk of their own"},
	{folder: "internal/pgcontrol", std: true, ours: "internal/database", why: "one file of PostgreSQL's, read by whoever makes or restores a data directory; of ours it knows the LSN alone"},
	{folder: "internal/pgdata", pure: true, std: true, why: "what a data directory's files mean is the same for whoever copies them"},
	{folder: "internal/orders", std: true, ours: "internal/clock", why: "a leaf: lines of orders over a private socket, whatever is ordered"},
	{folder: "internal/receipt", std: true, ours: "internal/durable", why: "a receipt is verified with nothing but itself and a certificate: the standard library and the leaf durable"},
	{folder: "internal/auth", ours: leaves, why: "certificates know no room"},
	{folder: "internal/keeper", std: true, ours: "internal/durable", why: "a keeper outlives everything: the standard library, x/sys and the leaf durable, so that it is small and never upgraded for others' sake"},

	{folder: "internal/plan", pure: true, ours: "internal/problem internal/event internal/redact", why: "a plan is judged from its text"},
	{folder: "internal/service", pure: true, ours: "internal/problem internal/event internal/plan", why: "a judging room knows the plan and the vocabulary, never the world"},
	{folder: "internal/edge", pure: true, ours: "internal/problem internal/event internal/plan", why: "a judging room knows the plan and the vocabulary, never the world"},
	{folder: "internal/database", pure: true, ours: "internal/problem internal/event internal/plan", why: "a judging room knows the plan and the vocabulary, never the world"},

	{folder: "internal/service/process", ours: leaves + "internal/service internal/keeper internal/plan", why: "a driver knows its own room, the leaves and its engine"},
	{folder: "internal/service/probe", ours: leaves + "internal/service internal/plan", why: "a driver knows its own room, the leaves and its engine"},
	{folder: "internal/service/servicetest", ours: leaves + "internal/service", why: "a conformance suite knows the interface, not who implements it"},
	{folder: "internal/edge/proxy", ours: leaves + "internal/edge internal/orders", why: "a driver knows its own room, the leaves and its engine"},
	{folder: "internal/database/kernelpath", ours: leaves, why: "rules and sockets of the kernel know no database"},
	{folder: "internal/database/kernelpath/spacetest", ours: "", why: "a fixture of tests that change rules of a host"},
	{folder: "internal/database/gate", ours: leaves + "internal/database internal/orders internal/database/kernelpath", why: "a driver knows its own room, the leaves and its engine"},
	{folder: "internal/database/postgres", ours: leaves + "internal/database internal/database/stored internal/keeper internal/pgcontrol", why: "a driver knows its own room, the leaves and its engine"},
	{folder: "internal/database/postgres/pgtest", ours: leaves + "internal/database/postgres internal/database internal/auth internal/keeper", why: "a fixture of the driver's tests"},
	{folder: "internal/database/stored", pure: true, ours: "internal/problem internal/event internal/plan internal/database", why: "a judging room knows the plan and the vocabulary, never the world"},
	{folder: "internal/database/databasetest", ours: leaves + "internal/database", why: "a conformance suite knows the interface, not who implements it"},

	{folder: "internal/cluster", ours: leaves + "internal/plan", why: "hosts agree on typed keys and bytes: the store knows no room"},
	{folder: "internal/cluster/etcd", ours: leaves + "internal/cluster", why: "a driver knows its own room, the leaves and its engine"},
	{folder: "internal/cluster/memory", ours: leaves + "internal/cluster", why: "a driver knows its own room, the leaves and its engine"},
	{folder: "internal/cluster/members", ours: leaves + "internal/cluster internal/auth", why: "a driver knows its own room, the leaves and its engine"},
	{folder: "internal/cluster/heartbeat", ours: leaves + "internal/cluster internal/auth", why: "a driver knows its own room, the leaves and its engine"},
	{folder: "internal/cluster/clustertest", ours: leaves + "internal/cluster", why: "a conformance suite knows the interface, not who implements it"},

	{folder: "internal/vault", ours: leaves + "internal/plan internal/vault/repo/...", why: "the vault must open with nothing but itself and its key"},
	{folder: "internal/vault/s3store/s3test", ours: leaves + "internal/vault/s3store internal/disktest", why: "a fixture of tests that need an S3 server"},
	{folder: "internal/vault/repo", ours: "internal/vault/store internal/vault/tiers", why: "the repository's format stands on a place for blobs, and knows neither databases nor copies"},
	{folder: "internal/backup", ours: leaves + "internal/plan internal/database internal/database/stored internal/vault/... internal/restore internal/restore/forecast internal/backup/retention internal/pgcontrol", why: "backup streams into the vault, and proves a backup by restoring it; the cluster's say (a lease before a delete) comes in as an interface"},
	{folder: "internal/backup/retention", pure: true, ours: "internal/problem internal/event internal/plan", why: "what may be deleted is judged, not looked up"},
	{folder: "internal/files", ours: leaves + "internal/plan internal/vault", why: "a file set is backed up and restored with the vault alone"},
	{folder: "internal/files/mount", ours: leaves + "internal/files internal/vault", why: "a backup is looked into with the vault alone"},
	{folder: "internal/restore/pgtest", ours: leaves + "internal/restore internal/disktest", why: "a fixture of tests that need a server"},
	{folder: "internal/restore", ours: leaves + "internal/plan internal/database internal/vault/... internal/pgcontrol internal/database/postgres/walscan internal/restore/forecast", why: "a restore works with vault and key alone, when cluster and agent are gone"},

	{folder: "internal/restore/forecast", pure: true, std: true, why: "how long a restore will take is judged from what was measured"},
	{folder: "internal/restore/point", ours: leaves + "internal/files internal/restore internal/vault", why: "a recovery point is files and a database: who restores both knows both, and works with vault and key alone"},

	{folder: "internal/rebuild", ours: leaves + "internal/agent internal/cluster internal/database", why: "what is left after a lost majority is judged from keys and records; who collects it knows the engines"},
	{folder: "internal/agent", ours: leaves + roomsOwn + "internal/cluster", why: "the agent owns order and deadlines; it knows no driver and no engine"},
	{folder: "internal/api", ours: leaves + roomsOwn + "internal/cluster internal/auth internal/agent", why: "a mouth reads what the agent saw and writes requests; it never acts"},
	{folder: "internal/host", ours: leaves + roomsOwn + drivers + "internal/agent internal/rebuild internal/api internal/auth internal/keeper", why: "the assembler knows every driver, but not the command line above it"},
	{folder: "internal/local", ours: leaves + "internal/plan internal/auth internal/api internal/host", why: "all hosts of a plan on one machine: it starts them as real hosts start, and knows no driver"},
	{folder: "internal/cli", ours: "internal/... examples/...", why: "the command line may use everything"},
	{folder: "cmd/holdfast", ours: "internal/cli", why: "main is one call into internal/cli"},

	{folder: "sim", ours: leaves + roomsOwn + "internal/agent internal/cluster internal/cluster/memory internal/database/databasetest internal/service/servicetest", why: "the simulated world runs the real decisions on fakes; a real driver would bring real time and chance"},
	{folder: "lab", ours: "internal/... examples/...", why: "the lab runs the real thing"},
	{folder: "bench/machine", ours: "", why: "a leaf: what benches ask of the machine"},
	{folder: "bench/failover", ours: "bench/machine internal/api internal/local internal/database", why: "a bench drives the program as an operator does, and reads its answers"},
	{folder: "bench/backup", ours: "bench/machine internal/backup internal/restore internal/vault internal/vault/wal internal/pgdata internal/redact", why: "a bench times backup and restore without agents around them, and one core's limits on the same pages"},
	{folder: "bench/listener", ours: "bench/machine internal/database/gate", why: "a bench drives the program as a host does, and gives its listener orders"},
	{folder: "examples/clinic", ours: "", why: "an application knows nothing of Holdfast"},
	{folder: "examples/clinic/demo", ours: "internal/... examples/clinic/...", why: "the demo drives both the application and Holdfast"},
	{folder: ".", why: "the root holds tests of the whole tree and no code"},
}

// fences: each engine belongs to the folders named here, and to nobody else, tests included. Replacing an engine is then
// a change in one folder. A module without a row is a failure: see docs/decisions/0000 on new dependencies.
var fences = []fence{
	{module: "github.com/minio/minio-go", folders: "internal/vault/s3store/..."},
	{module: "github.com/Azure/azure-sdk-for-go", folders: "internal/vault/azstore/..."},
	{module: "github.com/klauspost/compress", folders: "internal/vault/... bench/backup"},
	{module: "github.com/zeebo/blake3", folders: "internal/vault/... bench/backup"},
	{module: "golang.org/x/crypto", folders: "internal/vault/repo/format"}, // scrypt
	{module: "go.etcd.io/etcd", folders: "internal/cluster/etcd"},
	{module: "go.uber.org/zap", folders: "internal/cluster/etcd"},        // etcd's logger
	{module: "google.golang.org/grpc", folders: "internal/cluster/etcd"}, // etcd's transport
	{module: "github.com/hanwen/go-fuse/v2", folders: "internal/files/mount"},
	{module: "github.com/hashicorp/memberlist", folders: "internal/cluster/members"},
	{module: "github.com/jackc", folders: "internal/database/postgres internal/backup internal/restore/... examples/... lab/... bench/..."},
	{module: "golang.org/x/text", folders: "internal/database/postgres"}, // SASLprep of passwords
	{module: "github.com/goccy/go-yaml", folders: "internal/plan"},
	{module: "github.com/spf13", folders: "internal/cli"},
	{module: "golang.org/x/term", folders: "internal/cli"},
	{module: "github.com/mdlayher/netlink", folders: "internal/database/kernelpath"},
	{module: "golang.org/x/sync", folders: "internal/... examples/... lab/..."},
	{module: "golang.org/x/sys", folders: "internal/... lab/..."},

	// What only tests need stays in tests, and in the folders whose names end in "test".
	{module: "github.com/google/go-cmp", tests: true},
	{module: "pgregory.net/rapid", tests: true},
	{module: "go.uber.org/goleak", tests: true},
	{module: "github.com/anishathalye/porcupine", tests: true},
	{module: "github.com/rogpeppe/go-internal", tests: true},
}

// driverFolders may be imported only by whom driverUsers names, and by tests of their own room.
var driverFolders = []string{
	"internal/service/process", "internal/edge/proxy", "internal/database/gate", "internal/database/postgres",
	"internal/cluster/etcd", "internal/cluster/members", "internal/cluster/heartbeat",
}

// driverReaders lie below a driver and only read its engine's files: whoever's row in rooms names them may import them.
const driverReaders = "internal/database/postgres/walscan"

// driverUsers put hosts together from drivers.
const driverUsers = "internal/cli internal/host examples/clinic/demo lab/... bench/listener"

// forbiddenNames name nothing: who looks for a thing would not look there.
var forbiddenNames = []string{"util", "utils", "common", "helper", "helpers", "manager", "base", "misc", "types", "lib", "shared"}

// TestLayout says who may import whom, and what a pure room may not do.
func TestLayout(t *testing.T) {
	tree := readTree(t, ".")
	if n := len(tree); n < 200 {
		t.Fatalf("only %d Go files were read: the walk over the tree is broken, and nothing below would be checked", n)
	}
	for _, b := range layoutBreaches(tree) {
		t.Error(b)
	}
}
