#!/usr/bin/env bash
# Runs tests under ThreadSanitizer or AddressSanitizer and prints a table; the logs stay in target/sanitize/logs. By hand:
# `ci/sanitize.sh thread|address [TEST..]`, all of the list below if none is named: half an hour on two cores, and ten minutes
# more to build the first time. QUIET_SECONDS and STORM_SECONDS are for each configuration, as without it.
#
# ThreadSanitizer reports every mutex of a standard library that was not built for it. To build one takes a compiler with that
# library's source and a runtime of the same LLVM. They come from Debian's packages, which are unpacked under target/sanitize and
# not installed; TSAN_ROOT names a place where they are unpacked already. AddressSanitizer needs nothing that rustup does not bring.
#
# ThreadSanitizer sees no fences. There are none in the library, and the crates below it do without when they are built for it; so
# there is nothing to suppress.
set -euo pipefail
cd "$(dirname "$0")/.."
rust=1.96 llvm=22 target=x86_64-unknown-linux-gnu
packages=(rustc-web rust-web-src libstd-rust-web-dev "libstd-rust-web-$rust" "libllvm$llvm" "llvm-$llvm" "libclang-rt-$llvm-dev")
tests=(quiet threads hooks scrub resize misuse suite backlog alignment many directory placement wakeups storm lib)
# Everything takes many times as long. These are about time, or about steps that get somewhere in theirs.
slow=(along_an_order_addresses_ascend orders_without_end_do_not_keep_garbage
  shuffle_gains_all_that_can_be_gained_though_much_is_held)

fail() {
  echo "$*" >&2
  exit 1
}

# A compiler that ThreadSanitizer works with, unpacked in $root.
unpack() {
  if [ -n "${TSAN_ROOT:-}" ]; then
    [ -x "$root/usr/bin/rustc" ] || fail "TSAN_ROOT: there is no usr/bin/rustc in $root"
  elif [ ! -x "$root/usr/bin/rustc" ]; then
    for tool in apt-get dpkg; do
      command -v $tool >/dev/null || fail "$tool is needed to get the packages ${packages[*]}, and was not found"
    done
    rm -rf "$work/packages" "$root.new"
    mkdir -p "$work/packages" "$root.new"
    (cd "$work/packages" && apt-get download "${packages[@]}") ||
      fail "not all to be had here, or the lists of packages are old: ${packages[*]}"
    for package in "$work/packages"/*.deb; do
      dpkg -x "$package" "$root.new"
    done
    rm -rf "$work/packages"
    mv "$root.new" "$root"
  fi
  local runtime=$root/usr/lib/llvm-$llvm/lib/clang/$llvm/lib/linux/libclang_rt.tsan-x86_64.a
  [ -e "$runtime" ] || fail "there is no $runtime"
  cp -u "$runtime" "$root/usr/lib/rustlib/$target/lib/librustc-stable_rt.tsan.a"
}

[ "$(uname -sm)" = 'Linux x86_64' ] || fail 'only for Linux on x86-64'
command -v cargo >/dev/null || fail 'cargo is needed and was not found'
sanitizer=${1:-}
work=$PWD/target/sanitize
# The option's name is for compilers in development.
export RUSTC_BOOTSTRAP=1 RUST_MIN_STACK=67108864 RUSTFLAGS="-Zsanitizer=$sanitizer"
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$work/$sanitizer}
# Some tests ask for more memory than there is, and expect to be told so.
options=allocator_may_return_null=1
case $sanitizer in
thread)
  root=${TSAN_ROOT:-$work/root}
  unpack
  export RUSTC=$root/usr/bin/rustc
  export LD_LIBRARY_PATH=$root/usr/lib/x86_64-linux-gnu:$root/usr/lib/llvm-$llvm/lib
  # It has to see mappings come and go, so they are made through the C library.
  RUSTFLAGS+=' --cfg=rustix_use_libc'
  options+=" history_size=7 external_symbolizer_path=$root/usr/lib/llvm-$llvm/bin/llvm-symbolizer"
  std=(-Zbuild-std) report='WARNING: ThreadSanitizer: data race'
  export TSAN_OPTIONS=$options
  ;;
address)
  compgen -G "$(rustc --print sysroot)/lib/rustlib/$target/lib/librustc-*_rt.asan.a" >/dev/null ||
    fail 'this toolchain has no runtime of AddressSanitizer; those of rustup do'
  std=() report='ERROR: AddressSanitizer: heap-use-after-free'
  # Forgotten rents and readers are among what is tested.
  export ASAN_OPTIONS="$options detect_leaks=0"
  ;;
*) fail 'usage: ci/sanitize.sh thread|address [TEST..]' ;;
esac
shift
[ $# -eq 0 ] || tests=("$@")

# First, that it works: what is wrong is reported, and what is right is not.
check=$work/check
mkdir -p "$check/src" "$work/logs"
printf '[package]\nname = "check"\nedition = "2024"\n[workspace]\n' >"$check/Cargo.toml"
cat >"$check/src/main.rs" <<'END'
use std::{sync::Barrier, sync::Mutex, thread};

static mut RACED: u64 = 0;
static ORDERED: Mutex<u64> = Mutex::new(0);

fn main() {
    let wrong = std::env::args().len() > 1;
    let both = Barrier::new(2);
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                both.wait();
                if wrong { unsafe { RACED += 1 } } else { *ORDERED.lock().unwrap() += 1 }
            });
        }
    });
    let freed = Box::into_raw(Box::new(1));
    drop(unsafe { Box::from_raw(freed) });
    if wrong {
        println!("{}", unsafe { freed.read_volatile() });
    }
}
END
cargo build -q "${std[@]}" --target $target --manifest-path "$check/Cargo.toml"
if ! "$CARGO_TARGET_DIR/$target/debug/check" >"$work/logs/right" 2>&1; then
  fail "what is right is reported: see $work/logs/right"
fi
if "$CARGO_TARGET_DIR/$target/debug/check" wrong >"$work/logs/wrong" 2>&1 || ! grep -q "$report" "$work/logs/wrong"; then
  fail "what is wrong is not reported: see $work/logs/wrong"
fi

# The arguments that choose a test target.
target_of() {
  if [ "$1" = lib ]; then echo --lib; else echo "--test=$1"; fi
}
run=(cargo test "${std[@]}" --target "$target" -p memory-shuffler --features test-hooks)
mapfile -t chosen < <(for test in "${tests[@]}"; do target_of "$test"; done)
"${run[@]}" --no-run "${chosen[@]}"
export STORM_SECONDS=${STORM_SECONDS:-20} QUIET_SECONDS=${QUIET_SECONDS:-10}
printf '| test | result | reports | seconds |\n|---|---|---|---|\n'
failed=0
for test in "${tests[@]}"; do
  log=$work/logs/$sanitizer-$test began=$SECONDS result=ok
  timeout 1800 "${run[@]}" "$(target_of "$test")" -- "${slow[@]/#/--skip=}" >"$log" 2>&1 || result=FAILED
  grep -q '^test result: ok' "$log" || result=FAILED
  reports=$(grep -c "${report%%:*}: ${sanitizer^}Sanitizer" "$log" || true)
  printf '| %s | %s | %s | %s |\n' "$test" "$result" "$reports" "$((SECONDS - began))"
  if [ "$result" != ok ] || [ "$reports" -ne 0 ]; then
    failed=$((failed + 1))
    grep -E -A3 '^SUMMARY|panicked at|^error' "$log" | head -20 >&2 || true
  fi
done
echo "$failed of ${#tests[@]} failed; the logs are in $work/logs"
[ "$failed" -eq 0 ]
