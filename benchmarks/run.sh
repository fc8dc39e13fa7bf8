#!/bin/sh
# Runs all benchmarks and prints them as ratios beside their targets, then in full. See doc.go.
#
#   benchmarks/run.sh [count] [--write]
#
# count     how often each benchmark runs; 6 unless told. Medians are compared.
# --write   also writes docs/BENCHMARKS.md
#
# BENCHTIME (1s), ROUNDS (50, of the stampede) and REDIS_ADDR may be set. Nothing else should run meanwhile.
set -eu
cd "$(dirname "$0")"
export GOWORK=off # this module is not part of the workspace, so that nothing here chooses versions for the library

count=6
write=no
for arg; do
	case $arg in
	--write) write=yes ;;
	*[!0-9]* | '') echo "usage: $0 [count] [--write]" >&2; exit 2 ;;
	*) count=$arg ;;
	esac
done

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM
raw=$work/bench.txt
go test -c -o "$work/bench.test" .
run() { # of the benchmarks that match $1, $2 times, each for $3; the output is shown as it comes, to stderr
	"$work/bench.test" -test.run '^$' -test.bench "$1" -test.count "$2" -test.benchtime "$3" -test.timeout 60m >"$work/part" || { cat "$work/part"; exit 1; }
	tee -a "$raw" <"$work/part" >&2
}
machine=$("$work/bench.test" -test.run '^TestMachine$' | sed -n 's/^machine: //p')
# In turns: what the machine does besides changes from minute to minute, and must not meet one of two that are compared.
round=0
while [ "$round" -lt "$count" ]; do
	run '^Benchmark(HotHit|HotAccount|HotOrder|GetMultiHotAccount|Zipf|FirstRead|ColdMiss|GetMultiHot|GetMultiCold|Set|Del|BareSet|BareDel|DegradedHit|DegradedSet|GroupHit)$' 1 "${BENCHTIME:-1s}"
	round=$((round + 1))
done
run '^BenchmarkStampede$' 1 "${ROUNDS:-50}x"
run '^BenchmarkWakeUp$' 3 100x
run '^Benchmark(MissTrips|KeyMemory|Idle|Memory|Clear)$' 1 1x
integration() { # of its package $1 the benchmarks that match $2, each so often as $3 says
	go test -C ../integration -run '^$' -bench "$2" -benchtime "$3" "$1" >"$work/part" || { cat "$work/part"; exit 1; }
	grep '^Benchmark' "$work/part" | tee -a "$raw" >&2
}
integration ./faults '^BenchmarkReplay$/^journal$' 3x
integration ./converge '^BenchmarkHotKey$' 20x
integration ./converge '^BenchmarkFailingSource$' 10x

echo
echo "$machine"
echo
go run ./cmd/report "$raw"
echo
go tool benchstat -col /lib "$raw"

if [ "$write" = yes ]; then
	mkdir -p ../docs
	{
		cat <<-EOF
			# Benchmarks

			Written by \`BENCHTIME=${BENCHTIME:-1s} benchmarks/run.sh $count --write\` on $(date -u +%Y-%m-%d).

			$machine

			EOF
		go run ./cmd/report -markdown "$raw"
		cat notes.md
	} >"$work/BENCHMARKS.md"
	cp "$work/BENCHMARKS.md" ../docs/BENCHMARKS.md
	echo "wrote docs/BENCHMARKS.md"
fi
