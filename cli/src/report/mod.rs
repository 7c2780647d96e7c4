//! What the user gets: a table for each trace, and a JSON file.

mod json;
mod table;
pub mod units;

pub use json::JsonFile;
pub use table::table;
