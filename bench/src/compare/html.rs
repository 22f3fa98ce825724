//! A record as a page of HTML that needs nothing else: pictures first, then all figures. It follows the reader's choice of light or
//! dark, and fits a narrow window: pictures shrink, tables are scrolled.

use std::fmt::Write;

use crate::compare::breakdown;
use crate::compare::chart::{self, Axis, Group, Line, bars, escape, lines};
use crate::compare::definition::Work;
use crate::compare::result::{Comparison, Row};
use crate::compare::table::{HEADS, UNASKED, cells, warning};
use crate::figure::grouped;
use crate::machine::Machine;
use crate::system::Kind;

const STYLE: &str = "\
:root{color-scheme:light dark;--ink:#222;--soft:#555;--page:#fafafa;--card:#fff;--edge:#e2e2e2;--row:#f2f4f7;--label:#333}\
@media(prefers-color-scheme:dark){:root{--ink:#e6e8eb;--soft:#a9afb8;--page:#14161a;--card:#1d2026;--edge:#3a404a;--row:#2a2f37;\
--label:#cdd2d9}}\
body{font-family:system-ui,'DejaVu Sans',sans-serif;color:var(--ink);background:var(--page);margin:0 auto;max-width:1200px;padding:24px;\
overflow-wrap:anywhere}\
@media(max-width:640px){body{padding:12px}}\
h1{font-size:26px}h2{font-size:21px;margin-top:44px;border-bottom:2px solid var(--edge);padding-bottom:6px}\
h3{font-size:16px;margin-top:28px}\
.charts{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(480px,100%),1fr));gap:18px;align-items:start}\
.chart{border:1px solid var(--edge);border-radius:6px;width:100%;height:auto;box-sizing:border-box}\
.wide{overflow-x:auto}table{border-collapse:collapse;font-size:13px;background:var(--card);white-space:nowrap}\
td,th{padding:3px 9px;text-align:right;border-bottom:1px solid var(--edge)}\
td:first-child,th:first-child,.stages td:nth-child(2){text-align:left}\
.load td{font-weight:600;background:var(--row);text-align:left}\
p,li{line-height:1.45}.note{color:var(--soft);font-size:14px}";

/// One colour a system, which are told apart by those who see few, too.
fn colour(kind: Kind) -> &'static str {
    match kind {
        Kind::Doozer => "#0072b2",
        Kind::Polling => "#56b4e9",
        Kind::ZooKeeper => "#d55e00",
        Kind::Etcd => "#009e73",
        Kind::Floor => "#8a8a8a",
    }
}

/// The page.
pub fn page(machine: &Machine, quick: bool, comparisons: &[Comparison]) -> String {
    let mut html = format!(
        "<!doctype html>\n<html lang='en'><head><meta charset='utf-8'><title>doozer-bench compare</title>\n\
         <meta name='viewport' content='width=device-width, initial-scale=1'>\n\
         <style>{STYLE}{}</style></head><body>\n<h1>doozerd beside ZooKeeper and etcd</h1>\n",
        chart::STYLE
    );
    let data = machine.data.as_ref();
    let data = data.map_or("an unknown file system".into(), |data| format!("{} ({})", data.file_system, data.options));
    let memory = crate::figure::float(machine.memory >> 20) / 1024.0;
    put(
        &mut html,
        &format!(
            "<p class='note'>{}; {} cores, {memory:.0} GiB; Linux {}; data on {}; measured at {}. Latencies are the \
         client's, on a logarithmic scale. What the floor is, and what these figures do not show, is in \
         <code>bench/README.md</code>.</p>",
            escape(&machine.processor),
            machine.cores_usable.len(),
            escape(&machine.kernel),
            escape(&data),
            machine.measured_at,
        ),
    );
    if quick {
        put(&mut html, "<p><strong>A quick run: it shows that all works, and nothing else.</strong></p>");
    }
    for comparison in comparisons {
        section(&mut html, comparison);
    }
    html + "</body></html>\n"
}

