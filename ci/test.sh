#!/usr/bin/env bash
# The test command of the README, and a check that the loom models were among what ran.
set -euo pipefail
cd "$(dirname "$0")/.."
. ci/step.sh

log=$(mktemp)
trap 'rm -f "$log"' EXIT
step 'test build' 1200 cargo test --workspace --all-features --no-run
step tests 900 cargo test --workspace --all-features 2>&1 | tee "$log"

models=$(awk '/Running loom_tests\//{on=1} /Running (tests|benches|unittests|src)|Doc-tests/{on=0} on && /^test .* ok$/{n++} END{print n+0}' "$log")
echo "loom models that ran: $models"
if [ "$models" -eq 0 ]; then
  echo 'no loom model ran' >&2
  exit 1
fi
