//! The record: a table of TOML for each version of the compiler, with the instructions per operation.
//!
//! ```toml
//! ["rustc 1.95.0 (59807616e 2026-04-14) x86_64-unknown-linux-gnu"]
//! "store/get-1000" = 123.4
//! ```

use std::collections::BTreeMap;
use std::fmt::Write;
use std::io::ErrorKind;
use std::path::Path;

use crate::comparison::Count;

const HEAD: &str = "\
# Instructions per operation, for each version of the compiler. `cargo bench -p doozer-bench` compares with them, and with
# `-- --record` renews them: bench/README.md, \"Instructions\".
";

/// By compiler, then by name.
#[derive(Debug, Default, PartialEq)]
pub struct Record(BTreeMap<String, BTreeMap<String, f64>>);

impl Record {
    /// What the file holds; nothing if there is none.
    ///
    /// # Errors
    /// It cannot be read, or is no record.
    pub fn read(file: &Path) -> Result<Record, String> {
        match std::fs::read_to_string(file) {
            Ok(text) => {
                let record = toml::from_str(&text).map(Record).map_err(|e| e.to_string());
                record.and_then(Record::checked).map_err(|e| format!("{}: {e}", file.display()))
            }
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(Record::default()),
            Err(e) => Err(format!("{}: {e}", file.display())),
        }
    }

    /// What was counted is above nothing; with NaN or infinity beside it, nothing would be dearer.
    fn checked(self) -> Result<Record, String> {
        let wrong = |count: f64| !(count.is_finite() && count > 0.0);
        match self.0.values().flatten().find(|(_, count)| wrong(**count)) {
            Some((name, count)) => Err(format!("\"{name}\" = {count}: that is no number of instructions")),
            None => Ok(self),
        }
    }

    /// Writes the file anew.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn write(&self, file: &Path) -> Result<(), String> {
        let mut text = HEAD.to_owned();
        for (compiler, counts) in &self.0 {
            write!(text, "\n[\"{compiler}\"]\n").expect("memory");
            for (name, count) in counts {
                writeln!(text, "\"{name}\" = {count:.1}").expect("memory");
            }
        }
        std::fs::write(file, text).map_err(|e| format!("{}: {e}", file.display()))
    }

    /// What is recorded of this compiler and of those names.
    pub fn of(&self, compiler: &str, chosen: impl Fn(&str) -> bool) -> BTreeMap<String, f64> {
        let counts = self.0.get(compiler).into_iter().flatten();
        counts.filter(|(name, _)| chosen(name)).map(|(name, count)| (name.clone(), *count)).collect()
    }

    /// Why operations have no record, and what is to be done; nothing if there are no such operations.
    pub fn lack(&self, compiler: &str, unrecorded: &[&str]) -> Option<String> {
        if unrecorded.is_empty() {
            return None;
        }
        if self.0.get(compiler).is_none_or(BTreeMap::is_empty) {
            let remedy = "make a record with --record before a change, then compare";
            return Some(format!("has nothing of this compiler: {remedy}"));
        }
        let names = unrecorded.join(" ");
        Some(format!("has nothing of {names}: if that is new, `-- --record {names}` adds it"))
    }

    /// Puts what was counted in the place of what is recorded of this compiler and of those names.
    pub fn replace(&mut self, compiler: &str, counted: &[Count], chosen: impl Fn(&str) -> bool) {
        let counts = self.0.entry(compiler.to_owned()).or_default();
        counts.retain(|name, _| !chosen(name));
        counts.extend(counted.iter().map(|count| (count.name.clone(), count.instructions)));
    }
}