/// What a definition has shown.
pub fn section(html: &mut String, comparison: &Comparison) {
    let Comparison { definition, versions, remarks, rows, floor } = comparison;
    let versions: Vec<_> = versions.iter().map(|v| format!("{} {}", v.system, v.version)).collect();
    put(html, &format!("<h2>{}</h2>", escape(&definition.about)));
    put(
        html,
        &format!(
            "<p class='note'>{}. Medians of {} rounds of {} s, in turns.</p>",
            escape(&versions.join(", ")),
            definition.rounds,
            definition.seconds
        ),
    );
    let closed: Vec<&Row> = rows.iter().filter(|row| row.pace.is_none()).collect();
    // A fan-out's watches are renewed in between, so its rate says nothing.
    let fan_out = |row: &&Row| definition.loads.iter().any(|l| l.name == row.load && l.work == Work::FanOut);
    let counted: Vec<&Row> = closed.iter().copied().filter(|row| !fan_out(row)).collect();
    put(html, "<h3>How many</h3><div class='charts'>");
    html.push_str(&bars(
        "Operations a second (longer is better)",
        &groups(&counted, &|row| Some((row.rate.median, format!("{} /s", grouped(row.rate.median))))),
    ));
    html.push_str(&bars(
        "CPU time of all servers for an operation (shorter is better)",
        &groups(&closed, &|row| {
            let cpu = row.server_cpu?.median;
            Some((cpu, format!("{cpu:.1} µs")))
        }),
    ));
    put(html, "</div><h3>How long: latency by share of operations</h3><div class='charts'>");
    let names = names(&closed);
    for name in &names {
        let rows = closed.iter().filter(|row| row.load == *name);
        let mut all: Vec<Line> = rows.map(|row| curve(row, row.system.to_string())).collect();
        let alone = definition.loads.iter().find(|load| load.name == *name);
        let alone = alone.is_some_and(|l| l.connections == 1 && l.outstanding == 1 && l.work == Work::Set);
        all.extend(floor.iter().filter(|_| alone).map(|floor| curve(floor, "floor".to_string())));
        let axes = [Axis::Share("share of operations"), Axis::Time("latency")];
        html.push_str(&lines(name, axes, &all));
    }
    put(html, "</div>");
    let open: Vec<&Row> = rows.iter().filter(|row| row.pace.is_some()).collect();
    if !open.is_empty() {
        put(
            html,
            "<h3>How long at which rate: an open loop, latency from when an operation was due</h3><div class='charts'>",
        );
        for name in self::names(&open) {
            for (title, of) in QUANTILES {
                let axes = [Axis::Rate("operations a second"), Axis::Time("latency")];
                html.push_str(&lines(&format!("{name}: {title}"), axes, &by_rate(&open, &name, of)));
            }
        }
        put(html, "</div>");
    }
    put(html, "<h3>All figures</h3>");
    table(html, rows);
    stages(html, rows);
    put(html, "<ul class='note'>");
    for remark in remarks.iter().cloned().chain(rows.iter().filter_map(warning)) {
        put(html, &format!("<li>{}</li>", escape(&remark)));
    }
    put(html, "</ul>");
}

type Of = fn(&Row) -> f64;
const QUANTILES: [(&str, Of); 3] =
    [("p50", |row| row.p50.median), ("p99", |row| row.p99.median), ("p99.9", |row| row.p999.median)];

fn names(rows: &[&Row]) -> Vec<String> {
    let mut names: Vec<String> = rows.iter().map(|row| row.load.clone()).collect();
    names.dedup();
    names
}

fn groups(rows: &[&Row], of: &dyn Fn(&Row) -> Option<(f64, String)>) -> Vec<Group> {
    let bars = |name: &String| {
        let rows = rows.iter().filter(|row| row.load == *name);
        let bar = |row: &&Row| of(row).map(|(number, said)| (number, said, row.system));
        let bars = rows.filter_map(bar);
        bars.map(|(number, said, kind)| (kind.to_string(), colour(kind), number, format!("{said} {kind}"))).collect()
    };
    names(rows).iter().map(|name| Group { title: name.clone(), bars: bars(name) }).collect()
}

