//! One thread of a storm.

use super::Shared;
use super::item::{Block, Hold, Item, RawHold, new_page};
use super::model::{Edition, Model, Pattern, Random, check_page};
use memory_shuffler::{
    AccessError, AllocError, Budget, Freed, Frozen, Handle, OpaqueHandle, Rights, Stored, Versioned,
};
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, SyncSender};
use std::sync::{Arc, PoisonError};
use std::thread;
use std::time::Duration;

/// A hold that outlives the operation that took it.
pub struct Held<'s> {
    hold: Box<dyn Hold + Send + 's>,
    item: Item,
    /// The operation of its thread at which it goes.
    until: u64,
}

impl Held<'_> {
    fn give_back(mut self) {
        let model = &self.item.model;
        self.hold.check(model, "at the end of a long hold");
        if self.hold.is_exclusive() {
            self.hold.rewrite(model);
            model.leave_exclusive();
        } else {
            model.leave_shared();
        }
    }
}

/// What threads send each other.
pub enum Message<'s> {
    /// Free it there.
    Free(Item),
    /// Rent it there.
    Check(Item),
    /// Return it there.
    Return(Held<'s>),
    /// A name that somebody granted, to be used and revoked there.
    Name(OpaqueHandle, Item),
}

pub struct Worker<'s> {
    pub number: usize,
    pub shared: &'s Shared,
    pub random: Random,
    pub mail: Receiver<Message<'s>>,
    pub peers: Vec<SyncSender<Message<'s>>>,
    held: Vec<Held<'s>>,
    /// Blocks that have ended, whose handles must be refused for ever.
    ended: Vec<Item>,
    operations: u64,
}

const MOST_HELD: usize = 24;
const MOST_ENDED: usize = 64;
const PATIENCE: Duration = Duration::from_micros(200);

impl<'s> Worker<'s> {
    pub fn new(
        number: usize,
        shared: &'s Shared,
        seed: u64,
        mail: Receiver<Message<'s>>,
        peers: Vec<SyncSender<Message<'s>>>,
    ) -> Self {
        let random = Random(seed ^ (number as u64 + 1).wrapping_mul(0xA076_1D64_78BD_642F));
        Self { number, shared, random, mail, peers, held: Vec::new(), ended: Vec::new(), operations: 0 }
    }

    pub fn run(mut self) {
        while !self.shared.ledger.stopped() {
            for _ in 0..32 {
                self.operation();
                self.operations += 1;
            }
            self.shared.progress[self.number].store(self.operations, Ordering::Relaxed);
            for _ in 0..8 {
                let Ok(message) = self.mail.try_recv() else { break };
                self.receive(message);
            }
            self.give_back_old(self.operations);
        }
        self.give_back_old(u64::MAX);
        // When nobody can send any more, what was sent is still to be done.
        self.peers.clear();
        while let Ok(message) = self.mail.recv() {
            self.receive(message);
        }
        self.give_back_old(u64::MAX);
    }

    fn give_back_old(&mut self, now: u64) {
        for i in (0..self.held.len()).rev() {
            if self.held[i].until <= now {
                self.held.swap_remove(i).give_back();
            }
        }
    }

    /// The population swells and shrinks, so that arenas become sparse.
    fn operation(&mut self) {
        let (put, end) = match self.shared.tide.load(Ordering::Relaxed) {
            0 => (300, 50),
            2 => (50, 300),
            _ => (150, 150),
        };
        let dice = self.random.below(1000);
        if dice < put {
            self.put();
        } else if dice < put + end {
            self.end_some();
        } else if dice < put + end + 40 {
            self.name();
        } else if dice < put + end + 60 {
            self.refusals();
        } else if dice < put + end + 80 {
            if let Some(item) = self.random_item() {
                self.send(Message::Check(item));
            }
        } else if dice == 999 {
            self.rare();
        } else if let Some(item) = self.random_item() {
            self.touch(&item);
        }
    }

