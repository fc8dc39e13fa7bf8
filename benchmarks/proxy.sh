#!/usr/bin/env bash
# Measures the proxy against the Redis behind it, and prints a table. Needs redis-server, redis-benchmark and wrk.
#
#   benchmarks/proxy.sh [rounds] [--write]
#
# rounds    how often each is measured, in turns; 6 unless told. Medians are compared.
# --write   also writes the table into docs/PROXY.md
#
# Nothing else should run meanwhile: server, proxy and load generator share the machine.
set -euo pipefail
cd "$(dirname "$0")/.."
rounds=6 write=no
for arg; do
  case $arg in
  --write) write=yes ;;
  *[!0-9]* | '') echo "usage: $0 [rounds] [--write]" >&2; exit 2 ;;
  *) rounds=$arg ;;
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
GOWORK=off go build -C cmd/aside -o "$work/aside" .
redis=29960
redis-server --port $redis --bind 127.0.0.1 --save '' --appendonly no --dir "$work" >/dev/null & pids+=($!)
# Ours, and not one that has the port already.
for _ in $(seq 50); do redis-cli -p $redis INFO server 2>/dev/null | grep -q "^process_id:${pids[0]}"$'\r' && break; sleep 0.1; done
grep -q "^process_id:${pids[0]}"$'\r' <<<"$(redis-cli -p $redis INFO server)" || { echo "port $redis is somebody else's" >&2; exit 1; }
proxy() { # name, HTTP port (RESP one above), flags…
  local name=$1 port=$2
  shift 2
  HOME=$work/home-$name "$work/aside" serve --port "$port" --resp-port $((port + 1)) --redis redis://127.0.0.1:$redis "$@" >"$work/$name.log" 2>&1 & pids+=($!)
  for _ in $(seq 100); do
    kill -0 "${pids[-1]}" 2>/dev/null && curl -fs "http://127.0.0.1:$port/readyz" 2>/dev/null | grep -q healthy && return
    sleep 0.1
  done
  cat "$work/$name.log" >&2
  exit 1
}
resident() { awk '/^VmRSS/ { print $2 * 1024 }' "/proc/$1/status"; }

# Memory first, of a proxy that has done nothing else.
keys=100000
commands() { # of all keys: a verb, and a value or nothing
  awk -v n=$keys -v verb="$1" -v value="${2:-}" 'BEGIN {
    for (i = 0; i < n; i++) {
      printf "*%d\r\n$3\r\n%s\r\n$16\r\nkey:%012d\r\n", value == "" ? 2 : 3, verb, i
      if (value != "") printf "$%d\r\n%s\r\n", length(value), value
    }
  }'
}
proxy memory 29970
memory=${pids[-1]}
empty=$(resident "$memory")
for command in "SET $(printf 'v%.0s' $(seq 200))" GET GET GET; do
  # shellcheck disable=SC2086 # verb and value
  commands $command | redis-cli -p 29971 --pipe >/dev/null
done
full=$(resident "$memory")
counted=$(redis-cli -p 29971 INFO aside | tr -d '\r' | awk -F: '/^aside_memory_bytes/ { print $2 }')
held=$(redis-cli -p 29971 INFO aside | tr -d '\r' | awk -F: '/^aside_memory_entries/ { print $2 }')
[ "$held" = $keys ] || { echo "the proxy holds $held of $keys keys" >&2; exit 1; }
kill "$memory" && wait "$memory" || true

