//! Blocks of every kind, and holds on them.

use super::Shared;
use super::model::{Child, Edition, Model, Pattern, Random, Tracked, page, text};
use memory_shuffler::{
    AccessError, AllocError, Freed, Handle, OwnedRent, RawHandle, Rent, RentMut, Shuffler, Versioned,
};
use std::alloc::Layout;
use std::ptr::NonNull;
use std::slice;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;

#[derive(Clone, Copy)]
pub enum Block {
    Small(Handle<Tracked<2>>),
    Large(Handle<Tracked<40>>),
    Bytes(Handle<[u8]>),
    Words(Handle<[u64]>),
    Text(Handle<str>),
    /// With its alignment.
    Raw(RawHandle, usize),
    Seen(Versioned<Tracked<6>>),
    SeenBytes(Versioned<[u8]>),
    Board(Versioned<Edition>),
    Page(Versioned<[u64]>),
}

/// A block and what is known of it. A clone is a copy of the handle.
#[derive(Clone)]
pub struct Item {
    pub block: Block,
    pub model: Arc<Model>,
}

/// Half of all blocks are of less than 64 bytes, a few are beyond what an arena takes.
fn random_size(random: &mut Random) -> usize {
    let most = match random.below(1000) {
        0..500 => 64,
        500..800 => 512,
        800..990 => 4096,
        990..999 => 64 << 10,
        _ => 200 << 10,
    };
    random.below(most + 1) as usize
}

impl Item {
    /// Makes a block of any kind. `Err`: the memory limit was met.
    pub fn make(shared: &Shared, random: &mut Random) -> Result<Self, AllocError> {
        let (shuffler, ledger) = (&shared.shuffler, &shared.ledger);
        let id = shared.next_id.fetch_add(1, Ordering::Relaxed);
        let kind = random.below(18);
        let bytes = if (7..16).contains(&kind) { random_size(random) } else { 0 };
        let bytes = match kind {
            10 | 11 => bytes & !7,
            // A raw block of no bytes has room for no `u8` to be rented.
            13 => bytes.max(1),
            _ => bytes,
        };
        let listed = random.one_in(16);
        let model = Model::new(ledger, id, bytes, listed);
        let block = match kind {
            0 | 1 => Block::Small(shuffler.create(Tracked::new(&model, None)).map_err(|rejected| rejected.cause())?),
            2 | 3 => Block::Large(shuffler.create_with(|| Tracked::new(&model, None))?),
            4 => Block::Small(Self::parent(shared, &model)?),
            5 | 6 => {
                Block::Seen(shuffler.create_versioned(Tracked::new(&model, None)).map_err(|rejected| rejected.cause())?)
            }
            7..10 => Block::Bytes(shuffler.alloc_copy(&filled(&model, bytes))?),
            10 | 11 => {
                let handle = shuffler.alloc::<u64>(bytes / 8)?;
                first_write(shuffler, handle, &model);
                Block::Words(handle)
            }
            12 => Block::Text(shuffler.alloc_str(&text(model.seed(), bytes))?),
            13 => {
                let align = 1 << random.below(13);
                let layout = Layout::from_size_align(bytes, align).expect("a small layout");
                let raw = shuffler.alloc_layout(layout)?;
                first_raw_write(shuffler, raw, &model, align);
                Block::Raw(raw, align)
            }
            14 | 15 => Block::SeenBytes(shuffler.alloc_versioned(&filled(&model, bytes))?),
            16 => Block::Page(shuffler.alloc_versioned(&new_page(&model, random))?),
            _ => {
                let made = shuffler.create_versioned(Edition::new(&model, 0));
                Block::Board(made.map_err(|rejected| rejected.cause())?)
            }
        };
        let item = Self { block, model };
        if listed && shared.by_id.insert(id, item.raw(), memory_shuffler::Rights::ALL).is_some() {
            item.model.fail("its id was in the directory before");
        }
        Ok(item)
    }

    fn parent(shared: &Shared, model: &Arc<Model>) -> Result<Handle<Tracked<2>>, AllocError> {
        let id = shared.next_id.fetch_add(1, Ordering::Relaxed);
        let child_model = Model::new(&shared.ledger, id, 0, false);
        let made = shared.shuffler.create(Tracked::new(&child_model, None));
        let handle = made.map_err(|rejected| rejected.cause())?;
        let child = Box::new(Child { handle, model: child_model, phone: shared.phone.clone() });
        // If this fails the value comes back, is dropped, and frees the child.
        shared.shuffler.create(Tracked::new(model, Some(child))).map_err(|rejected| rejected.cause())
    }

    pub fn raw(&self) -> RawHandle {
        match self.block {
            Block::Small(handle) => handle.into(),
            Block::Large(handle) => handle.into(),
            Block::Bytes(handle) => handle.into(),
            Block::Words(handle) => handle.into(),
            Block::Text(handle) => handle.into(),
            Block::Raw(raw, _) => raw,
            Block::Seen(handle) => handle.into(),
            Block::SeenBytes(handle) => handle.into(),
            Block::Board(handle) => handle.into(),
            Block::Page(handle) => handle.into(),
        }
    }

    /// Frees it by handle; somebody else may be faster.
    pub fn free(&self, shared: &Shared) {
        self.model.begin_end();
        match shared.shuffler.free(self.raw()) {
            Ok(freed) => {
                self.model.end(freed == Freed::Now);
                self.check_ended(shared);
            }
            Err(error) => {
                self.model.fail_to_end();
                self.model.refused(error, "free");
            }
        }
    }

