#!/usr/bin/env bash
# Breaks one rule of the protocols at a time, in a temporary copy, and checks that the model named for it fails.
# By hand: `ci/mutants.sh [WORD]` (only the mutations whose target or description contains WORD); 4 minutes for all on 2 cores.
# The table in loom_tests/README.md says what each mutation breaks.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
only=${1:-}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$work/target} RUST_BACKTRACE=0

cp -r "$root/src" "$root/loom_tests" "$work"
{
    printf '[package]\nname = "mutants"\nversion = "0.0.0"\nedition = "2024"\nautotests = false\n[lib]\npath = "none.rs"\n'
    printf '[profile.dev.package."*"]\nopt-level = 3\n[dev-dependencies]\n'
    grep '^loom = ' "$root/Cargo.toml"
    printf "[target.'cfg(loom)'.dev-dependencies]\n"
    grep '^crossbeam-epoch = ' "$root/loom_tests/epoch/Cargo.toml"
    for target in entry lengths account directory ready signal; do
        printf '[[test]]\nname = "loom_%s"\npath = "loom_tests/%s.rs"\n' $target $target
    done
    printf '[[test]]\nname = "loom_epoch"\npath = "loom_tests/epoch/models.rs"\n'
} >"$work/Cargo.toml"
touch "$work/none.rs"
cp "$root/Cargo.lock" "$work" 2>/dev/null || true
cd "$work"

caught=0 missed=0
# mutant DESCRIPTION TARGET MODEL FILE PERL: the substitution must change the file, and the model must then panic.
mutant() {
    local description=$1 target=$2 model=$3 file=$4 change=$5 log status=0
    [[ "$target: $description" == *"$only"* ]] || return 0
    perl -0pi -e "$change" "$file"
    if cmp -s "$file" "$root/$file"; then
        echo "NOT APPLIED  $description ($file)"
        missed=$((missed + 1))
        return 0
    fi
    local with=()
    if [[ $target == epoch ]]; then
        with=(env 'RUSTFLAGS=--cfg loom --cfg crossbeam_loom' "CARGO_TARGET_DIR=$CARGO_TARGET_DIR/epoch")
    fi
    log=$("${with[@]}" timeout 300 cargo test -q --test "loom_$target" -- --exact "$model" 2>&1) || status=$?
    cp "$root/$file" "$file"
    if [[ $status != 0 && $log == *"running 1 test"* && $log == *"panicked at"* ]]; then
        caught=$((caught + 1))
        echo "caught       $description: $model: $(grep -m1 -A1 'panicked at' <<<"$log" | tail -1)"
    else
        missed=$((missed + 1))
        echo "MISSED       $description: $model"
        if [[ $log != *"running 1 test"* ]]; then
            tail -20 <<<"$log"
        fi
    fi
}

word=src/table/word.rs header=src/arena/header.rs entry=src/table/entry.rs account=src/arena/account.rs ready=src/ready.rs signal=src/compact/signal.rs callers=loom_tests/support/world.rs directory=loom_tests/directory.rs
life=src/arena/life.rs lengths=loom_tests/lengths.rs
deferred=src/deferred.rs seats=src/seats.rs readers=loom_tests/epoch/models.rs

# The rules marked with a warning sign in the design.
mutant 'no second look at the version after a hold' entry reuse_against_a_stale_rent $entry \
    's/if self\.is_in\(version\) \{\n(\s+)return Ok\(seen/if true {\n$1return Ok(seen/'
mutant 'no second look at the version after a slow hold' entry reuse_against_a_late_helper $entry \
    's/if self\.is_in\(version\) \{\n(\s+)return Ok\(address/if true {\n$1return Ok(address/'
mutant 'free closes the word before it decides the version' entry reuse_against_a_stale_free $entry \
    's/self\.end_life\(version\)\.then\(\|\| self\.close_from\(seen\)\)/{ let closed = self.close_from(seen); self.end_life(version).then_some(closed) }/'
