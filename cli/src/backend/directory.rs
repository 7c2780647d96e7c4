//! Memory Shuffler, each access resolved through a directory of opaque handles.

use std::alloc::Layout;
use std::mem::MaybeUninit;

use memory_shuffler::{ConfigError, Directory, OpaqueHandle, RawHandle, Rights, Shuffler};

use super::Backend;
use super::shuffler::{Handles, told};
use crate::args::Source;
use crate::figures::ShufflerFigures;

/// A shuffler whose blocks are known by unguessable names only, as plug-ins and clients know them.
pub struct Named {
    handles: Handles,
    /// Gone once the last block is.
    directory: Option<Directory<OpaqueHandle>>,
}

/// A block that belongs to whoever has this: nobody else knows the name.
pub struct NamedBlock {
    name: OpaqueHandle,
    layout: Layout,
}

impl Named {
    /// A shuffler that has not mapped anything yet, and an empty directory.
    pub fn new(source: Source) -> Result<Self, ConfigError> {
        let handles = Handles::new(source)?;
        let directory = Some(Directory::new(handles.shuffler()));
        Ok(Self { handles, directory })
    }

    fn directory(&self) -> &Directory<OpaqueHandle> {
        self.directory.as_ref().expect("only `finish` takes it, after the last use")
    }

    fn resolve(&self, block: &NamedBlock, rights: Rights) -> Result<RawHandle, String> {
        self.directory().resolve_raw(&block.name, rights).map_err(|error| told("resolve", error))
    }
}

impl Backend for Named {
    type Block = NamedBlock;

    fn allocate(&self, layout: Layout) -> Result<NamedBlock, String> {
        let handle = self.handles.shuffler().alloc_layout(layout).map_err(|error| format!("allocate: {error}"))?;
        Ok(NamedBlock { name: self.directory().grant(handle, Rights::ALL), layout })
    }

    fn layout(block: &NamedBlock) -> Layout {
        block.layout
    }

    unsafe fn read<R>(&self, block: &NamedBlock, look: impl FnOnce(&[u8]) -> R) -> Result<R, String> {
        let handle = self.resolve(block, Rights::READ)?;
        // SAFETY: the grant was made for a block of this size, which only `free` frees; the caller says it was written.
        unsafe { self.handles.read_at(handle, block.layout.size(), look) }
    }

    fn write<R>(&self, block: &mut NamedBlock, change: impl FnOnce(&mut [MaybeUninit<u8>]) -> R) -> Result<R, String> {
        let handle = self.resolve(block, Rights::WRITE)?;
        // SAFETY: the grant was made for a block of this size, which only `free` frees.
        unsafe { self.handles.write_at(handle, block.layout.size(), change) }
    }

    fn free(&self, block: NamedBlock) -> Result<(), String> {
        let handle = self.resolve(&block, Rights::FREE)?;
        if !self.directory().revoke(&block.name) {
            return Err("revoke: the directory does not have the name".into());
        }
        self.handles.shuffler().free(handle).map(drop).map_err(|error| told("free", error))
    }

    fn source_bytes(&self) -> Option<u64> {
        self.handles.source_bytes()
    }

    fn shuffler(&self) -> Option<&Shuffler> {
        Some(self.handles.shuffler())
    }

    fn handle(&self, block: &NamedBlock) -> Option<RawHandle> {
        self.resolve(block, Rights::READ).ok()
    }

    fn finish(&mut self) -> ShufflerFigures {
        // A map keeps the room that it once needed.
        self.directory = None;
        self.handles.finish()
    }
}
