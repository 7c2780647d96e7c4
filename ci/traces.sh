#!/usr/bin/env bash
# Every trace of a folder over 1, 2 and 4 threads, both modes and both sources of memory. After each run every block must have
# been verified, none be left, and the memory be back within 8 MiB of the start: what is resident, or, over BumpSource, what is
# held from it. (Pages of the handle table stay there until the shuffler goes: 16 bytes a block at the peak.) Over all runs
# together blocks must have moved and arenas gone back.
# By hand: `ci/traces.sh TRACES [SUMMARY]`; the summary, a table, is also written to SUMMARY (traces.md if nothing is said).
set -euo pipefail
traces=$(cd "${1:?which folder has the traces?}" && pwd)
summary=$(realpath -m "${2:-traces.md}")
cd "$(dirname "$0")/.."
json=$(mktemp)
trap 'rm -f "$json"' EXIT

cargo build --release --bin shuffler
shuffler=${CARGO_TARGET_DIR:-target}/release/shuffler
# The value of a field in the JSON of one run: one field a line; `null` reads as 0.
field() { sed -n "s/^ *\"$1\": \(.*[^,]\),\{0,1\}$/\1/p" "$json" | sed 's/^null$/0/' | head -1; }
mib() { awk -v bytes="$1" 'BEGIN { printf "%.1f", bytes / 1048576 }'; }

failed=0 runs=0 all_moves=0 all_returned=0
: >"$summary"
line() { printf '%s\n' "$1" | tee -a "$summary"; }
line '| trace | threads | mode | source | result | seconds | peak, resident/live | settled | MiB left | moves | arenas returned | longest step, ms | blocks verified |'
line '|---|---|---|---|---|---|---|---|---|---|---|---|---|'
for trace in "$traces"/*.trace.gz; do
  for threads in 1 2 4; do
    for mode in '' --cross; do
      for source in os bump; do
        runs=$((runs + 1)) result=ok
        # $mode is empty or one word.
        # shellcheck disable=SC2086
        timeout 600 "$shuffler" replay "$trace" --threads "$threads" $mode --source "$source" --allocators shuffler \
          --json "$json" >/dev/null 2>"$json.log" || result="status $?: $(tail -1 "$json.log")"
        rm -f "$json.log"
        if [ "$result" = ok ]; then
          left=$(field final_resident)
          [ "$source" = bump ] && left=$(($(field final_source_bytes) - $(field start_source_bytes)))
          [ "$left" -le $((8 << 20)) ] || result="$left bytes left"
          [ "$(field final_live_blocks)" -eq 0 ] || result="$(field final_live_blocks) blocks left"
          [ "$(field blocks_verified)" -gt 0 ] || result='nothing verified'
          all_moves=$((all_moves + $(field moves))) all_returned=$((all_returned + $(field arenas_returned)))
          figures=$(awk -v ns="$(field time_ns)" -v peak="$(field peak_ratio)" -v settled="$(field settled_ratio)" \
            -v step="$(field longest_step_ns)" -v moves="$(field moves)" -v arenas="$(field arenas_returned)" \
            -v blocks="$(field blocks_verified)" -v left="$(mib "$left")" 'BEGIN {
              printf "%.2f | %.3f | %.3f | %s | %d | %d | %.2f | %d", ns / 1e9, peak, settled, left, moves, arenas, step / 1e6, blocks }')
        else
          figures='| | | | | | |'
        fi
        [ "$result" = ok ] || failed=$((failed + 1))
        line "| $(basename "$trace" .trace.gz) | $threads | ${mode:-same} | $source | $result | $figures |"
      done
    done
  done
done
line ''
line "$runs runs, $failed failed; $all_moves moves, $all_returned arenas returned"
[ "$runs" -gt 0 ] && [ "$failed" -eq 0 ] && [ "$all_moves" -gt 0 ] && [ "$all_returned" -gt 0 ]
