# isoproxy. `make help` lists the doors. Needs either node with npm, or bun; nothing else is installed globally.

PREFIX  ?= /usr/local
DESTDIR ?=

# The pinned Bun comes with the dependencies; npm and bun both put the build for this platform here.
BUN  = $(firstword $(wildcard node_modules/@oven/*/bin/bun))
DEPS = node_modules/.installed
BIN  = dist/isoproxy

SOURCES = $(shell find src -name '*.ts') package.json scripts/compile.ts

.PHONY: help demo build test test-all check fmt e2e-claude e2e-codex fuzz soak bench release release-check install clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' Makefile

demo: build ## build, then show the main job on an embedded upstream; no account needed
	@$(BIN) demo

build: $(BIN) ## build dist/isoproxy for this machine

test: build check ## install, build, lint, type-check, every test but the long ones (under 5 minutes)
	@$(BUN) scripts/test.ts test

test-all: build check ## the same, and the long ones: 1 GiB bodies, thousands of streams
	@$(BUN) scripts/test.ts test test-long

check: $(DEPS) ## lint, formatting and types
	@$(BUN) node_modules/.bin/biome check --error-on-warnings .
	@$(BUN) node_modules/.bin/tsc --noEmit -p .

fmt: $(DEPS) ## format the source and apply safe lint fixes
	@$(BUN) node_modules/.bin/biome check --write .

e2e-claude: build ## Claude Code (npm, or CLIENT=/path) in bubblewrap against a local upstream; needs tmux
	@$(BUN) scripts/e2e.ts claude

e2e-codex: build ## the same with Codex
	@$(BUN) scripts/e2e.ts codex

fuzz: ## long fuzzing (not built yet)
	@echo "make fuzz: not built yet; short seeded fuzzing is part of make test" >&2; exit 1

soak: ## long soak (not built yet)
	@echo "make soak: not built yet" >&2; exit 1

bench: build ## the bridge beside socat: throughput, latency, memory (about two minutes)
	@$(BUN) bench/bridge.ts

release: $(DEPS) ## binaries for every platform and SHA256SUMS in dist/release
	@$(BUN) scripts/release.ts

release-check: $(DEPS) ## build the release twice and compare it bit for bit
	@$(BUN) scripts/release.ts --twice

install: build ## install the binary to $(PREFIX)/bin
	install -d $(DESTDIR)$(PREFIX)/bin
	install -m 0755 $(BIN) $(DESTDIR)$(PREFIX)/bin/isoproxy

clean: ## remove what was built (keeps node_modules)
	rm -rf dist

$(DEPS): package.json package-lock.json
	@if command -v npm >/dev/null 2>&1; then \
	  npm ci --ignore-scripts --no-audit --no-fund --loglevel=error; \
	elif command -v bun >/dev/null 2>&1; then \
	  bun install --frozen-lockfile --ignore-scripts; \
	else \
	  echo "isoproxy needs npm (with node) or bun to install its dependencies" >&2; exit 1; \
	fi
	@touch $@

$(BIN): $(DEPS) $(SOURCES)
	@mkdir -p dist
	@$(BUN) scripts/build.ts
