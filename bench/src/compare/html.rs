//! A record as a page of HTML that needs nothing else: pictures first, then all figures.

use std::fmt::Write;

use crate::compare::breakdown;
use crate::compare::chart::{Axis, Group, Line, bars, escape, lines};
use crate::compare::definition::Work;
use crate::compare::result::{Comparison, Row};
use crate::compare::table::{HEADS, UNASKED, cells, warning};
use crate::figure::grouped;
use crate::machine::Machine;
use crate::system::Kind;

const STYLE: &str = "\
body{font-family:system-ui,'DejaVu Sans',sans-serif;color:#222;background:#fafafa;margin:0 auto;max-width:1200px;padding:24px}\
h1{font-size:26px}h2{font-size:21px;margin-top:44px;border-bottom:2px solid #ddd;padding-bottom:6px}h3{font-size:16px;margin-top:28px}\
.grid{display:grid;grid-template-columns:repeat(auto-fit,minmax(480px,1fr));gap:18px}\
.grid svg{border:1px solid #e2e2e2;border-radius:6px;width:100%;height:auto}\
table{border-collapse:collapse;font-size:13px;background:#fff}td,th{padding:3px 9px;text-align:right;border-bottom:1px solid #eee}\
td:first-child,th:first-child,table.stages td:nth-child(2){text-align:left}tr.load td{font-weight:600;background:#f2f4f7;text-align:left}\
p,li{line-height:1.45}.note{color:#555;font-size:14px}";

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
         <style>{STYLE}</style></head><body>\n<h1>doozerd beside ZooKeeper and etcd</h1>\n"
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
    put(html, "<h3>How many</h3><div class='grid'>");
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
    put(html, "</div><h3>How long: latency by share of operations</h3><div class='grid'>");
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
            "<h3>How long at which rate: an open loop, latency from when an operation was due</h3><div class='grid'>",
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
    put(html, &format!("<table><tr>{}</tr>", heads.concat()));
    let mut title = String::new();
    for row in rows {
        if row.title() != title {
            title = row.title();
            put(html, &format!("<tr class='load'><td colspan='{}'>{}</td></tr>", HEADS.len(), escape(&title)));
        }
        let cells: Vec<_> = cells(row).iter().map(|cell| format!("<td>{}</td>", escape(cell))).collect();
        put(html, &format!("<tr>{}</tr>", cells.concat()));
    }
    put(html, "</table>");
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
    put(html, &format!("<table class='stages'>{}", row("th", &breakdown::heads().map(String::from))));
    lines.iter().for_each(|cells| put(html, &row("td", cells)));
    put(html, "</table>");
}

fn put(html: &mut String, text: &str) {
    // A String takes all that is written to it.
    let _written = writeln!(html, "{text}");
}