/// The last operation is at the share that half an operation more would have.
fn curve(row: &Row, name: String) -> Line {
    let last = 1.0 - 0.5 / crate::figure::float(row.operations.max(1));
    let points = row.curve.iter().map(|&(share, us)| (share.min(last), us)).collect();
    Line { name, colour: colour(row.system), dashed: row.system == Kind::Floor, marked: false, points }
}

/// A line a system; where it did not keep up, it ends.
fn by_rate(rows: &[&Row], name: &str, of: Of) -> Vec<Line> {
    let mut lines: Vec<Line> = Vec::new();
    for row in rows.iter().filter(|row| row.load == name && row.unasked.is_none_or(|unasked| unasked <= UNASKED)) {
        let (name, colour) = (row.system.to_string(), colour(row.system));
        let point = (row.rate.median, of(row));
        match lines.iter_mut().find(|line| line.name == name) {
            Some(line) => line.points.push(point),
            None => lines.push(Line { name, colour, dashed: false, marked: true, points: vec![point] }),
        }
    }
    lines
}

fn table(html: &mut String, rows: &[Row]) {
    let heads: Vec<_> = HEADS.iter().map(|head| format!("<th>{}</th>", escape(head))).collect();
    put(html, &format!("<div class='wide'><table><tr>{}</tr>", heads.concat()));
    let mut title = String::new();
    for row in rows {
        if row.title() != title {
            title = row.title();
            put(html, &format!("<tr class='load'><td colspan='{}'>{}</td></tr>", HEADS.len(), escape(&title)));
        }
        let cells: Vec<_> = cells(row).iter().map(|cell| format!("<td>{}</td>", escape(cell))).collect();
        put(html, &format!("<tr>{}</tr>", cells.concat()));
    }
    put(html, "</table></div>");
}

/// Where the mean of each load goes, if any server tells.
fn stages(html: &mut String, rows: &[Row]) {
    let lines: Vec<_> = rows.iter().filter_map(breakdown::cells).collect();
    if lines.is_empty() {
        return;
    }
    let row = |tag: &str, cells: &[String]| {
        let cells: Vec<_> = cells.iter().map(|cell| format!("<{tag}>{}</{tag}>", escape(cell))).collect();
        format!("<tr>{}</tr>", cells.concat())
    };
    put(html, "<h3>Commands a batch, and where the mean of a SET goes, in microseconds</h3>");
    put(html, &format!("<div class='wide'><table class='stages'>{}", row("th", &breakdown::heads().map(String::from))));
    lines.iter().for_each(|cells| put(html, &row("td", cells)));
    put(html, "</table></div>");
}