proxy cached 29980
proxy uncached 29990 --cache-capacity 0
curl -fs -X PUT --data-binary "$(printf 'v%.0s' $(seq 200))" http://127.0.0.1:29980/v1/keys/hot
redis-cli -p $redis SET key:__rand_int__ "$(printf 'v%.0s' $(seq 200))" >/dev/null
http() { wrk -t1 -c50 -d2s "$1" | awk '/^Requests\/sec/ { print $2 } /Non-2xx/ { exit 1 }'; }
redis-cli -p $redis HSET hash field "$(printf 'v%.0s' $(seq 200))" >/dev/null
resp() { redis-benchmark -p "$1" -P "$2" -c 50 -n $((100000 * $2 / 4 + 100000)) -q "${@:3}" 2>/dev/null | tr '\r' '\n' | awk '/requests per second/ { for (i = 1; i <= NF; i++) if ($(i+1) == "requests") r = $i } END { print r }'; }
for i in $(seq "$rounds"); do
  for what in "redis1 resp $redis 1 GET key:__rand_int__" "proxy1 resp 29981 1 GET key:__rand_int__" \
    "redis16 resp $redis 16 GET key:__rand_int__" "proxy16 resp 29981 16 GET key:__rand_int__" \
    "hget-redis1 resp $redis 1 HGET hash field" "hget-proxy1 resp 29981 1 HGET hash field" \
    "hget-redis16 resp $redis 16 HGET hash field" "hget-proxy16 resp 29981 16 HGET hash field" \
    "lpush-redis1 resp $redis 1 LPUSH list v" "lpush-proxy1 resp 29981 1 LPUSH list v" \
    "lpush-redis16 resp $redis 16 LPUSH list v" "lpush-proxy16 resp 29981 16 LPUSH list v" \
    "hot http http://127.0.0.1:29980/get?key=hot" "uncached http http://127.0.0.1:29990/get?key=hot" "nothing http http://127.0.0.1:29980/healthz"; do
    read -r name command <<<"$what"
    # shellcheck disable=SC2086 # a command and its arguments
    $command >>"$work/$name"
    redis-cli -p $redis DEL list >/dev/null
  done
  echo "round $i of $rounds" >&2
done

median() { sort -n "$work/$1" | awk '{ v[NR] = $1 } END { printf "%.0f", NR % 2 ? v[(NR+1)/2] : (v[NR/2] + v[NR/2+1]) / 2 }'; }
ratio() { awk -v a="$1" -v b="$2" 'BEGIN { printf "%.2f", a / b }'; }
thousands() { awk -v n="$1" 'BEGIN { printf "%.0f,000/s", n / 1000 }'; }
mega() { awk -v n="$1" 'BEGIN { printf "%.0f MB", n / 1e6 }'; }
r1=$(median redis1) p1=$(median proxy1) r16=$(median redis16) p16=$(median proxy16) hot=$(median hot) cold=$(median uncached) nothing=$(median nothing)
data=$((keys * 216))
{
  echo "Measured on $(date -u +%Y-%m-%d) by \`benchmarks/proxy.sh $rounds\`: $(nproc) cores of an $(awk -F': ' '/^model name/ { print $2; exit }' /proc/cpuinfo) that server, proxy and load generator share; $(redis-server --version | sed 's/.*v=\([^ ]*\).*/Redis \1/'), $(go env GOVERSION | sed 's/go/Go /'); medians of $rounds rounds."
  echo
  echo "| work | | beside | ratio |"
  echo "|---|---:|---|---:|"
  echo "| RESP \`GET\` of a hot key, 50 connections | $(thousands "$p1") | Redis itself: $(thousands "$r1") | $(ratio "$p1" "$r1") |"
  echo "| the same, pipelines of 16 | $(thousands "$p16") | Redis itself: $(thousands "$r16") | $(ratio "$p16" "$r16") |"
  for command in HGET LPUSH; do
    for pipeline in 1 16; do
      name=${command,,}
      redis=$(median "$name-redis$pipeline") proxy=$(median "$name-proxy$pipeline")
      what="the same, pipelines of 16"
      [ $pipeline = 16 ] || what="RESP \`$command\`, which is passed on, 50 connections"
      echo "| $what | $(thousands "$proxy") | Redis itself: $(thousands "$redis") | $(ratio "$proxy" "$redis") |"
    done
  done
  echo "| HTTP \`GET /get\` of a hot key, 50 connections | $(thousands "$hot") | the same with \`cache.capacity: 0\`: $(thousands "$cold") | $(ratio "$hot" "$cold") |"
  echo "| | | \`GET /healthz\`, which does nothing: $(thousands "$nothing") | $(ratio "$hot" "$nothing") |"
  echo "| memory for 100,000 keys of 16 bytes with values of 200, set and read | $(mega "$counted") | as counted (\`aside_memory_bytes\`), beside the data: $(mega $data) | $(ratio "$counted" $data) |"
  echo "| the same, resident, beyond the $(mega "$empty") of an empty proxy | $(mega $((full - empty))) | the data | $(ratio $((full - empty)) $data) |"
} | tee "$work/table"
if [ $write = yes ]; then
  awk -v table="$work/table" '
    /^<!-- speed: / { print; print ""; while ((getline line < table) > 0) print line; print ""; skip = 1; next }
    /^<!-- end of speed -->/ { skip = 0 }
    !skip' docs/PROXY.md >"$work/doc" && cat "$work/doc" >docs/PROXY.md
fi