mutant 'MOVING is cancelled in place' entry a_stopped_mover_and_a_late_helper $callers \
    's/&& let Begun::Moving\(_\) = self\.world\.entry\.begin_move\(address\)\n\s+\{/&& let Begun::Moving(seen) = self.world.entry.begin_move(address)\n        {\n            self.world.entry.commit(seen, Word::open_at(address));/'
mutant 'a helper does not look at the word again under its claim' entry reuse_by_a_stranger_against_a_late_helper $entry \
    's/if self\.word\(\) != seen \{\n(\s+)drop/if false {\n$1drop/'
mutant 'a helper takes no notice of a refused claim' entry reuse_by_a_stranger_against_a_late_helper $callers \
    's/if self\.arena\(address\)\.account\.claim\(\) \{/if self.arena(address).account.claim() || self.idle.load(Ordering::Acquire) {/'
mutant 'what was freed while moving is settled at once' entry a_late_helper_and_two_frees $entry \
    's/moving: seen\.is_moving\(\)/moving: false/'
mutant 'who settles what was freed while moving looks for claims without one of its own' entry a_late_helper_and_two_frees $callers \
    's/let claim = self\.claim\(address\)\.expect\([^\n]*\n/let claim = Box::new(0);\n/; s/let alone = self\.arena\(address\)\.account\.balance\(\)\.claims == 1;/let alone = self.arena(address).account.balance().claims == 0;/'
mutant 'a free settles what is held' entry two_rents_and_a_free $entry 's/held: seen\.is_held\(\)/held: false/'
mutant 'a take does not decide by the version' entry a_take_a_rent_and_a_free $callers \
    's/if !self\.world\.entry\.end_life\(version\)/if !self.world.entry.end_life(version) \&\& self.arena > 9/'
mutant 'publish does not mind that the life was ended' entry a_publish_a_rent_and_a_free $entry \
    's/if !seen\.is_open\(\) \{\n(\s+)return Err\(self/if false {\n$1return Err(self/'
mutant 'a rent is given while MOVING' entry a_free_a_rent_and_a_move $word \
    's/self\.0 & \(Self::OPEN \| Self::MOVING \| Self::EXCLUSIVE\) == Self::OPEN &&/self.0 \& (Self::OPEN | Self::EXCLUSIVE) == Self::OPEN \&\&/'
mutant 'an exclusive rent is given while MOVING' entry a_write_a_rent_and_a_move $word \
    's/\(Self::OPEN \| Self::MOVING \| Self::EXCLUSIVE \| RENTS_MASK\)/(Self::OPEN | Self::EXCLUSIVE | RENTS_MASK)/'
mutant 'a move begins under a rent' entry a_walker_a_rent_and_a_move $word \
    's/self\.0 & \(\(0b1111 << RENTS_BITS\) \| RENTS_MASK\) == Self::OPEN/self.0 \& (0b1111 << RENTS_BITS) == Self::OPEN/'
mutant 'who wipes the source of a move asks for other claims by a plain look' entry two_late_helpers $callers \
    's/self\.world\.arena\(source\)\.account\.is_sole_claim\(\)/self.world.arena(source).account.balance().claims == 1/'
mutant 'who wipes the source of a move does not ask for other claims' entry two_late_helpers $callers \
    's/self\.world\.arena\(source\)\.account\.is_sole_claim\(\)/self.world.arena(source).account.is_sole_claim() || true/'
mutant 'who wipes the source that was left does not ask for other claims' entry two_late_helpers_and_a_step $callers \
    's/if self\.world\.arena\(source\)\.account\.balance\(\)\.claims == 1 \{/if self.world.arena(source).account.balance().claims > 0 {/'
mutant 'the puncher asks for other claims before it reads the header' entry a_walker_a_mover_and_a_helper_without_memory $callers \
    's/if self\.world\.header\.load\(\)\.state\(\) == State::Dead\s*&& self\.world\.arena\(HOME\)\.account\.balance\(\)\.claims == 1/if self.world.arena(HOME).account.balance().claims == 1 \&\& self.world.header.load().state() == State::Dead/'

