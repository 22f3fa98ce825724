//! Findings as lines, and as JSON.

use super::{Finding, Verdict};

/// Columns are no wider than this; what is longer stands out.
const WIDEST: usize = 46;

/// One line a knob: verdict, name, what is, what should be, and why. Below one that is not good, what to do.
pub fn text(findings: &[Finding]) -> String {
    let word = |verdict: Verdict| if verdict == Verdict::Bad { "BAD" } else { verdict.word() };
    let head = ["", "knob", "found", "wanted", "why"];
    let rows = findings.iter().map(|f| [word(f.verdict), f.knob, &f.found, &f.wanted, f.why]);
    let rows: Vec<[&str; 5]> = std::iter::once(head).chain(rows).collect();
    let widths: [usize; 5] = std::array::from_fn(|column| {
        let all = rows.iter().map(|row| row[column].chars().count());
        all.filter(|&n| n <= WIDEST).max().unwrap_or(0)
    });
    let remedies = std::iter::once(None).chain(findings.iter().map(|f| f.remedy.as_deref()));
    let mut text = String::new();
    for (row, remedy) in rows.iter().zip(remedies) {
        let cells: Vec<String> = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        text += cells.join("  ").trim_end();
        text.push('\n');
        if let Some(remedy) = remedy {
            text += &format!("{:indent$}-> {remedy}\n", "", indent = widths[0] + 2 + widths[1] + 2);
        }
    }
    let count = |verdict| findings.iter().filter(|f| f.verdict == verdict).count();
    let all = [Verdict::Bad, Verdict::Advice, Verdict::Unknown, Verdict::Good];
    text += &format!("\n{}\n", all.map(|verdict| format!("{} {}", count(verdict), verdict.word())).join(", "));
    text
}

/// An array with an object for each knob.
pub fn json(findings: &[Finding]) -> String {
    let object = |f: &Finding| {
        let remedy = f.remedy.as_deref().map_or_else(|| "null".into(), quoted);
        format!(
            "{{\"knob\": {}, \"found\": {}, \"wanted\": {}, \"verdict\": {}, \"why\": {}, \"remedy\": {remedy}}}",
            quoted(f.knob),
            quoted(&f.found),
            quoted(&f.wanted),
            quoted(f.verdict.word()),
            quoted(f.why),
        )
    };
    let objects: Vec<String> = findings.iter().map(object).collect();
    format!("[\n  {}\n]\n", objects.join(",\n  "))
}

/// A string of JSON.
fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            // They are all below U+00A0.
            c if c.is_control() => quoted += &format!("\\u{:04x}", u32::from(c)),
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A mount point may have any character in its name.
    #[test]
    fn whatever_a_name_holds_the_json_can_be_read() {
        let f = Finding {
            knob: "a",
            found: "q\" b\\ n\n e\u{1b} ü".into(),
            wanted: String::new(),
            verdict: Verdict::Good,
            why: "",
            remedy: None,
        };
        let read: serde_json::Value = serde_json::from_str(&json(std::slice::from_ref(&f))).unwrap();
        assert_eq!(read[0]["found"], f.found);
        assert_eq!(read[0]["remedy"], serde_json::Value::Null);
        assert_eq!(read.as_array().unwrap().len(), 1);
    }
}