fn put(html: &mut String, text: &str) {
    // A String takes all that is written to it.
    let _written = writeln!(html, "{text}");
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::{Path, PathBuf};

    use super::*;

    /// The records that are kept, and their pages.
    fn records() -> Vec<(PathBuf, String)> {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("record");
        let files = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
        let records = files.filter(|path| path.extension().is_some_and(|extension| extension == "json"));
        records.map(|path| (path.with_extension("html"), crate::compare::page_of(&path).unwrap())).collect()
    }

    /// A page that is not made again when the generator is mended keeps its faults for ever.
    #[test]
    fn the_kept_pages_are_those_of_their_records() {
        assert!(!records().is_empty());
        for (path, page) in records() {
            let kept = std::fs::read_to_string(&path).unwrap();
            let line = kept.lines().zip(page.lines()).position(|(kept, made)| kept != made);
            let record = path.with_extension("json");
            let (record, path) = (record.display(), path.display());
            assert!(
                kept == page,
                "{path} differs from line {line:?} on: make it again: doozer-bench page {record} > {path}"
            );
        }
    }

    /// The name and the classes of each element.
    fn elements(html: &str) -> Vec<(&str, Vec<&str>)> {
        html.split('<').skip(1).filter_map(element).collect()
    }

    fn element(tag: &str) -> Option<(&str, Vec<&str>)> {
        let tag = tag.split_once('>')?.0;
        let name = tag.split(|c: char| !c.is_ascii_alphanumeric()).next().filter(|name| !name.is_empty())?;
        let classes = tag.split_once("class='").map_or("", |(_, rest)| rest.split('\'').next().unwrap_or_default());
        Some((name, classes.split_whitespace().collect()))
    }

    /// The selectors and the properties of each rule; a rule for some windows only is as good as any other.
    fn rules(style: &str) -> Vec<(Vec<&str>, &str)> {
        let blocks = style.split('}').filter_map(|block| block.rsplit_once('{'));
        blocks.map(|(head, body)| (head.rsplit('{').next().unwrap().split(',').collect(), body)).collect()
    }

    fn classes(selector: &str) -> BTreeSet<&str> {
        let ends = |c: char| !(c.is_ascii_alphanumeric() || c == '-');
        selector.split('.').skip(1).map(|rest| rest.split(ends).next().unwrap()).collect()
    }

    /// A rule that is meant for the lines of a picture once drew a pale outline around each letter of every label, for a box
    /// of the page had the same class.
    #[test]
    fn no_rule_reaches_what_it_is_not_meant_for() {
        for (selectors, _) in rules(chart::STYLE) {
            assert!(selectors.iter().all(|selector| selector.starts_with(".chart ")), "{selectors:?}");
        }
        for (_, page) in records() {
            let (mut outside, mut within) = (String::new(), String::new());
            for part in page.split("<svg") {
                match part.split_once("</svg>") {
                    Some((picture, after)) => {
                        within += &format!("<svg{picture}");
                        outside += after;
                    }
                    None => outside += part,
                }
            }
            let (outside, within) = (elements(&outside), elements(&within));
            let used = |elements: &[(&str, Vec<&str>)]| -> BTreeSet<String> {
                elements.iter().flat_map(|(_, classes)| classes).map(ToString::to_string).collect()
            };
            let (page, picture) = (used(&outside), used(&within));
            assert!(page.contains("charts") && picture.contains("chart"), "{page:?} {picture:?}");
            assert_eq!(page.intersection(&picture).count(), 0, "{page:?} {picture:?}");
            // A class without a rule, or a rule without an element, is a name that was changed in one place only.
            let all = rules(STYLE).into_iter().chain(rules(chart::STYLE));
            let ruled: BTreeSet<String> =
                all.flat_map(|(selectors, _)| selectors).flat_map(classes).map(String::from).collect();
            assert_eq!(ruled, page.union(&picture).cloned().collect());
            // An outline makes a text unreadable.
            for (selectors, body) in rules(STYLE).into_iter().chain(rules(chart::STYLE)) {
                let outlined = body.split(';').any(|property| property.starts_with("stroke"));
                let last = |selector: &str| selector.rsplit(' ').next().unwrap().trim_start_matches('.').to_string();
                for class in selectors.iter().filter(|_| outlined).map(|selector| last(selector)) {
                    let of = |(name, classes): &&(&str, Vec<&str>)| *name == class || classes.contains(&&class[..]);
                    let reached: BTreeSet<_> =
                        outside.iter().chain(&within).filter(of).map(|(name, _)| *name).collect();
                    assert_eq!(reached, BTreeSet::from(["line"]), "{class}");
                }
            }
        }
    }

    fn variables(body: &str) -> BTreeSet<&str> {
        body.split(';').filter(|p| p.starts_with("--")).map(|p| p.split(':').next().unwrap()).collect()
    }

    /// A page of fixed colours is unreadable where the browser brings its own for dark windows.
    #[test]
    fn colours_are_those_of_the_readers_scheme() {
        let roots: Vec<_> = rules(STYLE).into_iter().filter(|(selectors, _)| selectors == &[":root"]).collect();
        let [(_, light), (_, dark)] = &roots[..] else { panic!("{roots:?}") };
        assert_eq!(variables(light), variables(dark));
        for (selectors, body) in rules(STYLE).into_iter().chain(rules(chart::STYLE)) {
            assert!(selectors == [":root"] || !body.contains('#'), "{selectors:?}{{{body}}}");
        }
    }
}