# Resizing.
mutant 'a resize does not mind that the life was ended' entry a_resize_a_rent_and_a_free $entry \
    's/while seen\.is_open\(\) \{\n/while seen.is_exclusive() {\n/; s/debug_assert!\(seen\.is_exclusive\(\)\);/let open = Word::from_bits(seen.to_bits() | 1 << 15);/; s/seen\.moved_to\(address\)/open.moved_to(address)/'
mutant 'a resize goes by the address that it read before the hold' entry a_resize_a_rent_and_a_move $callers \
    's/let old = self\.hold\(version, Hold::Exclusive\)\?;\n(\s+)let fresh/let old = self.world.entry.word().address();\n        self.hold(version, Hold::Exclusive)?;\n$1let fresh/'
mutant 'a resize forgets who waits' entry a_waiter_and_a_resize $word \
    's/Self\(self\.0 & \(\(1 << LOCATION_SHIFT\) - 1\) \|/Self(self.0 \& ((1 << LOCATION_SHIFT) - 1) \& !Self::WAITED |/; s/ && held\.is_waited\(\)//'
mutant 'a large extent before the large block' entry queries_against_a_resize $entry \
    's/let ends_large = [^\n]*;/let ends_large = true;/'
mutant 'a small block before its extent' entry queries_against_a_resize $entry 's/let ends_large = [^\n]*;/let ends_large = false;/'
mutant 'a mover goes by the header that it read before MOVING' entry a_shortening_a_rent_and_a_move $callers \
    's/let header = self\.world\.header\.load\(\);\n(\s+)if header\.inline_footprint\(\) < room/let header = seen;\n$1if header.inline_footprint() < room/'
mutant 'a mover keeps room that it does not need' entry a_shortening_a_rent_and_a_move $callers \
    's/room = header\.inline_footprint\(\);/room += 0;/'
mutant 'the bytes of a tail are not given back' entry a_shortening_a_free_and_a_move $callers \
    's/account\.subtract\(rest\)/account.subtract(rest - 8 + 1)/'
mutant 'the new length before the filler' entry a_shortening_and_a_walker $header \
    's/if rest > 0 \{/self.store(self.load().with_payload(payload));\n        if rest > 0 {/'
mutant 'header: store relaxed' entry a_shortening_and_a_walker $header \
    's/self\.0\.store\(header\.0, Ordering::Release\)/self.0.store(header.0, Ordering::Relaxed)/'
mutant 'header: load relaxed' entry a_shortening_and_a_walker $header \
    's/Header\(self\.0\.load\(Ordering::Acquire\)\)/Header(self.0.load(Ordering::Relaxed))/'

# Replacing by another length.
mutant 'the next to replace a block comes before the extent' lengths two_publishes_of_other_lengths $lengths \
    's/assert!\(self\.entry\.relink\(address\(place\), extent\(length\)\)\);\n(\s+)(assert_eq!\(self\.entry\.give_back\(Hold::Exclusive\), Left::default\(\)\);)/assert!(self.entry.relink(address(place), self.entry.extent()));\n$1$2\n$1self.entry.set_extent(extent(length));/'
mutant 'two blocks are put in the place of one at a time' lengths two_publishes_of_other_lengths $word \
    's/\(Self::OPEN \| Self::MOVING \| Self::EXCLUSIVE \| RENTS_MASK\)/(Self::OPEN | Self::MOVING | RENTS_MASK)/'
mutant 'a slice that is refused leaves its extent behind' entry a_publish_of_another_length_and_the_next_life $entry \
    's/\} else if ends_large \{\n\s+self\.set_extent\(before\);/} else if ends_large {/'