    fn random_slot(&mut self) -> std::sync::MutexGuard<'s, Option<Item>> {
        let slot = self.random.below(self.shared.slots.len() as u64) as usize;
        self.shared.slots[slot].lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn random_item(&mut self) -> Option<Item> {
        self.random_slot().clone()
    }

    fn is_limited(&self) -> bool {
        self.shared.ledger.limited.load(Ordering::Relaxed)
    }

    fn end_some(&mut self) {
        // By itself, so that the slot is unlocked before the block is ended.
        let item = self.random_slot().take();
        if let Some(item) = item {
            self.end(item);
        }
    }

    fn put(&mut self) {
        match Item::make(self.shared, &mut self.random) {
            Ok(item) => {
                if self.random.one_in(64) {
                    self.touch(&item);
                }
                let before = self.random_slot().replace(item);
                if let Some(item) = before {
                    self.end(item);
                }
            }
            Err(AllocError::MemoryLimit { .. }) if self.is_limited() => {
                self.end_some();
            }
            Err(error) => self.shared.ledger.fail(format_args!("an allocation failed: {error:?}")),
        }
    }

    fn send(&mut self, message: Message<'s>) {
        if self.peers.is_empty() {
            return self.receive(message);
        }
        let peer = self.random.below(self.peers.len() as u64) as usize;
        if let Err(error) = self.peers[peer].try_send(message) {
            let (std::sync::mpsc::TrySendError::Full(message) | std::sync::mpsc::TrySendError::Disconnected(message)) =
                error;
            self.receive(message);
        }
    }

    fn receive(&mut self, message: Message<'s>) {
        match message {
            Message::Free(item) => {
                item.free(self.shared);
                self.remember(item);
            }
            Message::Check(item) => self.touch(&item),
            Message::Return(held) => held.give_back(),
            Message::Name(name, item) => self.use_name(name, &item),
        }
    }

    fn remember(&mut self, item: Item) {
        if self.ended.len() < MOST_ENDED {
            self.ended.push(item);
        } else {
            let i = self.random.below(MOST_ENDED as u64) as usize;
            self.ended[i] = item;
        }
    }

    /// Ends a block that was taken out of its slot; others may still use its handle, and free it too.
    fn end(&mut self, item: Item) {
        match self.random.below(8) {
            0 => self.send(Message::Free(item)),
            1 => {
                // Two threads free it: exactly one succeeds.
                self.send(Message::Free(item.clone()));
                item.free(self.shared);
                self.remember(item);
            }
            2 => {
                self.touch(&item);
                item.free(self.shared);
                self.remember(item);
            }
            3 => self.end_by_value(item),
            4 if item.model.listed => {
                self.shared.by_id.revoke(&item.model.id);
                item.free(self.shared);
                self.remember(item);
            }
            _ => {
                item.free(self.shared);
                self.remember(item);
            }
        }
    }

    /// By `take`, or by an owner.
    fn end_by_value(&mut self, item: Item) {
        match item.block {
            Block::Small(handle) => self.take(handle, &item),
            Block::Large(handle) => self.take(handle, &item),
            Block::Bytes(handle) => {
                let owned = self.shared.shuffler.owned(handle);
                match owned.rent() {
                    Ok(rent) => {
                        item.model.enter_shared();
                        rent.check(&item.model, "an owner's rent");
                        item.model.leave_shared();
                    }
                    Err(error) => item.model.refused(error, "an owner's rent"),
                }
                if self.random.one_in(2) {
                    let handle = owned.into_handle();
                    if memory_shuffler::RawHandle::from(handle) != item.raw() {
                        item.model.fail("its owner had another handle");
                    }
                    item.free(self.shared);
                } else {
                    // What the owner's free says is lost; afterwards the handle is stale in any case.
                    item.model.begin_end();
                    drop(owned);
                    item.check_ended(self.shared);
                }
            }
            _ => item.free(self.shared),
        }
        self.remember(item);
    }

