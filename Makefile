# What one does here every day. `make` alone prints it.

GO       ?= go
GOLANGCI ?= $(GO) run github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0

# More flags for go test: make test TESTFLAGS='-v -run TestGet'
TESTFLAGS ?=
# Of all fuzz targets together, in seconds.
FUZZTIME  ?= 60s
# Server programs for test-versions. By default those of the project's tool, if it is there, and the machine's own.
VERSIONS  ?=

# Each module is built with the versions in its own go.mod, as its users get it. go.work is for people and editors.
export GOWORK := off
MODULES := . $(patsubst %/go.mod,%,$(wildcard */go.mod */*/go.mod */*/*/go.mod))
# One external server for all packages, so one at a time.
ONE_AT_A_TIME := $(if $(REDIS_ADDR),-p 1)
# Most tests wait rather than compute. Under the race detector, and in containers, they compute more: half as many at once.
TEST      := $(GO) test -count=1 -timeout 10m -parallel 8 $(ONE_AT_A_TIME) $(TESTFLAGS)
TEST_FEW  := $(subst -parallel 8,-parallel 4,$(TEST))
# What make test runs: not the suites that take minutes and have targets of their own. sim/ledger, which computes for two minutes under the race
# detector, comes second, beside the root, which waits: else it is the last, and alone.
PACKAGES = $$($(GO) list ./... | grep -v '/integration/\(faults\|crash\|converge\|abuse\|containers\|fleet\|express\)' | \
  awk 'NR == 1 || /\/sim\/ledger$$/ { print; next } { rest = rest $$0 "\n" } END { printf "%s", rest }')
# The packages of the library whose tests want a server.
INTEGRATION = $$($(GO) list -f '{{.ImportPath}} {{join .TestImports " "}} {{join .XTestImports " "}}' ./... | sed -n 's|^\([^ ]*\) .*/internal/redistest.*|\1|p; s|^\([^ ]*/internal/redistest\) .*|\1|p' | sort -u)

# Tests of the root whose servers are all of the machine's own program, whatever the backend: clusters and Sentinels.
BINARY_ONLY = $$(awk '/^func Test/ { name = $$2; sub(/\(.*/, "", name); own = other = 0 } \
  /redistest\.Start(Cluster|Sentinel)\(/ { own = 1 } /redistest\.Start\(/ { other = 1 } \
  /^}/ { if (name && own && !other) print name; name = "" }' *_test.go | paste -sd'|')

# Tests of the root that do to a server what each backend does in its own way: end it, stop it, start it again. make test-docker
# leaves the others to the other runs, as a container changes nothing for them and takes a second to start.
ROOT_IN_DOCKER ?= ^($$(awk '/^func Test/ { name = $$2; sub(/\(.*/, "", name); does = 0 } \
  /\.(Kill|Freeze|Thaw|Restart|RestartKeepingData)\(/ { does = 1 } \
  /^}/ { if (name && does && name != "TestTheMainJob") print name; name = "" }' *_test.go | paste -sd'|'))$$

# Of the tests of the proxy's RESP those that depend on the server's version most, and take half a minute: what each command does, and what is
# remembered of what it reads, while Redis is well and in an outage. Without what takes long: the models, and a Redis that hangs.
PROXY_VERSIONS = ^($$(cd $(CURDIR)/cmd/aside/internal/proxy/resp && sed -n 's/^func \(Test[A-Za-z0-9]*\).*/\1/p' hear_test.go hear_before_test.go hear_part_test.go outage_sequences_test.go promises_test.go refusals_test.go ../upstream/table_test.go ../upstream/hearing_test.go | paste -sd'|'))$$

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help check fmt lint test test-unit test-race test-integration test-docker test-versions faults crash converge sqlkills abuse redis-suites express image sim fleet fleet-measure examples fuzz bench cover

help: ## print this
	@sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)/\1|\2/p' $(MAKEFILE_LIST) | awk -F'|' '{ printf "  make %-18s %s\n", $$1, $$2 }'

check: ## before each commit: format, vet, lint, and the tests that need no Redis
	@unformatted=$$(gofmt -s -l .); [ -z "$$unformatted" ] || { echo "not formatted, run make fmt:" $$unformatted; exit 1; }
	@for m in $(MODULES); do (cd $$m && $(GO) vet ./...) || exit 1; done
	@$(MAKE) --no-print-directory lint test-unit
	@$(MAKE) --no-print-directory fleet >/dev/null
	@scripts/check-deploy

test-unit: ## the tests that need no Redis
	@for m in $(MODULES); do (cd $$m && $(GO) test -short $(TESTFLAGS) $$($(GO) list ./... | grep -v /internal/redistest$$)) || exit 1; done

# Without flags it prints a line for each package, what fails, every half minute what is running, and a count at the end.
test: ## all tests but the suites below; finds a Redis server, or installs one
ifneq ($(strip $(TESTFLAGS)),)
	@for m in $(MODULES); do (cd $$m && $(CURDIR)/scripts/with-redis $(TEST) $(PACKAGES)) || exit 1; done
else
	@work=$$(mktemp -d); trap 'rm -rf "$$work"' EXIT; failed=; \
	echo "Building the tests. The first time this compiles all dependencies, for a minute or two."; \
	$(GO) build -o "$$work/report" .ci/report.go; \
	for m in $(MODULES); do \
	  echo "== module $$m"; \
	  (cd $$m && $(CURDIR)/scripts/with-redis $(TEST) -json $(PACKAGES) 2>&1) | "$$work/report" -skips "$$work/counts" || failed=1; \
	done; \
	echo "== all modules"; \
	awk '{ p += $$1; f += $$2; s += $$3 } END { printf "%d passed, %d failed, %d skipped\n", p, f, s }' "$$work/counts"; \
	[ -z "$$failed" ]
endif

test-race: ## all tests of the library, its modules and the commands, under the race detector (LIBRARY_SERVER=path: for those of the library alone)
	@for m in . cmd/aside asideotel asideprom asidesql asidesql/dbtest; do (cd $$m; \
	  if [ $$m = . ] && [ -n "$(LIBRARY_SERVER)" ]; then export REDIS_SERVER=$(LIBRARY_SERVER); fi; \
	  $(CURDIR)/scripts/with-redis $(TEST_FEW) -race $(PACKAGES)) || exit 1; done

test-integration: ## the packages whose tests want a server
	@scripts/with-redis $(TEST) $(INTEGRATION)

test-docker: ## the same with servers in containers, of the root those that end theirs (REDIS_IMAGE, by default redis:7-alpine; ROOT_IN_DOCKER=. for all)
	@cd integration && $(TEST_FEW) -timeout 20m ./containers
	@ASIDE_BACKEND=docker $(TEST_FEW) -timeout 20m -run "$(ROOT_IN_DOCKER)" -skip "^(TestTheMainJob|$(BINARY_ONLY))$$" .
	@ASIDE_BACKEND=docker $(TEST_FEW) -timeout 20m $$(echo "$(INTEGRATION)" | grep -v '/aside$$')
	@cd internal/redistest/docker && $(TEST_FEW) -tags docker ./...

test-versions: ## the same with each of several servers: VERSIONS="path/to/redis-server path/to/valkey-server"
	@versions="$(VERSIONS)"; tool=../shared/tools/redis-versions; \
	if [ -z "$$versions" ] && [ -x $$tool ]; then found=$$($$tool) || { echo "$$tool failed" >&2; exit 1; }; \
	  versions="$$(type -P redis-server || true) $$(awk '{ print $$2 }' <<<"$$found")"; fi; \
	[ -n "$$versions" ] || { echo 'make test-versions: say which: VERSIONS="path/to/redis-server path/to/valkey-server"' >&2; exit 1; }; \
	failed=; for server in $$versions; do \
	  echo "== $$("$$server" --version)"; \
	  export REDIS_ADDR= ASIDE_BACKEND=binary REDIS_SERVER=$$server; \
	  $(TEST) $(INTEGRATION) || failed="$$failed $$server"; \
	  (cd cmd/aside && $(TEST) -run "$(PROXY_VERSIONS)" ./internal/proxy/resp ./internal/proxy/upstream) || failed="$$failed $$server"; \
	done; [ -z "$$failed" ] || { echo "failed with:$$failed" >&2; exit 1; }

faults: ## the fault matrix at full length: what each fault costs, as a table (FAULTS=docs/FAULTS.md)
	@cd integration && ../scripts/with-redis $(GO) test -count=1 -timeout 60m $(TESTFLAGS) ./faults $(if $(QUICK),,-v -full -table $(CURDIR)/$(or $(FAULTS),docs/FAULTS.md))

crash: ## kill -9 a writer, KILLS times (1000), and look for what it was told
	@cd integration && ../scripts/with-redis $(GO) test -count=1 -timeout 60m $(TESTFLAGS) ./crash -kills=$(or $(KILLS),1000)

converge: ## processes that are cut off at random, SCHEDULES times (1000), and must agree in the end
	@cd integration && ../scripts/with-redis $(GO) test -count=1 -timeout 60m $(TESTFLAGS) ./converge -schedules=$(or $(SCHEDULES),1000)

sqlkills: ## kill -9 between COMMIT and Del, KILLS times (500) with each kind of database, and look for what is stale
	@cd asidesql/dbtest && ../../scripts/with-redis $(GO) test -count=1 -timeout 60m $(TESTFLAGS) -v -run '^TestAKillBetweenCommitAndDelLosesNothing$$' . -kills=$(or $(KILLS),500)

abuse: ## treat a running proxy badly for a minute, with 10,000 idle connections (FOR=60s IDLE=10000)
	@cd integration && ../scripts/with-redis $(GO) test -count=1 -timeout 60m $(TESTFLAGS) ./abuse -v -for=$(or $(FOR),60s) -idle=$(or $(IDLE),10000)

express: ## an Express application behind the proxy, unchanged, while Redis is killed (FOR=60s; needs node and npm)
	@cd integration && ../scripts/with-redis $(GO) test -count=1 -timeout 60m $(TESTFLAGS) ./express -v -for=$(or $(FOR),60s)

redis-suites: ## Redis's own tests through the proxy, compared with a Redis (COLLECTIONS=on: with service.outage_collections; REDIS_SOURCE=DIR, else downloaded; SUITES="unit/expire")
	@COLLECTIONS=$(COLLECTIONS) scripts/redis-suites $(SUITES)

image: ## build the image and try it (needs a Docker engine)
	@scripts/try-image

sim: ## simulate the replay rule and simpler ones, and operations that are done once, TRIALS times (1000000 and 200000), as tables
	@$(GO) run ./internal/sim/cmd/sim -trials $(or $(TRIALS),1000000)
	@$(GO) run ./internal/sim/cmd/ledger -trials $(or $(TRIALS),200000)

fleet: ## simulate many processes on one Redis from measured costs, PROCESSES of them (10000), as tables
	@$(GO) run ./internal/fleet/cmd/fleet -n $(or $(PROCESSES),10000)

fleet-measure: ## measure what 10, 100 and 1,000 clients cost a Redis; writes docs/SCALING.md and internal/fleet/measured.json
	@cd integration && ../scripts/with-redis $(GO) test -count=1 -timeout 20m $(TESTFLAGS) ./fleet $(if $(QUICK),,-v -full -table $(CURDIR)/docs/SCALING.md -units $(CURDIR)/internal/fleet/measured.json)
	@$(if $(QUICK),,$(GO) run ./internal/fleet/cmd/fleet -table docs/SCALING.md)

examples: ## the tests of the examples, which run each of them
	@for m in examples examples/*/go.mod; do (cd $${m%/go.mod} && $(CURDIR)/scripts/with-redis $(TEST) ./...) || exit 1; done

fuzz: ## all fuzz targets, FUZZTIME in total (FUZZTIME=60s)
	@scripts/fuzz $(FUZZTIME) . cmd/aside

bench: ## the benchmarks, compared with other libraries
	@benchmarks/run.sh

cover: ## which statements the tests of the library reach
	@scripts/with-redis $(TEST) -coverprofile=coverage.out -coverpkg=./... ./...
	@$(GO) tool cover -func=coverage.out | tail -1
	@echo "$(GO) tool cover -html=coverage.out shows where"

lint: ## golangci-lint, as .golangci.yml says (the first time it is built, which takes about two minutes)
	@scripts/import-lists
	@for m in $(MODULES); do (cd $$m && $(GOLANGCI) run) || exit 1; done

fmt: ## format the code and group its imports
	@for m in $(MODULES); do (cd $$m && $(GOLANGCI) fmt) || exit 1; done