mutant 'the extent comes when the slot may be in its next life' entry a_publish_of_another_length_and_the_next_life $callers \
    's/relink\(fresh, before \^ LARGE_EXTENT\)/relink(fresh, before)/; s/(let settled = self\.world\.leave\(Hold::Exclusive\);\n)(\s+if linked \{\n)(\s+self\.bury\(old\);)/$1$2            self.world.entry.set_extent(before ^ LARGE_EXTENT);\n$3/'
mutant 'a slice is published by the address that was read before the hold' entry a_publish_of_another_length_and_a_move $callers \
    's/(payload: 5, bytes \}\);\n)(\s+let old = )match self\.hold\(version, Hold::Exclusive\) \{\n\s+Ok\(old\) => old,/$1        let seen = self.world.entry.word().address();\n$2match self.hold(version, Hold::Exclusive) {\n            Ok(_) => seen,/'
mutant 'a slice is published though its life was ended' entry a_publish_of_another_length_a_rent_and_a_free $entry \
    's/while seen\.is_open\(\) \{\n/while seen.is_exclusive() {\n/; s/debug_assert!\(seen\.is_exclusive\(\)\);/let open = Word::from_bits(seen.to_bits() | 1 << 15);/; s/seen\.moved_to\(address\)/open.moved_to(address)/'
mutant 'a query does not look whether the block is there still' lengths a_query_and_a_descriptor_that_comes_back $life \
    's/\|_\| was_there && /|_| /'
mutant 'a query does not look at the life again' lengths a_query_and_a_descriptor_that_comes_back $life \
    's/was_there && self\.count\(\) == life/was_there || life == u32::MAX/'
mutant 'a query reads the size before the life' lengths a_query_and_a_descriptor_that_comes_back $life \
    's/let \(life, payload\) = \(self\.count\(\), self\.payload\(\)\);/let payload = self.payload();\n        let life = self.count();/'
mutant 'life: count relaxed' lengths a_query_and_a_descriptor_that_comes_back $life \
    's/self\.count\.load\(Ordering::Acquire\)/self.count.load(Ordering::Relaxed)/'
mutant 'life: begin and end relaxed' lengths a_query_and_a_descriptor_that_comes_back $life \
    's/fetch_add\(1, Ordering::Release\)/fetch_add(1, Ordering::Relaxed)/g'
mutant 'life: payload relaxed' lengths a_query_and_a_descriptor_that_comes_back $life \
    's/self\.payload\.load\(Ordering::Acquire\)/self.payload.load(Ordering::Relaxed)/'
mutant 'life: set_payload relaxed' lengths a_query_and_a_descriptor_that_comes_back $life \
    's/self\.payload\.store\(payload, Ordering::Release\)/self.payload.store(payload, Ordering::Relaxed)/'

# Waiting.
mutant 'a walker does not look at the account again after its claim' account a_watched_arena_and_a_death loom_tests/account.rs \
    's/if arena\.account\.balance\(\)\.live != left \{/if arena.account.balance().live > 9 * left {/'
mutant 'an arena is watched only after the claim is given back' account a_watched_arena_and_a_death loom_tests/account.rs \
    's/(                watched\.store\(true, Ordering::Relaxed\);\n)(                arena\.unclaim\(\);\n)(                if )/$2                let again = arena.account.balance().live;\n$1$3again != left \&\& /'
mutant 'a death looks whether its arena is watched before it takes its bytes off' account a_watched_arena_and_a_death loom_tests/account.rs \
    's/(                arena\.subtract\(\);\n                if )watched\.load\(Ordering::Relaxed\)/                let was_watched = watched.load(Ordering::Relaxed);\n$1was_watched/'
mutant 'unclaim: no release, seen from the watch' account a_watched_arena_and_two_deaths $account \
    's/fetch_sub\(CLAIM, Ordering::AcqRel\)/fetch_sub(CLAIM, Ordering::Acquire)/'
mutant 'a sleeper does not validate under the lock' entry a_waiter_and_the_last_return $callers \
    's/if self\.world\.entry\.is_waited\(version\) \{/if true {/'
