//! There is nothing in this library: see `models.rs`.
