//! The pages, and the blocks of code in them.

use std::path::{Path, PathBuf};

use pulldown_cmark::{CodeBlockKind, Event, Options, Parser, Tag, TagEnd};

/// A block of commands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    pub text: String,
}

impl Block {
    /// The lines that have something in them.
    pub fn lines(&self) -> impl Iterator<Item = &str> {
        self.text.lines().filter(|line| !line.trim().is_empty())
    }
}

/// The blocks of a page that are commands: those that do not say that they are something else (a fence with `text`, `toml`).
pub fn blocks(markdown: &str) -> Vec<Block> {
    let (mut blocks, mut open) = (Vec::new(), None::<String>);
    for event in Parser::new_ext(markdown, Options::ENABLE_TABLES) {
        match event {
            Event::Start(Tag::CodeBlock(kind)) => {
                let commands = match &kind {
                    CodeBlockKind::Indented => true,
                    CodeBlockKind::Fenced(language) => ["", "sh", "bash", "shell", "console"].contains(&&**language),
                };
                open = commands.then(String::new);
            }
            Event::Text(text) => {
                if let Some(block) = &mut open {
                    block.push_str(&text);
                }
            }
            Event::End(TagEnd::CodeBlock) => blocks.extend(open.take().map(|text| Block { text })),
            _ => {}
        }
    }
    blocks
}

/// All pages below a directory, but for what is built there.
pub fn markdown(root: &Path) -> Vec<PathBuf> {
    let (mut pages, mut todo) = (Vec::new(), vec![root.to_path_buf()]);
    while let Some(directory) = todo.pop() {
        for entry in std::fs::read_dir(directory).unwrap() {
            let entry = entry.unwrap();
            let (name, path) = (entry.file_name(), entry.path());
            let hidden = name.as_encoded_bytes().starts_with(b".");
            if entry.file_type().unwrap().is_dir() {
                if !hidden && name != "target" && name != "bench-data" && name != "doozer-data" {
                    todo.push(path);
                }
            } else if path.extension().is_some_and(|extension| extension == "md") {
                pages.push(path.strip_prefix(root).unwrap().to_path_buf());
            }
        }
    }
    pages
}

#[test]
fn blocks_are_found_in_every_form() {
    let text =
        "a\n\n    one\n    two\n\n```\nthree\n```\n\n```sh\nfour\n```\n\n```text\nfive\n```\n\n* b\n\n      six\n";
    let found: Vec<String> = blocks(text).into_iter().map(|block| block.text).collect();
    assert_eq!(found, ["one\ntwo\n", "three\n", "four\n", "six\n"]);
}
