# isoproxy. `make help` lists the doors. Needs either node with npm, or bun; nothing else is installed globally.

PREFIX  ?= /usr/local
DESTDIR ?=
# Where zsh looks for completions: Debian's packages take another directory.
ZSHDIR  ?= $(PREFIX)/share/zsh/site-functions

# The pinned Bun comes with the dependencies; npm and bun both put the build for this platform here.
BUN  = $(firstword $(wildcard node_modules/@oven/*/bin/bun))
DEPS = node_modules/.installed
BIN  = dist/isoproxy

SOURCES = $(shell find src -name '*.ts') package.json scripts/compile.ts

.PHONY: help demo build test test-all check fmt e2e-claude e2e-codex fuzz soak bench bench-bridge bench-reflection bench-hold bench-alternatives release release-check man deb rpm package-check install install-files uninstall clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-18s %s\n", $$1, $$2 }' Makefile

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

fuzz: build ## long seeded fuzzing, ten minutes and a table (FUZZ_SECONDS, FUZZ_CASES, FUZZ_SEED)
	@$(BUN) scripts/fuzz.ts

soak: build ## a day's requests in 18 minutes: does anything grow, fail or go missing? (SOAK_MINUTES, SOAK_REQUESTS)
	@$(BUN) bench/soak.ts

bench: build ## isoproxy beside every peer that is here: speed, memory, curves (under 15 minutes; BENCH_QUICK=1: 2)
	@$(BUN) bench/main.ts

bench-bridge: build ## the bridge beside socat: throughput, latency, memory (about two minutes)
	@$(BUN) bench/bridge.ts

bench-reflection: build ## what the reflection guard costs: delay of an event, and 1 GiB (a minute)
	@$(BUN) bench/reflection.ts

bench-hold: build ## up to 10,000 event streams held for ten minutes, requests beside them (HOLD_STREAMS, HOLD_SECONDS)
	@$(BUN) bench/hold.ts

bench-alternatives: build ## fetch beside Bun's other doors: speed, fidelity, security (three minutes; docs/alternatives.md)
	@$(BUN) bench/alternatives.ts

release: $(DEPS) ## binaries for every platform, their bill of materials and SHA256SUMS in dist/release
	@$(BUN) scripts/release.ts

release-check: $(DEPS) ## build the release twice and compare it bit for bit
	@$(BUN) scripts/release.ts --twice

man: $(DEPS) ## the man page, dist/isoproxy.1, from the usage texts
	@mkdir -p dist
	@$(BUN) scripts/man.ts > dist/isoproxy.1

deb: build ## dist/packages/*.deb from dist/isoproxy; needs dpkg-deb
	@$(BUN) scripts/package.ts deb

rpm: build ## dist/packages/*.rpm from dist/isoproxy; needs rpmbuild
	@$(BUN) scripts/package.ts rpm

package-check: build ## build both packages twice and compare, unpack them and run what they hold
	@$(BUN) scripts/package-check.ts

# Everything that install puts anywhere, so that uninstall takes the same away.
INSTALLED = bin/isoproxy share/man/man1/isoproxy.1 share/bash-completion/completions/isoproxy \
  share/fish/vendor_completions.d/isoproxy.fish share/doc/isoproxy/README.md share/doc/isoproxy/LICENSE \
  share/doc/isoproxy/CHANGELOG.md share/doc/isoproxy/SECURITY.md share/doc/isoproxy/proxy.toml.example
SYSTEMD = lib/systemd/system/isoproxy.service lib/sysusers.d/isoproxy.conf lib/tmpfiles.d/isoproxy.conf
ON_LINUX = $(filter Linux,$(shell uname -s))

install: build ## binary, man page, completions and, on Linux, unit files to $(DESTDIR)$(PREFIX)
	@$(MAKE) --no-print-directory install-files

install-files:
	install -d $(addprefix $(DESTDIR)$(PREFIX)/,$(sort $(dir $(INSTALLED) $(if $(ON_LINUX),$(SYSTEMD))))) $(DESTDIR)$(ZSHDIR)
	install -m 0755 $(BIN) $(DESTDIR)$(PREFIX)/bin/isoproxy
	$(BUN) scripts/man.ts > $(DESTDIR)$(PREFIX)/share/man/man1/isoproxy.1
	$(BUN) src/main.ts completions bash > $(DESTDIR)$(PREFIX)/share/bash-completion/completions/isoproxy
	$(BUN) src/main.ts completions fish > $(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d/isoproxy.fish
	$(BUN) src/main.ts completions zsh > $(DESTDIR)$(ZSHDIR)/_isoproxy
	install -m 0644 README.md LICENSE CHANGELOG.md SECURITY.md proxy.toml.example $(DESTDIR)$(PREFIX)/share/doc/isoproxy
ifneq ($(ON_LINUX),)
	sed 's|/usr/local/bin/|$(PREFIX)/bin/|' packaging/isoproxy.service > $(DESTDIR)$(PREFIX)/lib/systemd/system/isoproxy.service
	install -m 0644 packaging/isoproxy.sysusers.conf $(DESTDIR)$(PREFIX)/lib/sysusers.d/isoproxy.conf
	install -m 0644 packaging/isoproxy.tmpfiles.conf $(DESTDIR)$(PREFIX)/lib/tmpfiles.d/isoproxy.conf
endif
	@cd $(DESTDIR)$(PREFIX) && chmod 0644 $(filter-out bin/%,$(INSTALLED)) $(if $(ON_LINUX),$(SYSTEMD))
	@chmod 0644 $(DESTDIR)$(ZSHDIR)/_isoproxy

uninstall: ## remove what install put to $(DESTDIR)$(PREFIX); configuration and secrets stay
	rm -f $(addprefix $(DESTDIR)$(PREFIX)/,$(INSTALLED) $(if $(ON_LINUX),$(SYSTEMD))) $(DESTDIR)$(ZSHDIR)/_isoproxy
	rmdir $(DESTDIR)$(PREFIX)/share/doc/isoproxy 2>/dev/null || true

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