mutant 'the last return wakes nobody' entry a_waiter_and_the_last_return $entry \
    's/settle: None, wake: self\.clear_waited\(\)/settle: None, wake: self.clear_waited() \&\& self.version.load(Ordering::Relaxed) == 0/'
mutant 'the last return leaves WAITED set' entry a_waiter_and_the_last_return $entry \
    's/settle: None, wake: self\.clear_waited\(\)/settle: None, wake: true/'
mutant 'a free wakes nobody' entry a_waiter_a_return_and_a_free $entry 's/wake: seen\.is_waited\(\),\n/wake: false,\n/'
mutant 'publish wakes nobody' entry a_waiter_and_a_publish $entry 's/return Ok\(seen\.is_waited\(\)\)/return Ok(false)/'
mutant 'the return of a mistaken hold wakes nobody' entry a_waiter_and_a_mistaken_hold $callers \
    's/(self\.reached\("strayed"\);\n\s+)if left\.wake \{/$1if left.wake \&\& self.arena > 9 {/'

# Orderings of the entry.
mutant 'hold: relaxed' entry two_writes_and_a_rent $entry \
    's/self\.exchange\(seen, next, Ordering::Acquire\)/self.exchange(seen, next, Ordering::Relaxed)/'
mutant 'hold_slow: relaxed' entry two_writes_and_a_rent $entry \
    's/self\.exchange\(seen, held, Ordering::Acquire\)/self.exchange(seen, held, Ordering::Relaxed)/'
mutant 'give_back, shared: relaxed' entry two_writes_and_a_rent $entry \
    's/fetch_sub\(Word::ONE_RENT, Ordering::Release\)/fetch_sub(Word::ONE_RENT, Ordering::Relaxed)/'
mutant 'give_back, exclusive: relaxed' entry two_writes_and_a_rent $entry \
    's/self\.exchange\(seen, next, Ordering::Release\)/self.exchange(seen, next, Ordering::Relaxed)/'
mutant 'last_hold_left: relaxed' entry two_rents_and_a_free $entry 's/(let _ = self\.word\.load\(Ordering::)Acquire/${1}Relaxed/'
mutant 'close: no acquire' entry two_rents_and_a_free $entry \
    's/self\.exchange\(seen, seen\.closed\(\), Ordering::AcqRel\)/self.exchange(seen, seen.closed(), Ordering::Release)/'
mutant 'close: no release' entry the_last_return_may_use_the_slot_again $entry \
    's/self\.exchange\(seen, seen\.closed\(\), Ordering::AcqRel\)/self.exchange(seen, seen.closed(), Ordering::Acquire)/'
mutant 'commit: no release' entry a_rent_and_a_move $entry \
    's/self\.exchange\(moving, fresh, Ordering::Release\)/self.exchange(moving, fresh, Ordering::Relaxed)/'
mutant 'begin_move: relaxed' entry a_write_a_rent_and_a_move $entry \
    's/seen\.with_moving\(\), Ordering::Acquire/seen.with_moving(), Ordering::Relaxed/'
mutant 'begin_life: word relaxed' entry reuse_against_a_stale_rent $entry \
    's/Word::open_at\(address\)\.to_bits\(\), Ordering::Release/Word::open_at(address).to_bits(), Ordering::Relaxed/'
mutant 'begin_life: version relaxed' entry queries_against_reuse $entry \
    's/self\.version\.store\(version, Ordering::Release\);\n(\s+)version\n/self.version.store(version, Ordering::Relaxed);\n$1version\n/'
mutant 'version: relaxed' entry queries_against_reuse $entry \
    's/self\.version\.load\(Ordering::Acquire\)/self.version.load(Ordering::Relaxed)/'
mutant 'extent: relaxed' entry queries_against_reuse $entry \
    's/self\.extent\.load\(Ordering::Acquire\)/self.extent.load(Ordering::Relaxed)/'
