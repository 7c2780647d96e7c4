#!/usr/bin/env bash
# Long storms, each with another seed, over the configurations of tests/storm.rs in turn; prints a table. Then the random programs
# of tests/model.rs for as long as a storm, optimised but with the library's own assertions.
# By hand: `ci/soak.sh [RUNS [SECONDS]]`; 10 runs of 60 s each if nothing is said.
set -euo pipefail
cd "$(dirname "$0")/.."
runs=${1:-10} seconds=${2:-60}
configurations=(default_configuration tiny_arenas bump_source inline_trigger memory_limit random_placement)
logs=$(mktemp -d)
trap 'rm -rf "$logs"' EXIT

cargo test --release --test storm --no-run
printf '| run | configuration | seed | result | operations | moves | helped | destructors | MiB checked |\n'
printf '|---|---|---|---|---|---|---|---|---|\n'
failed=0
for ((run = 1; run <= runs; run++)); do
  configuration=${configurations[(run - 1) % ${#configurations[@]}]}
  seed=$((RANDOM << 30 | RANDOM << 15 | RANDOM)) log=$logs/$run result=ok
  # A thread that is stuck ends the storm by itself; the time limit is for what hangs after it.
  STORM_SECONDS=$seconds STORM_SEED=$seed timeout $((seconds + 240)) \
    cargo test --release --test storm -- --exact "$configuration" --nocapture >"$log" 2>&1 || result=FAILED
  grep -q '^test result: ok. 1 passed' "$log" || result=FAILED
  figure() { grep -om1 "[0-9]* $1" "$log" | cut -d' ' -f1 || echo -; }
  printf '| %s | %s | %s | %s | %s | %s | %s | %s | %s |\n' "$run" "$configuration" "$seed" "$result" \
    "$(figure operations)" "$(figure moves)" "$(figure helped)" "$(figure destructors)" "$(figure 'MiB checked')"
  if [ "$result" != ok ]; then
    failed=$((failed + 1))
    tail -40 "$log" >&2
  fi
done
echo "$failed of $runs storms failed"
MODEL_SECONDS=$seconds cargo test --release --config profile.release.debug-assertions=true --test model -- --nocapture
[ "$failed" -eq 0 ]
