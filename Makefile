# Every target is one line of help and a call; the logic lives in Go or in scripts/.
SHELL := /bin/bash
GO ?= go
BIN := $(CURDIR)/bin
MODULES := proto pkg services gateway
ARGS ?=
RUN ?=
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
LDFLAGS := -s -w -X github.com/entrepot-dev/entrepot/services/cmd/entrepot/cli.Version=$(VERSION)
export GOFLAGS := -buildvcs=false

.DEFAULT_GOAL := help
.PHONY: help deps tools proto proto-check fmt lint build demo run test test-race cluster-test e2e bench chaos clean \
	image image-check up down logs compose-test k8s-check upgrade-check

help: ## show this list
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  %-14s %s\n", $$1, $$2}'

deps: ## install what a fresh Debian machine lacks (PostgreSQL), or say what is missing
	@scripts/deps.sh

tools: $(BIN)/.tools ## build buf, staticcheck, gofumpt, versitygw and the protoc plugins into bin/

$(BIN)/.tools: deploy/tools/go.mod deploy/tools/go.sum proto/go.mod proto/go.sum
	GOWORK=off $(GO) -C deploy/tools build -o $(BIN)/ tool
	GOWORK=off $(GO) -C proto build -o $(BIN)/ tool
	@touch $@

proto: tools ## generate Go, REST and OpenAPI from proto/ (committed)
	PATH="$(BIN):$$PATH" buf generate

proto-check: tools ## lint the protos and fail if generated code is not what is committed
	PATH="$(BIN):$$PATH" buf lint
	@scripts/proto-check.sh

fmt: tools ## format Go and proto files
	$(BIN)/gofumpt -w $$(git ls-files '*.go' | grep -vE '\.pb(\.gw)?\.go$$')
	PATH="$(BIN):$$PATH" buf format -w --path proto/entrepot

lint: tools ## vet, staticcheck, gofumpt, go.mod checks
	@scripts/lint.sh

build: ## build bin/entrepot
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o $(BIN)/entrepot ./services/cmd/entrepot

demo: deps build ## run the whole platform and its main job; stays up (ARGS=--exit ends)
	$(BIN)/entrepot demo $(ARGS)

run: deps build ## serve on this machine for development (ARGS='--dev …')
	$(BIN)/entrepot serve $(ARGS)

test: deps ## every test, against a real PostgreSQL, JetStream and S3 server
	@scripts/test.sh $(RUN)

test-race: deps ## the same under the race detector
	@RACE=1 scripts/test.sh $(RUN)

rights-check: deps ## turn round each entry of the role table: the table of rights must notice every one
	@go build -o $(BIN)/testpg ./pkg/pg/pgtest/cmd/testpg && $(BIN)/testpg go test -count=1 -timeout 60m -tags mutate -run TestMutations ./services/cmd/entrepot/internal/apitest

cluster-test: deps build ## one process per target on this machine: faults, health, shutdown (ARGS='-only shutdown')
	@scripts/cluster-test.sh $(ARGS)

e2e: deps build ## install packages with real clients (py-rattler, py-rattler-build, curl); ARGS='conda:' solves and indexes only
	@scripts/e2e.sh $(ARGS)

image: ## build the container image without an engine: dist/entrepot-image.tar, dist/entrepot-oci
	@VERSION='$(VERSION)' LDFLAGS='$(LDFLAGS)' scripts/image.sh

image-check: ## build it twice and compare every byte; test its builder
	GOWORK=off $(GO) -C deploy/tools test ./image
	@VERSION='$(VERSION)' LDFLAGS='$(LDFLAGS)' scripts/image.sh check

up: ## start the platform in containers, one per target (ARGS='--scale sync-worker=3')
	@VERSION='$(VERSION)' LDFLAGS='$(LDFLAGS)' scripts/compose.sh up $(ARGS)

down: ## stop the containers; the data stays (ARGS=--volumes deletes it)
	@scripts/compose.sh down $(ARGS)

logs: ## what the containers say (ARGS='-f gateway')
	@scripts/compose.sh logs $(ARGS)

compose-test: ## mirror through the containers, scale, kill a worker mid-job, stop and start (needs an engine)
	@VERSION='$(VERSION)' LDFLAGS='$(LDFLAGS)' scripts/compose.sh test

k8s-check: ## check deploy/kubernetes against the API's schemas and types, and its own rules (no cluster needed)
	@scripts/k8s-check.sh

upgrade-check: tools deps ## guard the upgrade rule: protos, migrations and job arguments against the last release
	@scripts/upgrade-check.sh

chaos: deps build ## kill, stop and starve a running platform, with and without its guards (ARGS=--quick or --full)
	@scripts/chaos.sh $(ARGS)

bench: deps build ## measure; writes docs/benchmarks.md and docs/benchmarks/*.json
	@scripts/bench.sh $(ARGS)

clean: ## remove what was built
	rm -rf $(BIN) .cache .venv
