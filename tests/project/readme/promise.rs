//! What the comment at the end of a line says of what the line does.

/// What has to be printed.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Print {
    /// A line that is this.
    Line(String),
    /// A line that is a number above 0.
    Revision,
    /// A line that is a node's id.
    Id,
    /// All of these, somewhere.
    Words(Vec<String>),
}

/// What a line does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Promise {
    print: Option<Print>,
    /// The exit statuses that it may have.
    statuses: Vec<i32>,
}

impl Promise {
    /// Of a line with its comment.
    ///
    /// # Errors
    /// The comment says that something is printed, in words that this does not understand.
    pub fn of(line: &str) -> Result<Promise, String> {
        let comment = line.rsplit_once(" # ").map_or("", |(_, comment)| comment);
        let statuses = match comment.split_once("exit status ") {
            None => vec![0],
            Some((_, rest)) => {
                let digits = rest.split(|c: char| !c.is_ascii_digit()).next().unwrap_or_default();
                let status = digits.parse().map_err(|_| format!("no exit status in {comment:?}"))?;
                if rest[digits.len()..].starts_with(" if ") { vec![0, status] } else { vec![status] }
            }
        };
        let said = comment.strip_prefix("prints ").or_else(|| comment.strip_prefix("fails with "));
        let Some(said) = said else {
            let hidden = ["prints", "fails", "Error"].iter().find(|word| comment.contains(*word));
            return match hidden {
                Some(word) => {
                    Err(format!("{word:?} in the midst of {comment:?}: begin with it, so that it can be checked"))
                }
                None => Ok(Promise { print: None, statuses }),
            };
        };
        let quoted: Vec<String> = said.split('"').skip(1).step_by(2).map(String::from).collect();
        let first = said.split([':', ';', ',']).next().unwrap_or_default();
        let print = match first {
            _ if !quoted.is_empty() => Print::Words(quoted),
            "a revision" => Print::Revision,
            "an id" => Print::Id,
            text => Print::Line(text.to_owned()),
        };
        Ok(Promise { print: Some(print), statuses })
    }

    /// The words that have to be somewhere in what is printed.
    pub fn words(&self) -> &[String] {
        if let Some(Print::Words(words)) = &self.print { words } else { &[] }
    }

    /// Whether it is kept.
    ///
    /// # Errors
    /// It is not, and how.
    pub fn check(&self, output: &str, status: i32) -> Result<(), String> {
        if !self.statuses.contains(&status) {
            return Err(format!("exit status {status} instead of one of {:?}", self.statuses));
        }
        let mut lines = output.lines();
        let kept = match &self.print {
            None => true,
            Some(Print::Line(text)) => lines.any(|line| line == text),
            Some(Print::Revision) => lines.any(|line| line.parse::<i64>().is_ok_and(|revision| revision > 0)),
            Some(Print::Id) => lines.any(|line| {
                line.len() == 16 && line.bytes().all(|b| b.is_ascii_uppercase() || (b'2'..=b'7').contains(&b))
            }),
            Some(Print::Words(words)) => words.iter().all(|word| output.contains(word)),
        };
        if kept { Ok(()) } else { Err(format!("it does not print {:?}", self.print)) }
    }
}

/// A promise that nobody can break says nothing.
#[test]
fn a_broken_promise_is_found() {
    for (line, output, status, kept) in [
        ("x", "", 0, true),
        ("x", "", 1, false),
        ("x   # why", "anything", 0, true),
        ("x   # prints one", "zero\none\n", 0, true),
        ("x   # prints one", "zero one\n", 0, false),
        ("x   # prints one", "one\n", 1, false),
        ("x   # prints a revision: of what", "17\n", 0, true),
        ("x   # prints a revision: of what", "GAVE UP\n", 0, false),
        ("x   # prints an id: whose", "ABCDEFGHIJKLMN27\n", 0, true),
        ("x   # prints an id: whose", "\n", 0, false),
        ("x   # prints it: \"a b\" and \"c\"", "a b\nc", 0, true),
        ("x   # prints it: \"a b\" and \"c\"", "a b", 0, false),
        ("x   # fails with \"NO\", exit status 1: why", "Error: NO\n", 1, true),
        ("x   # fails with \"NO\", exit status 1: why", "Error: NO\n", 0, false),
        ("x   # fails with \"NO\", exit status 1: why", "Error: YES\n", 1, false),
        ("x   # exit status 1 if so", "", 0, true),
        ("x   # exit status 1 if so", "", 1, true),
        ("x   # exit status 1 if so", "", 2, false),
    ] {
        assert_eq!(Promise::of(line).unwrap().check(output, status).is_ok(), kept, "{line}: {output:?}, {status}");
    }
    for line in ["x   # then prints one", "x   # Error: NO", "x   # exit status one"] {
        assert!(Promise::of(line).is_err(), "{line}");
    }
}
