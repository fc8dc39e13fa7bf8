#!/usr/bin/env bash
# Measures what the proxy adds to each kind of command, and prints a table. Needs redis-server.
#
#   benchmarks/latency.sh [N] [--write]
#
# N         commands of each kind, to Redis and to the proxy each; 20000 unless told
# --write   also writes the table into docs/PROXY.md
#
# One client with one connection waits for each answer, in turns from Redis and from the proxy. Nothing else should run
# meanwhile: server, proxy and client share the machine.
set -euo pipefail
cd "$(dirname "$0")/.."
n=20000 write=no
for arg; do
  case $arg in
  --write) write=yes ;;
  *[!0-9]* | '') echo "usage: $0 [N] [--write]" >&2; exit 2 ;;
  *) n=$arg ;;
  esac
done

work=$(mktemp -d)
pids=()
clean() {
  for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done
  wait
  rm -rf "$work"
}
trap clean EXIT
export GOWORK=off
go build -C cmd/aside -o "$work/aside" .
go build -C benchmarks -o "$work/latency" ./cmd/latency
redis-server --unixsocket "$work/s" --port 29960 --bind 127.0.0.1 --save '' --appendonly no --dir "$work" >"$work/redis.log" & pids+=($!)
# Ours, and not one that has the port already: its socket is ours.
for _ in $(seq 50); do redis-cli -s "$work/s" PING >/dev/null 2>&1 && break; sleep 0.1; done
redis-cli -s "$work/s" PING >/dev/null || { cat "$work/redis.log" >&2; exit 1; }
HOME=$work/home "$work/aside" serve --port 29961 --resp-port 29962 --redis redis://127.0.0.1:29960 >"$work/aside.log" 2>&1 & pids+=($!)
for _ in $(seq 100); do
  kill -0 "${pids[-1]}" 2>/dev/null || { cat "$work/aside.log" >&2; exit 1; }
  redis-cli -p 29962 PING 2>/dev/null | grep -q PONG && break
  sleep 0.1
done

"$work/latency" -redis 127.0.0.1:29960 -proxy 127.0.0.1:29962 -n "$n" >"$work/rows"
{
  echo "Measured on $(date -u +%Y-%m-%d) by \`benchmarks/latency.sh $n\`: one client (go-redis) with one connection, $n commands of each kind; $(nproc) cores of an $(awk -F': ' '/^model name/ { print $2; exit }' /proc/cpuinfo) that server, proxy and client share; $(redis-server --version | sed 's/.*v=\([^ ]*\).*/Redis \1/'), $(go env GOVERSION | sed 's/go/Go /')."
  echo
  cat "$work/rows"
} | tee "$work/table"
if [ $write = yes ]; then
  awk -v table="$work/table" '
    /^<!-- latency: / { print; print ""; while ((getline line < table) > 0) print line; print ""; skip = 1; next }
    /^<!-- end of latency -->/ { skip = 0 }
    !skip' docs/PROXY.md >"$work/doc" && cat "$work/doc" >docs/PROXY.md
fi