    /// What must hold from the moment that a call ended the block.
    pub fn check_ended(&self, shared: &Shared) {
        if shared.shuffler.valid_handle(self.raw()) {
            self.model.fail("its handle is valid after its end");
        }
        if let Ok(bytes) = shared.shuffler.get_size(self.raw()) {
            self.model.fail(format_args!("it has {bytes} bytes after its end"));
        }
    }
}

/// A page of any length.
pub fn new_page(model: &Model, random: &mut Random) -> Vec<u64> {
    let words = random_size(random) / 8;
    page(model, random.next(), words)
}

fn filled(model: &Model, bytes: usize) -> Vec<u8> {
    let mut pattern = vec![0; bytes];
    pattern.paint(model.seed());
    pattern
}

/// Takes a hold on a block whose handle nobody else has yet: only a stale rent of the slot's last life may be in the way,
/// for an instant.
fn first_hold<T>(model: &Model, take: impl Fn() -> Result<T, AccessError>) -> Option<T> {
    loop {
        match take() {
            Ok(hold) => return Some(hold),
            Err(AccessError::Busy) if !model.is_over() => thread::yield_now(),
            Err(AccessError::Busy) => return None,
            Err(error) => {
                model.fail(format_args!("a new block: {error:?}"));
                return None;
            }
        }
    }
}

fn first_write(shuffler: &Shuffler, handle: Handle<[u64]>, model: &Model) {
    let Some(mut words) = first_hold(model, || shuffler.rent_mut(handle)) else { return };
    if words.iter().any(|word| *word != 0) {
        model.fail("a new block is not zeroed");
    }
    words.paint(model.seed());
}

fn first_raw_write(shuffler: &Shuffler, raw: RawHandle, model: &Arc<Model>, align: usize) {
    let Some(mut hold) = first_hold(model, || RawHold::exclusive(shuffler, raw, model, align)) else { return };
    if hold.bytes_mut().iter().any(|byte| *byte != 0) {
        model.fail("a new raw block is not zeroed");
    }
    hold.bytes_mut().paint(model.seed());
}

/// A hold of any kind on a block of any kind.
pub trait Hold {
    fn check(&self, model: &Model, what: &str);
    /// Whether it may write; then it wrote the next bytes.
    fn rewrite(&mut self, _: &Model) {}
    fn is_exclusive(&self) -> bool {
        false
    }
}

impl<T: ?Sized + Pattern> Hold for Rent<'_, T> {
    fn check(&self, model: &Model, what: &str) {
        (**self).check(model, what);
    }
}

impl<T: ?Sized + Pattern> Hold for OwnedRent<T> {
    fn check(&self, model: &Model, what: &str) {
        (**self).check(model, what);
    }
}

impl<T: ?Sized + Pattern> Hold for RentMut<'_, T> {
    fn check(&self, model: &Model, what: &str) {
        (**self).check(model, what);
    }

    fn rewrite(&mut self, model: &Model) {
        (**self).paint(model.advance());
    }

    fn is_exclusive(&self) -> bool {
        true
    }
}

/// A hold on a raw block, by pointer.
pub struct RawHold<'a> {
    shuffler: &'a Shuffler,
    raw: RawHandle,
    pointer: NonNull<u8>,
    align: usize,
    exclusive: bool,
    model: Arc<Model>,
}

// SAFETY: it is a counted hold, which any thread may give back.
unsafe impl Send for RawHold<'_> {}

impl<'a> RawHold<'a> {
    pub fn shared(
        shuffler: &'a Shuffler,
        raw: RawHandle,
        model: &Arc<Model>,
        align: usize,
    ) -> Result<Self, AccessError> {
        let pointer = shuffler.rent_pointer::<u8>(raw)?;
        Ok(Self { shuffler, raw, pointer, align, exclusive: false, model: model.clone() })
    }

    pub fn exclusive(
        shuffler: &'a Shuffler,
        raw: RawHandle,
        model: &Arc<Model>,
        align: usize,
    ) -> Result<Self, AccessError> {
        let pointer = shuffler.rent_pointer_mut::<u8>(raw)?;
        Ok(Self { shuffler, raw, pointer, align, exclusive: true, model: model.clone() })
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        assert!(self.exclusive);
        // SAFETY: the hold is exclusive and the block has that many bytes.
        unsafe { slice::from_raw_parts_mut(self.pointer.as_ptr(), self.model.bytes) }
    }
}

impl Hold for RawHold<'_> {
    fn check(&self, model: &Model, what: &str) {
        if !self.pointer.addr().get().is_multiple_of(self.align) {
            model.fail(format_args!("{what}: {:?} is not aligned to {}", self.pointer, self.align));
        }
        // SAFETY: the hold keeps the block in place and unwritten, and the block has that many bytes.
        unsafe { slice::from_raw_parts(self.pointer.as_ptr(), model.bytes) }.check(model, what);
    }

    fn rewrite(&mut self, model: &Model) {
        if self.exclusive {
            let seed = model.advance();
            self.bytes_mut().paint(seed);
        }
    }

    fn is_exclusive(&self) -> bool {
        self.exclusive
    }
}

impl Drop for RawHold<'_> {
    fn drop(&mut self) {
        // SAFETY: this hold was rented once and is returned once, here; its pointer goes with it.
        if let Err(error) = unsafe { self.shuffler.return_pointer(self.raw) } {
            self.model.fail(format_args!("a raw return: {error:?}"));
        }
    }
}
