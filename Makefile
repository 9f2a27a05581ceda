# `make` alone lists the targets: one sentence each, after the two hashes.
.DEFAULT_GOAL := help
SHELL         := /bin/bash
.SHELLFLAGS   := -eu -o pipefail -c
.ONESHELL:

VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
LDFLAGS := -X holdfast/internal/cli.version=$(VERSION)
# Packages that test at the same time. Several start real PostgreSQL servers, so more of them only starve each other.
P       ?= 2
SEEDS   ?= 5000
FROM    ?= 1
HOURS   ?= 0
FUZZTIME ?= 30s
ROUNDS  ?= 5
MB      ?= 1200
N       ?= 1
POINTS  ?= 0
# They begin first, so that the others are done beside them: begun in the order of names, the last one ran alone for minutes.
LONGEST := ./lab ./sim ./internal/vault ./internal/backup ./internal/database/postgres ./internal/restore ./internal/vault/repo/upkeep ./internal/vault/repo
# The race detector makes scrypt, which a vault's key is derived with at each opening, ten times as slow (seconds each);
# it is one goroutine's arithmetic on its own memory, so it is left out. So is zstd, which took a fourth of the time of some tests:
# it works for the goroutine that calls it, which tells the detector itself what is read (internal/vault/repo/compression).
RACE    := -race -gcflags=golang.org/x/crypto/scrypt=-race=false -gcflags=github.com/klauspost/compress/...=-race=false

.PHONY: help
help: ## Lists the targets (this).
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-14s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

.PHONY: setup
setup: ## Installs what is missing on this machine: PostgreSQL 15 and 18, a C compiler, ip and nft; nothing when all is there.
	@scripts/setup

.PHONY: setup-demo
setup-demo: # without what only tests need
	@scripts/setup --demo

.PHONY: build
build: ## Builds bin/holdfast, and the example application as the release that its plan names.
	@go build -trimpath -ldflags '$(LDFLAGS)' -o bin/ ./cmd/holdfast ./examples/clinic/cmd/clinic
	install -D bin/clinic examples/clinic/build/bin/clinic

.PHONY: demo
demo: setup-demo build ## Runs the example on three hosts of this machine, breaks it, restores it, measures; KEEP=1 leaves it running.
	@go build -trimpath -o bin/clinic-demo ./examples/clinic/demo
	exec bin/clinic-demo -holdfast bin/holdfast $(if $(filter-out 0 no,$(KEEP)),-keep)

.PHONY: test
test: setup ## Runs every test, with the race detector and real servers; nothing is left out for want of a program.
	@CI=true go test $(RACE) -vet=off -shuffle=on -p $(P) -timeout 25m $(LONGEST) ./... # to vet is for lint

.PHONY: test-newest
test-newest: setup ## Runs what touches real servers on PostgreSQL 18 too: the driver, backup, restore, and a world that fails over.
	@export CI=true HOLDFAST_TEST_POSTGRES=18
	go test -vet=off -count=1 -timeout 10m ./lab -run '^TestAWorldSurvives' & world=$$! # it waits more than it works
	failed=0
	go test -vet=off -count=1 -p $(P) -timeout 25m ./internal/database/postgres ./internal/backup ./internal/restore || failed=1
	wait $$world || failed=1
	exit $$failed

.PHONY: race
race: setup ## Runs the tests of one room over and over under the race detector: make race ROOM=./internal/edge/...
	@test -n "$(ROOM)" || { echo "say which: make race ROOM=./internal/edge/..." >&2; exit 2; }
	CI=true go test $(RACE) -shuffle=on -count=10 -timeout 30m $(ROOM)

.PHONY: sim
sim: ## Runs the simulator on thousands of seeds (SEEDS=5000, FROM=1), or for HOURS= of simulated time (it says each minute how far it is; OUT= is a file for it); prints each seed that fails, and how to repeat it.
	@git log -1 --format='the simulator on %h, %s'; \
	 GOGC=2500 go test ./sim -run '^TestSeeds$$' -count=1 -v -timeout 48h -args -sim.seeds=$(SEEDS) -sim.from=$(FROM) -sim.hours=$(HOURS) -sim.out=$(OUT)

.PHONY: lab
lab: setup ## Breaks whole plans of real processes and counts what was lost; SCENARIO=power-off N=50 repeats one. Root.
	@CI=true HOLDFAST_LAB=all go test ./lab $(if $(SCENARIO),,./internal/files ./internal/backup ./internal/restore ./internal/vault/...) -count=1 -v -timeout 12h $(if $(SCENARIO),-run TestScenarios -args -lab.scenario=$(SCENARIO) -lab.n=$(N) -lab.points=$(POINTS))

.PHONY: fuzz
fuzz: ## Fuzzes every target there is, FUZZTIME=30s each.
	@scripts/fuzz $(FUZZTIME)

.PHONY: lint
lint: ## Checks formatting, modules, vet, who imports whom (layout_test.go), and staticcheck.
	@scripts/lint

.PHONY: docs
docs: ## Checks that links and told commands exist, and that every problem has its part of the handbook.
	@go test -count=1 -run 'Link|Problem|Command' .

.PHONY: bench
bench: ## Runs the benchmarks; read ratios from one run, not figures from two.
	@go test -run '^$$' -bench . -benchmem -p 1 ./...

.PHONY: bench-failover
bench-failover: setup build ## Times crash, dead hosts and switchover as a client sees them, Patroni's too where it is; status 1 when a row is lost or a target missed.
	@go build -trimpath -o bin/bench-failover ./bench/failover
	exec bin/bench-failover -holdfast bin/holdfast -rounds $(ROUNDS)

.PHONY: bench-backup
bench-backup: build ## Times backups and restores, those of pgBackRest and others too where they are, starts and compares every copy; status 1 when one differs or a target is missed.
	@scripts/setup --bench || echo "goes on without what could not be installed"
	go build -trimpath -o bin/bench-backup ./bench/backup
	exec bin/bench-backup -rounds $(ROUNDS) -mb $(MB)

.PHONY: bench-listener
bench-listener: ROUNDS = 30
bench-listener: build ## Times pgbench directly, through the listener and through HAProxy where it is; status 1 when a target is missed.
	@scripts/setup --bench || echo "goes on without what could not be installed"
	go build -trimpath -o bin/bench-listener ./bench/listener
	exec bin/bench-listener -holdfast bin/holdfast -rounds $(ROUNDS)

.PHONY: bench-forecast
bench-forecast: setup ## Restores at another site until five forecasts were made on a steady machine; status 1 when one was off by more than a quarter, or fewer were made.
	@CI=true HOLDFAST_LAB=all go test ./lab -count=1 -v -timeout 1h -run '^TestADrillAtAnotherSiteKnowsItsTimeBefore$$' -args -lab.timed

.PHONY: ci
ci: ## Does what the project's CI does: setup, lint, test.
	@.ci/run

.PHONY: clean
clean: ## Removes what was built. Data of `make demo` or `holdfast up` is not touched.
	@rm -rf bin examples/clinic/build