    fn take<T: Stored + Send + Pattern>(&mut self, handle: Handle<T>, item: &Item) {
        let (model, shared) = (&item.model, self.shared);
        model.begin_end();
        match shared.shuffler.take(handle) {
            Ok(value) => {
                model.end(true);
                item.check_ended(shared);
                value.check(model, "taken");
            }
            Err(error) => {
                model.fail_to_end();
                model.refused(error, "take");
                item.free(shared);
            }
        }
    }

    /// Looks at a block, or writes it, in one of many ways.
    fn touch(&mut self, item: &Item) {
        match item.block {
            Block::Small(handle) => self.hold(handle, item),
            Block::Large(handle) => self.hold(handle, item),
            Block::Bytes(handle) => self.hold(handle, item),
            Block::Words(handle) => self.hold(handle, item),
            Block::Text(handle) => self.read(handle, item),
            Block::Raw(raw, align) => {
                let was_ended = item.model.is_ended();
                let exclusive = self.random.one_in(3);
                let take = if exclusive { RawHold::exclusive } else { RawHold::shared };
                let hold = take(&self.shared.shuffler, raw, &item.model, align);
                self.use_hold(hold, item, was_ended);
            }
            Block::Seen(handle) => self.look(handle, item),
            Block::SeenBytes(handle) => self.look(handle, item),
            Block::Board(handle) => self.board(handle, item),
            Block::Page(handle) => self.page(handle, item),
        }
    }

    fn hold<T: ?Sized + Stored + Send + Sync + Pattern>(&mut self, handle: Handle<T>, item: &Item) {
        if !self.random.one_in(3) {
            return self.read(handle, item);
        }
        let was_ended = item.model.is_ended();
        let shared = self.shared;
        let rent = if self.random.one_in(32) {
            shared.shuffler.rent_mut_for(handle, PATIENCE)
        } else if item.model.listed && self.random.one_in(2) {
            shared.by_id.rent_mut::<T>(&item.model.id)
        } else {
            shared.shuffler.rent_mut(handle)
        };
        self.use_hold(rent, item, was_ended);
    }

    fn read<T: ?Sized + Stored + Send + Sync + Pattern>(&mut self, handle: Handle<T>, item: &Item) {
        let was_ended = item.model.is_ended();
        let shared = self.shared;
        match self.random.below(32) {
            0 => self.use_hold(shared.shuffler.rent_for(handle, PATIENCE), item, was_ended),
            1..4 => self.use_hold(shared.shuffler.rent_owned(handle), item, was_ended),
            4..20 if item.model.listed => self.use_hold(shared.by_id.rent::<T>(&item.model.id), item, was_ended),
            _ => self.use_hold(shared.shuffler.rent(handle), item, was_ended),
        }
    }