mutant 'set_extent: relaxed' entry queries_against_reuse $entry \
    's/self\.extent\.store\(extent, Ordering::Release\)/self.extent.store(extent, Ordering::Relaxed)/'
mutant 'word: relaxed' entry queries_against_reuse $entry \
    's/self\.word\.load\(Ordering::Acquire\)/self.word.load(Ordering::Relaxed)/'
mutant 'relink: relaxed' entry queries_against_a_resize $entry \
    's/seen\.moved_to\(address\), Ordering::Release/seen.moved_to(address), Ordering::Relaxed/'
mutant 'read: the version before the word' entry reads_against_reuse $entry \
    's/let word = self\.word\(\);\n(\s+)self\.is_in\(version\)/let is_in = self.is_in(version);\n$1let word = self.word();\n$1is_in/'
mutant 'read: no look at the version' entry reads_against_reuse $entry \
    's/self\.is_in\(version\)\.then\(/true.then(/'
mutant 'read: relaxed, seen without an epoch' entry reads_against_reuse $entry \
    's/let word = self\.word\(\);\n(\s+)self\.is_in/let word = Word::from_bits(self.word.load(Ordering::Relaxed));\n$1self.is_in/'
mutant 'vacate: word relaxed' entry a_read_and_a_page_that_comes_back $entry \
    's/self\.word\.store\(0, Ordering::Release\)/self.word.store(0, Ordering::Relaxed)/'
mutant 'replace: relaxed' entry a_publish_a_rent_and_a_free $entry \
    's/Word::open_at\(address\), Ordering::Release/Word::open_at(address), Ordering::Relaxed/'

# The account.
mutant 'claim: no acquire' account a_claim_sees_what_was_sealed $account \
    's/seen \+ CLAIM, Ordering::AcqRel/seen + CLAIM, Ordering::Release/'
mutant 'claim: no release' account a_sole_claimer_has_unlinked_memory_to_itself $account \
    's/seen \+ CLAIM, Ordering::AcqRel/seen + CLAIM, Ordering::Acquire/'
mutant 'claim: no release, seen from the entry' entry reuse_against_a_late_helper $account \
    's/seen \+ CLAIM, Ordering::AcqRel/seen + CLAIM, Ordering::Acquire/'
mutant 'is_sole_claim: no acquire, before the source is wiped' entry two_late_helpers $account \
    's/self\.0\.fetch_add\(0, Ordering::AcqRel\)/self.0.fetch_add(0, Ordering::Release)/'
mutant 'is_sole_claim: no release, before the source is wiped' entry two_late_helpers $account \
    's/self\.0\.fetch_add\(0, Ordering::AcqRel\)/self.0.fetch_add(0, Ordering::Acquire)/'
mutant 'an emptied arena can be claimed' account two_claims_and_the_last_subtraction $account \
    's/ \|\| seen == SEALED//'
mutant 'an active arena can be claimed' account sealing_against_a_subtraction_and_a_claim $account \
    's/seen & SEALED == 0 \|\| //'
mutant 'subtract: no acquire' account two_subtractions_and_a_claim $account \
    's/fetch_sub\(bytes as u64, Ordering::AcqRel\)/fetch_sub(bytes as u64, Ordering::Release)/'
mutant 'subtract: no release' account two_subtractions_and_a_claim $account \
    's/fetch_sub\(bytes as u64, Ordering::AcqRel\)/fetch_sub(bytes as u64, Ordering::Acquire)/'
mutant 'unclaim: no acquire' account two_claims_and_the_last_subtraction $account \
    's/fetch_sub\(CLAIM, Ordering::AcqRel\)/fetch_sub(CLAIM, Ordering::Release)/'
mutant 'unclaim: no release' account two_claims_and_the_last_subtraction $account \
    's/fetch_sub\(CLAIM, Ordering::AcqRel\)/fetch_sub(CLAIM, Ordering::Acquire)/'
mutant 'seal: no acquire' account sealing_against_subtractions $account \
    's/fetch_add\(delta, Ordering::AcqRel\)/fetch_add(delta, Ordering::Release)/'
