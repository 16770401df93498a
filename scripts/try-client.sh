#!/usr/bin/env bash
# Tries a real client against isoproxy and a fake API on this machine: no account, no request leaves it.
#
#   scripts/try-client.sh claude   Claude Code, claude -p
#   scripts/try-client.sh codex    Codex, codex exec
#
# The client is installed from npm into a temporary directory; CLIENT=/path/to/it uses a copy that is there.
# ISOPROXY_BIN names the binary (default dist/isoproxy, from `make build`).
# Exit 0: the answer came through, and the fake API saw the injected key and nothing else. 1: it did not.
set -euo pipefail
umask 077
cd "$(dirname "$0")/.."

say() { printf '\n== %s\n' "$*"; }
fail() { printf 'FAILED: %s\n' "$*" >&2; exit 1; }
random() { od -An -N24 -tx1 /dev/urandom | tr -d ' \n'; }

# The pinned Bun runs the fake API, as in the Makefile.
bun=$(ls node_modules/@oven/*/bin/bun 2>/dev/null | head -n 1) || true
isoproxy=$(realpath "${ISOPROXY_BIN:-dist/isoproxy}")
if [ ! -x "$bun" ] || [ ! -x "$isoproxy" ]; then fail "no bun or no $isoproxy: run make build first"; fi
work=$(mktemp -d)
pids=()

cleanup() {
  for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done
  for pid in "${pids[@]}"; do wait "$pid" 2>/dev/null || true; done
  rm -rf "$work"
}
trap cleanup EXIT
trap 'exit 130' INT TERM

# Waits up to 10 s until the file holds the text.
wait_for() {
  for _ in $(seq 200); do grep -q -- "$2" "$1" 2>/dev/null && return; sleep 0.05; done
  cat "$1" >&2; fail "no $2 in $(basename "$1")"
}

case "${1:-}" in
  claude)
    package=@anthropic-ai/claude-code
    # Its install script only links the binary of this platform, which is used directly instead.
    binary='claude-code-*/claude' provider=anthropic key_prefix=sk-ant-api03- endpoint=/v1/messages
    sent='"x_api_key_sha256":"%s","bearer_sha256":null'
    ;;
  codex)
    package=@openai/codex
    binary='../.bin/codex' provider=openai key_prefix=sk-proj- endpoint=/v1/responses
    sent='"x_api_key_sha256":null,"bearer_sha256":"%s"'
    ;;
  *)
    echo "usage: scripts/try-client.sh claude|codex" >&2
    exit 64
    ;;
esac

if [ -z "${CLIENT:-}" ]; then
  say "installing $package"
  npm install --prefix "$work/install" --ignore-scripts --no-audit --no-fund --loglevel=error "$package"
  # shellcheck disable=SC2086 # the pattern is meant to be expanded
  CLIENT=$(ls "$work/install/node_modules/${package%/*}"/$binary | head -n 1)
fi

key="$key_prefix$(random)"
token="sandbox-token-$(random)"
answer="hello from the fake API, $(random)"
printf %s "$key" >"$work/api.key"
printf %s "$token" >"$work/listener.token"
fingerprint=$(printf %s "$key" | sha256sum | cut -c 1-16)

"$bun" scripts/fake-api.ts "$answer" >"$work/upstream.log" 2>&1 &
pids+=($!)
wait_for "$work/upstream.log" '"port"'
upstream_port=$(sed -n 's/.*"port":\([0-9]*\).*/\1/p' "$work/upstream.log")
proxy_port=$("$bun" -e 'const s = Bun.serve({ port: 0, hostname: "127.0.0.1", fetch: () => new Response() }); console.log(s.port); s.stop()')

cat >"$work/proxy.toml" <<END
[server]
runtime_dir = "$work/run"
state_dir = "$work/state"

[[listeners]]
name = "client"
tcp = "127.0.0.1:$proxy_port"      # these clients cannot use a unix socket by themselves
token = { file = "$work/listener.token" }

[providers.$provider]
preset = "$provider"
base_url = "http://127.0.0.1:$upstream_port"
unsafe_allow_http = true           # the fake API is on loopback
credential = { file = "$work/api.key" }
END
"$isoproxy" serve --config "$work/proxy.toml" 2>"$work/isoproxy.log" &
pids+=($!)
# The token stays off the command line, where every local process could read it.
printf 'header = "x-api-key: %s"\n' "$token" >"$work/curl"
for _ in $(seq 200); do
  curl -sf --noproxy '*' -K "$work/curl" "http://127.0.0.1:$proxy_port/healthz" >"$work/health" 2>/dev/null && break
  sleep 0.05
done
grep -q ok "$work/health" || { cat "$work/isoproxy.log" >&2; fail "isoproxy does not answer"; }

mkdir "$work/home" "$work/project"
say "$("$CLIENT" --version)"
# What isoproxy lists for the preset in /.well-known/isoproxy, with the listener's token in place of a key.
base="http://127.0.0.1:$proxy_port/$provider"
clean=(env -i PATH="$PATH" HOME="$work/home" LANG=C.UTF-8)
if [ "$1" = claude ]; then
  call=("${clean[@]}" ANTHROPIC_BASE_URL="$base" ANTHROPIC_API_KEY="$token" CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC=1
    timeout 120 "$CLIENT" -p 'say hello')
else
  settings="{name=\"isoproxy\",base_url=\"$base/v1\",env_key=\"OPENAI_API_KEY\",wire_api=\"responses\"}"
  call=("${clean[@]}" OPENAI_API_KEY="$token" timeout 120 "$CLIENT"
    -c 'model_provider="isoproxy"' -c "model_providers.isoproxy=$settings"
    exec --skip-git-repo-check --sandbox read-only 'say hello')
fi
status=0
(cd "$work/project" && "${call[@]}" </dev/null) >"$work/answer" 2>"$work/client.err" || status=$?
cat "$work/answer"
sed 's/^/  stderr: /' "$work/client.err" >&2

sleep 0.2 # access records are written off the request path
say "access records"
grep '"decision"' "$work/isoproxy.log" || true
say "what the fake API received (credential as SHA-256, 16 digits; the injected key is $fingerprint)"
grep '"method"' "$work/upstream.log" || true

say "verdict"
[ "$status" = 0 ] || fail "the client ended with $status"
grep -qF "$answer" "$work/answer" || fail "the answer did not come through"
# shellcheck disable=SC2059 # the format is one of the two above
expected=$(printf "$sent" "$fingerprint")
grep "\"POST\",\"target\":\"$endpoint" "$work/upstream.log" | grep -qF "$expected" || fail "the fake API did not see the injected key"
if grep '"method"' "$work/upstream.log" | grep -vqF "$expected"; then
  fail "a request reached the fake API with another credential"
fi
if grep -rqF "$key" "$work/home" "$work/project" "$work/answer" "$work/client.err" "$work/isoproxy.log"; then
  fail "the key crossed to the client side"
fi
echo "the answer came through; the fake API saw the injected key and no other credential; the client saw no key"
