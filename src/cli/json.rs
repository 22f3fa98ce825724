//! The output of `-json`: one object a line, even if a body contains newlines.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;

use crate::client::{Change, Event, File, Stat};

/// A body: its bytes, and its text if it is UTF-8.
#[derive(Serialize)]
struct Body<'a> {
    len: usize,
    /// Base64 of the bytes.
    body: String,
    /// Omitted unless the bytes are UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<&'a str>,
}

impl<'a> From<&'a [u8]> for Body<'a> {
    fn from(bytes: &'a [u8]) -> Self {
        Self { len: bytes.len(), body: STANDARD.encode(bytes), text: std::str::from_utf8(bytes).ok() }
    }
}

fn line(object: &impl Serialize) -> String {
    let mut line = serde_json::to_string(object).expect("a struct of numbers and strings");
    line.push('\n');
    line
}

/// Returns the word for a kind of change.
pub const fn kind(change: Change) -> &'static str {
    match change {
        Change::Set => "set",
        Change::Del => "del",
        Change::Nop => "nop",
    }
}

/// Returns an event as a line.
pub fn event(event: &Event) -> String {
    #[derive(Serialize)]
    struct Object<'a> {
        path: &'a str,
        rev: i64,
        kind: &'static str,
        #[serde(flatten)]
        body: Body<'a>,
    }
    let body = event.value.as_slice().into();
    line(&Object { path: &event.path, rev: event.rev, kind: kind(event.change), body })
}

/// Returns a file with its body as a line.
pub fn file(path: &str, file: &File) -> String {
    #[derive(Serialize)]
    struct Object<'a> {
        path: &'a str,
        rev: i64,
        #[serde(flatten)]
        body: Body<'a>,
    }
    line(&Object { path, rev: file.rev, body: file.value.as_slice().into() })
}

/// Returns a file or directory as a line, or nothing if the path is missing.
pub fn stat(path: &str, stat: Stat) -> String {
    #[derive(Serialize)]
    #[serde(tag = "kind", rename_all = "lowercase")]
    enum Object<'a> {
        File { path: &'a str, rev: i64, len: u32 },
        Directory { path: &'a str, entries: u32 },
    }
    match stat {
        Stat::File { rev, len } => line(&Object::File { path, rev, len }),
        Stat::Directory { entries } => line(&Object::Directory { path, entries }),
        Stat::Missing => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_with_newlines_stays_on_one_line() {
        let value = b"two\nlines\n".to_vec();
        let set = Event { rev: 8, path: "/a".into(), value: value.clone(), change: Change::Set };
        let body = r#""len":10,"body":"dHdvCmxpbmVzCg==","text":"two\nlines\n""#;
        assert_eq!(event(&set), format!("{{\"path\":\"/a\",\"rev\":8,\"kind\":\"set\",{body}}}\n"));
        assert_eq!(file("/a", &File { rev: 8, value }), format!("{{\"path\":\"/a\",\"rev\":8,{body}}}\n"));
    }

    #[test]
    fn a_body_that_is_no_text_has_none() {
        let binary = File { rev: 1, value: b"\xff\0".to_vec() };
        assert_eq!(file("/a", &binary), "{\"path\":\"/a\",\"rev\":1,\"len\":2,\"body\":\"/wA=\"}\n");
    }

    #[test]
    fn a_stat_says_what_stands_there() {
        let file = stat("/a", Stat::File { rev: 3, len: 4 });
        assert_eq!(file, "{\"kind\":\"file\",\"path\":\"/a\",\"rev\":3,\"len\":4}\n");
        let directory = stat("/", Stat::Directory { entries: 2 });
        assert_eq!(directory, "{\"kind\":\"directory\",\"path\":\"/\",\"entries\":2}\n");
    }
}