mutant 'seal: no release' account a_claim_sees_what_was_sealed $account \
    's/fetch_add\(delta, Ordering::AcqRel\)/fetch_add(delta, Ordering::Acquire)/'
mutant 'seal: in two steps' account sealing_against_subtractions $account \
    's/let word = self\.0\.fetch_add\(delta, Ordering::AcqRel\)\.wrapping_add\(delta\);/self.0.fetch_add(delta.wrapping_sub(SEALED), Ordering::AcqRel);\n        let word = self.0.fetch_or(SEALED, Ordering::AcqRel);/'
mutant 'who empties is judged by a second look' account two_subtractions_and_a_claim $account \
    's/Outcome::of\(before - bytes as u64\)/Outcome::of(self.0.load(Ordering::Acquire))/'
mutant 'a puncher asks for other claims by a plain look' account a_puncher_a_free_and_a_late_helper $account \
    's/self\.0\.fetch_add\(0, Ordering::AcqRel\)/self.0.load(Ordering::Acquire)/'

# The directory.
mutant 'a look-up removes whatever the key names by then' directory reuse_under_one_key $directory \
    's/remove_if\(\|found\| found\.version == grant\.version\)/remove_if(|_| true)/'
mutant 'a sweep removes what it saw, unseen' directory reuse_under_one_key $directory \
    's/remove_if\(\|grant\| !self\.is_live\(grant\.version\)\)/remove_if(|_| true)/'
mutant 'an insertion looks and replaces under two locks' directory two_insertions_under_one_key $directory \
    's/let mut key = self\.key\.lock\(\)\.unwrap\(\);\n(\s+)let old = \*key;/let old = *self.key.lock().unwrap();\n$1let mut key = self.key.lock().unwrap();/'
mutant 'a grant names a slot, not a life' directory reuse_under_one_key $directory \
    's/mine\.read\(grant\.version\)/mine.read(self.world.entry.version() | 1)/'

# The ready list.
mutant 'push: relaxed' ready two_pushers_and_a_taker $ready \
    's/compare_exchange\(head, node, Ordering::Release/compare_exchange(head, node, Ordering::Relaxed/'
mutant 'take_all: relaxed' ready two_pushers_and_a_taker $ready \
    's/swap\(ptr::null_mut\(\), Ordering::Acquire\)/swap(ptr::null_mut(), Ordering::Relaxed)/'
mutant 'take_all: newest first' ready two_pushers_and_a_taker $ready 's/values\.reverse\(\);//'
mutant 'push: a plain store' ready two_pushers_and_a_taker $ready \
    's/match self\.head\.compare_exchange\(head, node, Ordering::Release, Ordering::Relaxed\)/self.head.store(node, Ordering::Release);\n            match Ok::<_, *mut Node<T>>(head)/'

# The compactor's signal.
mutant 'raise: relaxed' signal a_raise_is_never_lost $signal \
    's/swap\(true, Ordering::Release\)/swap(true, Ordering::Relaxed)/'
mutant 'raise: skipped when it looks up already' signal a_raise_is_never_lost $signal \
    's/!self\.0\.swap\(true, Ordering::Release\)/!self.0.load(Ordering::Relaxed) \&\& !self.0.swap(true, Ordering::Release)/'
mutant 'lower: relaxed' signal a_raise_is_never_lost $signal \
    's/swap\(false, Ordering::Acquire\)/swap(false, Ordering::Relaxed)/'

# Readers.
mutant 'a record does not wait for the readers' epoch a_get_and_a_publish $deferred \
    's/guard\.defer\(move \|\| \{/let at_once = move || {/; s/\}\);\n(\s+)\/\/ At once/};\n$1at_once();\n$1\/\/ At once/'
