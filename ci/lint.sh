#!/usr/bin/env bash
# Format, lints, documentation, and the rules of the house that no lint knows.
set -euo pipefail
cd "$(dirname "$0")/.."
. ci/step.sh

step format 60 cargo fmt --all --check
step clippy 900 cargo clippy --workspace --all-targets --all-features -- -D warnings
step documentation 300 env RUSTDOCFLAGS=-Dwarnings cargo doc --workspace --no-deps --all-features

# The loom models run the real files with loom's atomics in the place of `crate::primitive`.
if grep -rn 'std::sync::atomic\|core::sync::atomic' src --include='*.rs' | grep -v '^src/primitive.rs'; then
  echo 'atomics come from crate::primitive, so that the models run the real code' >&2
  exit 1
fi
