# Everything a person runs. Each target installs what it needs (Debian packages, Go tools) and caches what is expensive in $WEFT_CACHE.
SHELL := /bin/bash
.DEFAULT_GOAL := help
WEFT_CACHE ?= $(if $(XDG_CACHE_HOME),$(XDG_CACHE_HOME),$(HOME)/.cache)/weft
export WEFT_CACHE
# Compiled dependencies survive a fresh clone; one directory for each compiler.
export CARGO_TARGET_DIR ?= $(WEFT_CACHE)/target-$(shell rustc --version | cut -d' ' -f2)
export PATH := $(WEFT_CACHE)/bin:$(PATH)

.PHONY: help demo test lint unit mesh images cluster cluster-down conformance-mesh bench bench-small deps deps-capture

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 20

deps:
	@tests/tools/deps.sh build

deps-capture:
	@tests/tools/deps.sh capture

demo: deps $(if $(findstring --capture,$(ARGS)),deps-capture) ## the mesh on this machine, no cluster: ARGS='--duration 20s --json', ARGS=--capture (as root)
	@cargo build --locked --profile quick -p weft-cli -p weft-proxy -p weft-controller -p weft-ca -p weft-init
	@"$(CARGO_TARGET_DIR)/quick/weft" demo $(ARGS)

images: ## the container images as OCI archives, without a container engine: PROFILE=release, REGISTRY=..., TAG=...
	@tests/tools/deps.sh build images
	@images/build.sh

cluster: ## a real Kubernetes on one node in namespaces of its own, with Weft and the shop (root): ARGS='--set log.level=debug' goes to helm
	@tests/tools/deps.sh build chart images cluster
	@tests/cluster/cluster all $(ARGS)

cluster-down: ## end it; nothing is left behind
	@tests/cluster/cluster down

conformance-mesh: ## every mesh test of the official Gateway API suite on a cluster of its own (root): ARGS='--run MeshPorts'
	@tests/tools/deps.sh build chart images cluster conformance
	@tests/conformance/mesh.py $(ARGS)

test: ## everything that must hold: lints, unit, property, simulation, mesh, namespace and cluster tests, the official suite
	@tests/tools/deps.sh build test chart images cluster conformance
	@tests/tools/test.sh

lint: deps ## format, clippy with warnings denied, licences and bans
	@tests/tools/test.sh lint

bench: ## Weft beside nginx, HAProxy, Envoy and the layer-4 floor in one run (root, two cores)
	@tests/tools/deps.sh build
	@tests/bench/run.sh $(ARGS)

bench-small: ## instructions and allocations per request (callgrind), route-table match time
	@tests/tools/deps.sh build
	@tests/bench/small.sh $(ARGS)