mutant 'a batch is what was retired when its closure runs' epoch a_get_and_a_publish_after_a_submission $deferred \
    's/let batch = self\.retired\.take_all\(\);\n\s+if batch\.is_empty\(\) \{\n\s+return true;\n\s+\}/let batch: Batch<R> = Vec::new();/; s/deferred\.add_ready\(batch, bytes\);/let batch = deferred.retired.take_all();\n            let (records, bytes) = (batch.len(), total_bytes(&batch));\n            deferred.add_ready(batch, bytes);/'
mutant 'push: relaxed, before a batch' epoch a_get_a_publish_and_a_step $ready \
    's/compare_exchange\(head, node, Ordering::Release/compare_exchange(head, node, Ordering::Relaxed/'
mutant 'a free does not wait for the readers' epoch a_get_and_a_free $readers \
    's/(if let Some\(address\) = left\.settle \{\n\s+let bytes[^\n]*\n\s+)self\.defer\(Record::Settle\(address\), bytes\);/$1self.world.log().unlinked.push(address);\n            self.world.deferred.make_ready(Record::Settle(address), bytes);/'
mutant 'an emptied arena does not wait for the readers' epoch a_get_and_an_arena_that_is_retired $readers \
    's/self\.defer\(Record::Recycle\(number\), 0\)/self.world.deferred.make_ready(Record::Recycle(number), 0)/'
mutant 'a mover wipes what readers may see' epoch a_get_and_a_move $readers \
    's/(assert_eq!\(outcome, Outcome::Remains, [^\n]*\n)/$1        self.world.put(source, POISON);\n/'
mutant 'the bytes of the successor are taken off' epoch a_publish_of_another_size_and_a_free $readers \
    's/self\.subtract\(address, block\.bytes\)/self.subtract(address, BYTES)/'
mutant 'relink: relaxed, seen by a reader' epoch a_get_and_a_publish_of_another_size $entry \
    's/seen\.moved_to\(address\), Ordering::Release/seen.moved_to(address), Ordering::Relaxed/'
mutant 'a mover wins over a slice' epoch a_publish_of_another_size_and_a_move $word \
    's/self\.0 & \(\(0b1111 << RENTS_BITS\) \| RENTS_MASK\) == Self::OPEN/self.is_open()/'
mutant 'a slice that was replaced does not wait for the readers' epoch a_get_and_a_publish_of_another_size $readers \
    's/(if is_linked \{\n\s+let bytes[^\n]*\n\s+)self\.defer\(Record::Settle\(old\), bytes\);/$1self.world.log().unlinked.push(old);\n            self.world.deferred.make_ready(Record::Settle(old), bytes);/'
mutant 'a mover wins over a publish' epoch a_publish_and_a_move $word \
    's/self\.0 & \(\(0b1111 << RENTS_BITS\) \| RENTS_MASK\) == Self::OPEN/self.is_open()/'
mutant 'two publishes at a time' epoch two_publishes $word \
    's/\(Self::OPEN \| Self::MOVING \| Self::EXCLUSIVE \| RENTS_MASK\)/(Self::OPEN | Self::MOVING | RENTS_MASK)/'
mutant 'read: relaxed' epoch a_get_and_a_publish $entry \
    's/let word = self\.word\(\);\n(\s+)self\.is_in/let word = Word::from_bits(self.word.load(Ordering::Relaxed));\n$1self.is_in/'
mutant 'replace: relaxed, seen by a reader' epoch a_get_and_a_publish $entry \
    's/Word::open_at\(address\), Ordering::Release\) \{/Word::open_at(address), Ordering::Relaxed) {/'
mutant 'a lease hands on a registration with a reader' epoch a_reader_outlives_its_lease $seats \
    's/if self\.seat\.has_readers\(\) \{/if self.seat.has_readers() \&\& self.seat.index > 9 {/'
mutant 'the last reader keeps its seat' epoch a_reader_outlives_its_lease $seats \
    's/self\.is_left\.load\(Ordering::Relaxed\)\n/false\n/'

echo "$caught caught, $missed missed"
[[ $missed == 0 && $caught -gt 0 ]]
