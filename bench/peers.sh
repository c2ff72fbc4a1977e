#!/usr/bin/env bash
# Installs the servers that bench compares the launcher with, where the registries offer them.
#
#   bench/peers.sh [nginx|node|python|javascript|wasmtime]...     default: all
#
# nginx comes by apt (as root), pm2 by npm, gunicorn, uvicorn and granian by pip, wasmtime's command line by cargo, which
# compiles for many minutes. `javascript` is no peer but a component by componentize-js (npm), whose start is measured.
# Everything but nginx goes below bench/peers and into git's ignored files. What cannot be installed is said, and the rest
# goes on: bench says what is missing, too.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/peers"

failed=()
step() {
  local name=$1
  shift
  printf '==== %s\n' "$name"
  "$@" || failed+=("$name")
}

nginx_by_apt() {
  command -v nginx >/dev/null && return
  apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends nginx-light || return
  # Debian starts it; the bench starts one of its own.
  service nginx stop >/dev/null 2>&1 || true
}

node_by_npm() {
  command -v npm >/dev/null || { echo "there is no npm: install Node" >&2; return 1; }
  npm install --no-audit --no-fund
}

python_by_pip() {
  command -v python3 >/dev/null || { echo "there is no python3" >&2; return 1; }
  python3 -m venv .venv && .venv/bin/pip install --quiet --upgrade gunicorn uvicorn uvicorn-worker granian
}

# No install scripts: their downloads would come from elsewhere.
javascript_by_npm() {
  command -v npm >/dev/null || { echo "there is no npm: install Node" >&2; return 1; }
  (cd javascript && npm install --no-audit --no-fund --ignore-scripts && node componentize.mjs)
}

wasmtime_by_cargo() {
  [ -x bin/wasmtime ] || cargo install --locked --root . --version '^48' wasmtime-cli
}

[ $# -gt 0 ] || set -- nginx node python javascript wasmtime
for peer in "$@"; do
  case $peer in
    nginx) step nginx nginx_by_apt ;;
    node) step node node_by_npm ;;
    python) step python python_by_pip ;;
    javascript) step javascript javascript_by_npm ;;
    wasmtime) step wasmtime wasmtime_by_cargo ;;
    *) echo "peers: there is no $peer: nginx, node, python, javascript, wasmtime" >&2; exit 2 ;;
  esac
done
[ ${#failed[@]} = 0 ] || { echo "peers: not installed: ${failed[*]}" >&2; exit 1; }