    fn use_hold<H: Hold + Send + 's>(&mut self, hold: Result<H, AccessError>, item: &Item, was_ended: bool) {
        let model = &item.model;
        let mut hold = match hold {
            Ok(hold) => hold,
            // Whoever looks up an id whose block has ended removes it.
            Err(AccessError::Denied) if model.listed => return,
            Err(error) => return model.refused(error, "a rent"),
        };
        model.granted(was_ended, "a rent");
        let exclusive = hold.is_exclusive();
        if exclusive {
            model.enter_exclusive();
        } else {
            model.enter_shared();
        }
        hold.check(model, "a rent");
        match self.random.below(64) {
            0 => return self.keep(hold, item, 64),
            1 => return self.keep(hold, item, 20_000),
            2 | 3 => {
                let held = Held { hold: Box::new(hold), item: item.clone(), until: 0 };
                return self.send(Message::Return(held));
            }
            4 => self.free_while_held(item),
            5 => self.inspect_while_held(item, exclusive),
            6 => thread::yield_now(),
            _ => {}
        }
        if exclusive {
            hold.rewrite(model);
            hold.check(model, "after it was written");
            model.leave_exclusive();
        } else {
            if self.random.one_in(16) {
                hold.check(model, "a second look");
            }
            model.leave_shared();
        }
    }

    fn keep<H: Hold + Send + 's>(&mut self, hold: H, item: &Item, most: u64) {
        let held =
            Held { hold: Box::new(hold), item: item.clone(), until: self.operations + 1 + self.random.below(most) };
        self.held.push(held);
        if self.held.len() > MOST_HELD {
            let i = self.random.below(MOST_HELD as u64) as usize;
            self.held.swap_remove(i).give_back();
        }
    }

    fn free_while_held(&mut self, item: &Item) {
        let model = &item.model;
        model.begin_end();
        match self.shared.shuffler.free(item.raw()) {
            Ok(freed) => {
                model.end(false);
                if freed != Freed::WhenReturned {
                    model.fail(format_args!("freed {freed:?} while it was rented"));
                }
                item.check_ended(self.shared);
            }
            Err(error) => {
                model.fail_to_end();
                model.refused(error, "free while rented");
            }
        }
        if model.is_dropped() {
            model.fail("dropped while it was rented");
        }
    }

    fn inspect_while_held(&mut self, item: &Item, exclusive: bool) {
        let model = &item.model;
        match self.shared.shuffler.inspect(item.raw()) {
            Ok(info) => {
                if info.exclusive != exclusive || (!exclusive && info.rents == 0) || info.handle != item.raw() {
                    model.fail(format_args!("it was rented, exclusively: {exclusive}, and shows {info:?}"));
                }
                if model.bytes != 0 && info.size != model.bytes {
                    model.fail(format_args!("it shows {info:?}"));
                }
            }
            Err(error) => model.refused(error, "inspect"),
        }
        if let Err(error) = self.shared.shuffler.get_size(item.raw()) {
            model.refused(error, "get_size");
        }
    }

    /// Several reads under one reader, with other work in between.
    fn look<T: ?Sized + Stored + Frozen + Send + Sync + Pattern>(&mut self, handle: Versioned<T>, item: &Item) {
        let (model, shared) = (&item.model, self.shared);
        let mut reader = shared.shuffler.reader();
        for _ in 0..=self.random.below(2) {
            let was_ended = model.is_ended();
            match reader.get(handle) {
                Ok(value) => {
                    model.granted(was_ended, "a read");
                    value.check(model, "a read");
                    match self.random.below(64) {
                        0 => item.free(shared),
                        1 => {
                            let budget = Budget { bytes: 16 << 10, time: PATIENCE };
                            if shared.shuffles {
                                shared.shuffler.shuffle_step(budget);
                            }
                        }
                        2 => self.put(),
                        3 => thread::yield_now(),
                        // Others go on while this reader looks.
                        4 => thread::sleep(PATIENCE),
                        _ => {}
                    }
                    value.check(model, "a second read");
                }
                Err(error) => model.refused(error, "a read"),
            }
            reader.repin();
        }
    }

    /// Reads a board, or puts a new edition there. On boards of even ids each edition is numbered one higher than the last.
    fn board(&mut self, handle: Versioned<Edition>, item: &Item) {
        let (model, shared) = (&item.model, self.shared);
        let (was_ended, counts) = (model.is_ended(), model.id.is_multiple_of(2));
        match self.random.below(4) {
            0 => {
                let shuffles = shared.shuffles && self.random.one_in(16);
                let mut number = 0;
                let updated = shared.shuffler.update(handle, |edition| {
                    edition.check(model, "an update");
                    if shuffles {
                        shared.shuffler.shuffle_step(Budget { bytes: 4096, time: PATIENCE });
                        edition.check(model, "an update, after a step");
                    }
                    number = edition.number + 1;
                    Edition::new(model, number)
                });
                match updated {
                    Ok(()) => {
                        model.granted(was_ended, "an update");
                        model.published(if counts { number } else { 0 });
                    }
                    Err(error) => model.refused(error, "an update"),
                }
            }
            1 if !counts => match shared.shuffler.publish(handle, Edition::new(model, 0)) {
                Ok(()) => model.granted(was_ended, "a new edition"),
                Err(rejected) => {
                    model.refused(rejected.cause(), "a new edition");
                    rejected.into_inner().check(model, "a rejected edition");
                }
            },
            _ => {
                let reader = shared.shuffler.reader();
                let newest = model.edition();
                match reader.get(handle) {
                    Ok(edition) => {
                        model.granted(was_ended, "a look at a board");
                        edition.check(model, "a look at a board");
                        if counts && edition.number < newest {
                            model.fail(format_args!("edition {} after {newest}", edition.number));
                        }
                        if self.random.one_in(32) {
                            thread::yield_now();
                            edition.check(model, "a second look at a board");
                        }
                    }
                    Err(error) => model.refused(error, "a look at a board"),
                }
            }
        }
    }

    /// Reads a page, or puts one of another length there.
    fn page(&mut self, handle: Versioned<[u64]>, item: &Item) {
        let (model, shared) = (&item.model, self.shared);
        let was_ended = model.is_ended();
        if self.random.one_in(2) {
            match shared.shuffler.publish_copy(handle, &new_page(model, &mut self.random)) {
                Ok(()) => model.granted(was_ended, "a new page"),
                Err(error) => model.refused(error, "a new page"),
            }
            return;
        }
        match shared.shuffler.get_size(handle) {
            Ok(bytes) if bytes >= 24 && bytes.is_multiple_of(8) => model.granted(was_ended, "the size of a page"),
            Ok(bytes) => model.fail(format_args!("a page of {bytes} bytes")),
            Err(error) => model.refused(error, "the size of a page"),
        }
        let reader = shared.shuffler.reader();
        let was_ended = model.is_ended();
        match reader.get(handle) {
            Ok(page) => {
                model.granted(was_ended, "a look at a page");
                check_page(page, model, "a look at a page");
                if self.random.one_in(32) {
                    thread::yield_now();
                    check_page(page, model, "a second look at a page");
                }
            }
            Err(error) => model.refused(error, "a look at a page"),
        }
    }

    /// Grants a name and has it used, here or elsewhere.
    fn name(&mut self) {
        let Some(item) = self.random_item() else { return };
        if !matches!(item.block, Block::Bytes(_)) {
            return self.touch(&item);
        }
        let name = self.shared.by_name.grant(item.raw(), Rights::READ);
        if self.random.one_in(2) {
            self.send(Message::Name(name, item));
        } else {
            self.use_name(name, &item);
        }
    }

    fn use_name(&mut self, name: OpaqueHandle, item: &Item) {
        // Once the block has ended, its name may be swept.
        let swept = |error| if error == AccessError::Denied { AccessError::Stale } else { error };
        let (model, names) = (&item.model, &self.shared.by_name);
        let was_ended = model.is_ended();
        match names.resolve::<[u8]>(&name, Rights::READ) {
            Ok(handle) => {
                model.granted(was_ended, "a name");
                if memory_shuffler::RawHandle::from(handle) != item.raw() {
                    model.fail(format_args!("its name stands for {handle:?}"));
                }
                self.read(handle, item);
            }
            Err(error) => return model.refused(swept(error), "a name"),
        }
        match names.resolve::<[u8]>(&name, Rights::WRITE) {
            Err(AccessError::Denied) => {}
            answer => model.fail(format_args!("a name to read with gave {answer:?} to write")),
        }
        match names.resolve::<[u64]>(&name, Rights::READ) {
            Err(AccessError::TypeMismatch { .. }) => {}
            Err(error) => return model.refused(swept(error), "a name of another type"),
            Ok(_) => model.fail("its name gave another type"),
        }
        if self.random.one_in(8) {
            // Some names are left to go stale.
            return;
        }
        if !names.revoke(&name) && !model.is_ending() {
            model.fail("its name was revoked by nobody, and was gone");
        }
        match names.rent::<[u8]>(&name) {
            Err(AccessError::Denied) => {}
            Err(error) => model.fail(format_args!("a revoked name: {error:?}")),
            Ok(_) => model.fail("a revoked name was granted"),
        };
    }

    /// Handles of blocks that have ended, of other shufflers and of nothing.
    fn refusals(&mut self) {
        let shuffler = &self.shared.shuffler;
        if !self.ended.is_empty() {
            let i = self.random.below(self.ended.len() as u64) as usize;
            let item = &self.ended[i];
            let was_ended = item.model.is_ended();
            self.touch(&item.clone());
            let item = &self.ended[i];
            if was_ended && shuffler.valid_handle(item.raw()) {
                item.model.fail("its handle is valid after its end");
            }
        }
        for handle in &self.shared.foreign {
            match shuffler.rent(*handle) {
                Err(AccessError::Invalid) => {}
                answer => {
                    self.shared.ledger.fail(format_args!("another shuffler's {handle:?}: {:?}", answer.err()));
                }
            }
        }
    }

    /// What is done about once in a thousand operations.
    fn rare(&mut self) {
        let shuffler = &self.shared.shuffler;
        match self.random.below(64) {
            0..16 if self.shared.shuffles => {
                let bytes = 1 << self.random.below(20);
                let time = Duration::from_nanos(1 << self.random.below(21));
                shuffler.shuffle_step(Budget { bytes, time });
            }
            16..24 if self.shared.shuffles => {
                shuffler.shuffle();
            }
            24 if self.shared.shuffles => shuffler.trim(),
            25..28 => {
                let paused = shuffler.pause();
                // The pause lasts so long.
                thread::sleep(PATIENCE);
                if self.random.one_in(2) {
                    shuffler.shuffle();
                }
                drop(paused);
            }
            28..36 => {
                let (stats, arenas) = (shuffler.stats(), shuffler.arenas());
                if stats.panics != 0 || arenas.is_empty() {
                    self.shared.ledger.fail(format_args!("{} arenas, {stats:?}", arenas.len()));
                }
            }
            36..46 => self.visit(),
            46..48 if self.shared.shuffles => {
                let blocks: Vec<_> = (0..1000).filter_map(|_| self.random_item()).map(|item| item.raw()).collect();
                shuffler.shuffle_along(blocks);
            }
            _ => {
                let Some(item) = self.random_item() else { return };
                self.touch(&item);
            }
        }
    }

    /// A thread that lives for a moment: it returns a rent, frees a block, reads, and leaves a block behind.
    fn visit(&mut self) {
        let shared = self.shared;
        let held = self.held.pop();
        let item = self.random_slot().take();
        let seen = self.random_item();
        let mut random = Random(self.random.next());
        let visitor = move || {
            if let Some(held) = held {
                held.give_back();
            }
            if let Some(item) = item {
                item.free(shared);
            }
            if let Some(Item { block: Block::SeenBytes(handle), model }) = seen {
                check_once(shared, handle, &model);
            }
            Item::make(shared, &mut random).ok()
        };
        let left = thread::scope(|scope| scope.spawn(visitor).join());
        match left {
            Ok(Some(item)) => {
                self.touch(&item);
                self.end(item);
            }
            Ok(None) if self.is_limited() => {}
            Ok(None) => shared.ledger.fail("an allocation of a short thread failed"),
            Err(_) => shared.ledger.fail("a short thread panicked"),
        }
    }
}

fn check_once(shared: &Shared, handle: Versioned<[u8]>, model: &Arc<Model>) {
    let was_ended = model.is_ended();
    match shared.shuffler.reader().get(handle) {
        Ok(value) => {
            model.granted(was_ended, "a read");
            value.check(model, "a read");
        }
        Err(error) => model.refused(error, "a read"),
    }
}
