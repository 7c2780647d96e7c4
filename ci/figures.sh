#!/usr/bin/env bash
# The figures that the design promises: space over the workloads of `measure`, the cost curve, and pauses beside an idle
# thread. By hand, on a quiet machine: about 15 minutes on 2 cores. `ci/figures.sh ALLOCATORS` measures others too, for example
# shuffler,system,jemalloc,mimalloc.
set -euo pipefail
cd "$(dirname "$0")/.."
allocators=${1:-shuffler}

cargo build --release -p shuffler-cli
shuffler=${CARGO_TARGET_DIR:-target}/release/shuffler
"$shuffler" measure --allocators "$allocators"
"$shuffler" simulate
cargo bench --bench pauses
