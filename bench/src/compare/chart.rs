//! Pictures as SVG: lines on axes of decades, and bars. Their colours and fonts are in [`STYLE`], which the page has to hold once.

use std::f64::consts::LOG10_2;
use std::fmt::Write;

use crate::figure::grouped;

const WIDTH: f64 = 560.0;
const HEIGHT: f64 = 350.0;
/// Of the drawing within the picture.
const LEFT: f64 = 74.0;
const RIGHT: f64 = 38.0;
const TOP: f64 = 62.0;
const BOTTOM: f64 = 52.0;
/// The most that a character of each size takes on average.
const TICK: f64 = 7.0;
const AXIS: f64 = 7.7;

/// The rules of all pictures. A rule of a page reaches the whole page, those within its pictures included, and the other way round; so
/// each of these is for elements below `.chart`, which only pictures are. The variables are the page's.
pub const STYLE: &str = "\
.chart text{font-family:system-ui,'DejaVu Sans',sans-serif;fill:var(--label)}\
.chart .title{font-size:15px;font-weight:600}.chart .tick{font-size:11px}.chart .axis{font-size:12px}\
.chart .gridline{stroke:var(--edge);stroke-width:1}.chart .paper{fill:var(--card)}";

/// 1, 2, 5 and 10 within a decade.
const STEPS: [f64; 4] = [0.0, LOG10_2, 1.0 - LOG10_2, 1.0];

/// A line of points.
#[derive(Clone, Debug)]
pub struct Line {
    /// What it is.
    pub name: String,
    /// Its colour, as SVG has it.
    pub colour: &'static str,
    /// Drawn with gaps.
    pub dashed: bool,
    /// Whether each point has a mark.
    pub marked: bool,
    /// In the units of the axes.
    pub points: Vec<(f64, f64)>,
}

/// What an axis shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Axis {
    /// A time in microseconds, in decades.
    Time(&'static str),
    /// Operations a second, in decades.
    Rate(&'static str),
    /// A share of all operations: each step comes ten times nearer to all of them.
    Share(&'static str),
}

impl Axis {
    fn label(self) -> &'static str {
        match self {
            Axis::Time(label) | Axis::Rate(label) | Axis::Share(label) => label,
        }
    }

    /// Where a number is, in decades.
    fn place(self, number: f64) -> f64 {
        match self {
            Axis::Time(_) | Axis::Rate(_) => number.max(f64::MIN_POSITIVE).log10(),
            Axis::Share(_) => -(1.0 - number).max(f64::MIN_POSITIVE).log10(),
        }
    }

    /// The decades from the least to the most of these places, as far as numbers go.
    fn span(self, places: impl Iterator<Item = f64>) -> (f64, f64) {
        let (low, high) = places.fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), p| (l.min(p), h.max(p)));
        if !(low.is_finite() && high.is_finite()) {
            return (0.0, 1.0);
        }
        match self {
            Axis::Share(_) => (0.0, high.max(1.0)),
            // To the next of 1, 2, 5.
            _ => {
                let down =
                    |p: f64| p.floor() + STEPS.iter().rev().find(|s| **s <= p - p.floor() + 1e-9).unwrap_or(&0.0);
                let up = |p: f64| p.floor() + STEPS.iter().find(|s| **s >= p - p.floor() - 1e-9).unwrap_or(&1.0);
                let (low, high) = (down(low), up(high));
                if high - low < 0.3 { (low, low + 1.0) } else { (low, high) }
            }
        }
    }

    /// Places with a label, and those with a line only.
    fn ticks(self, low: f64, high: f64) -> Vec<(f64, Option<String>)> {
        let mut ticks = Vec::new();
        let count = if matches!(self, Axis::Share(_)) { 1 } else { 3 };
        // Where there are many decades, only they have room for a label.
        let labelled = if high - low > 2.5 { 1 } else { 3 };
        let mut decade = low.floor();
        while decade <= high {
            for (number, step) in STEPS.iter().take(count).enumerate() {
                let place = decade + step;
                if place >= low - 1e-9 && place <= high + 1e-9 {
                    ticks.push((place, (number < labelled).then(|| self.text(place))));
                }
            }
            decade += 1.0;
        }
        ticks
    }

    fn text(self, place: f64) -> String {
        let number = 10_f64.powf(place);
        match self {
            Axis::Time(_) if number < 999.0 => format!("{number:.0} µs"),
            Axis::Time(_) if number < 999_000.0 => format!("{:.0} ms", number / 1e3),
            Axis::Time(_) => format!("{:.0} s", number / 1e6),
            Axis::Rate(_) => grouped(number),
            Axis::Share(_) if place < 0.5 => "0 %".to_string(),
            Axis::Share(_) => {
                let nines = place.round();
                #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a few digits")]
                let digits = (nines - 2.0).max(0.0) as usize;
                format!("{:.digits$} %", 100.0 * (1.0 - 10_f64.powf(-nines)))
            }
        }
    }
}

/// Lines on two axes.
pub fn lines(title: &str, axes: [Axis; 2], lines: &[Line]) -> String {
    let [across, up] = axes;
    let points = || lines.iter().flat_map(|line| &line.points);
    let (x0, x1) = across.span(points().map(|(x, _)| across.place(*x)));
    let (y0, y1) = up.span(points().map(|(_, y)| up.place(*y)));
    let x = |number: f64| LEFT + (number - x0) / (x1 - x0) * (WIDTH - LEFT - RIGHT);
    let y = |number: f64| HEIGHT - BOTTOM - (number - y0) / (y1 - y0) * (HEIGHT - TOP - BOTTOM);
    let mut svg = begin(title, HEIGHT);
    // A label that would stand in the one before it is left out.
    let mut free = 0.0;
    for (place, label) in across.ticks(x0, x1) {
        let at = x(place);
        put(
            &mut svg,
            &format!("<line class='gridline' x1='{at:.1}' x2='{at:.1}' y1='{TOP}' y2='{}'/>", HEIGHT - BOTTOM),
        );
        let room = |label: &String| width(label, TICK) / 2.0;
        if let Some(label) = label.filter(|label| at - room(label) >= free) {
            free = at + room(&label);
            let below = HEIGHT - BOTTOM + 17.0;
            put(&mut svg, &format!("<text class='tick' x='{at:.1}' y='{below}' text-anchor='middle'>{label}</text>"));
        }
    }
    for (place, label) in up.ticks(y0, y1) {
        let at = y(place);
        put(
            &mut svg,
            &format!("<line class='gridline' x1='{LEFT}' x2='{}' y1='{at:.1}' y2='{at:.1}'/>", WIDTH - RIGHT),
        );
        if let Some(label) = label {
            let (left, base) = (LEFT - 8.0, at + 4.0);
            put(&mut svg, &format!("<text class='tick' x='{left}' y='{base:.1}' text-anchor='end'>{label}</text>"));
        }
    }
    let (middle, bottom) = ((LEFT + WIDTH - RIGHT) / 2.0, HEIGHT - 12.0);
    put(
        &mut svg,
        &format!("<text class='axis' x='{middle}' y='{bottom}' text-anchor='middle'>{}</text>", across.label()),
    );
    let middle = (TOP + HEIGHT - BOTTOM) / 2.0;
    put(
        &mut svg,
        &format!(
            "<text class='axis' transform='translate(15 {middle}) rotate(-90)' text-anchor='middle'>{}</text>",
            up.label()
        ),
    );
    for line in lines {
        let places: Vec<_> = line.points.iter().map(|&(h, v)| (x(across.place(h)), y(up.place(v)))).collect();
        let text: Vec<_> = places.iter().map(|(h, v)| format!("{h:.1},{v:.1}")).collect();
        let dashes = if line.dashed { " stroke-dasharray='5 4'" } else { "" };
        let (colour, text) = (line.colour, text.join(" "));
        put(&mut svg, &format!("<polyline fill='none' stroke='{colour}' stroke-width='2.2'{dashes} points='{text}'/>"));
        if line.marked {
            for (h, v) in places {
                put(&mut svg, &format!("<circle cx='{h:.1}' cy='{v:.1}' r='3.4' fill='{colour}'/>"));
            }
        }
    }
    legend(&mut svg, lines);
    svg + "</svg>\n"
}

fn legend(svg: &mut String, lines: &[Line]) {
    let mut at = LEFT;
    for line in lines {
        let dashes = if line.dashed { " stroke-dasharray='5 4'" } else { "" };
        let (colour, end, text) = (line.colour, at + 22.0, at + 27.0);
        put(svg, &format!("<line x1='{at}' x2='{end}' y1='44' y2='44' stroke='{colour}' stroke-width='3'{dashes}/>"));
        put(svg, &format!("<text class='tick' x='{text}' y='48'>{}</text>", escape(&line.name)));
        at = text + width(&line.name, TICK) + 14.0;
    }
}

/// A group of bars: a title, and for each bar its name, colour, length and what is said of it.
#[derive(Clone, Debug)]
pub struct Group {
    /// What the bars are of.
    pub title: String,
    /// Name, colour, number, text.
    pub bars: Vec<(String, &'static str, f64, String)>,
}

/// How much room a text takes.
fn width(text: &str, character: f64) -> f64 {
    character * crate::figure::float(text.chars().count() as u64)
}

/// Bars; the longest of each group has the full length, which is what the texts leave.
pub fn bars(title: &str, groups: &[Group]) -> String {
    const BAR: f64 = 15.0;
    const GAP: f64 = 8.0;
    let titles = groups.iter().map(|group| width(&group.title, AXIS));
    let from = GAP + titles.fold(160.0, f64::max) + GAP;
    let said = groups.iter().flat_map(|group| &group.bars).map(|bar| width(&bar.3, TICK));
    let full = (WIDTH - from - said.fold(0.0, f64::max) - 2.0 * GAP).max(10.0);
    let rows: usize = groups.iter().map(|group| group.bars.len()).sum();
    let height = 44.0 + BAR * crate::figure::float(rows as u64) + 14.0 * crate::figure::float(groups.len() as u64);
    let mut svg = begin(title, height);
    let mut y = 40.0;
    for group in groups {
        let most = group.bars.iter().map(|bar| bar.2).fold(f64::MIN_POSITIVE, f64::max);
        let middle = y + BAR * crate::figure::float(group.bars.len() as u64) / 2.0 + 4.0;
        let (left, text) = (from - GAP, escape(&group.title));
        put(&mut svg, &format!("<text class='axis' x='{left}' y='{middle:.1}' text-anchor='end'>{text}</text>"));
        for (_, colour, number, said) in &group.bars {
            let (length, thick) = ((number / most * full).max(1.0), BAR - 3.0);
            let rect = format!("x='{from:.1}' y='{y:.1}' width='{length:.1}' height='{thick}'");
            put(&mut svg, &format!("<rect {rect} rx='2' fill='{colour}'/>"));
            let (end, base) = (from + length + GAP, y + 10.5);
            put(&mut svg, &format!("<text class='tick' x='{end:.1}' y='{base:.1}'>{}</text>", escape(said)));
            y += BAR;
        }
        y += 14.0;
    }
    svg + "</svg>\n"
}

fn begin(title: &str, height: f64) -> String {
    format!(
        "<svg xmlns='http://www.w3.org/2000/svg' class='chart' viewBox='0 0 {WIDTH} {height}' role='img' aria-label='{title}'>\n\
         <rect class='paper' width='{WIDTH}' height='{height}'/>\n\
         <text class='title' x='14' y='24'>{title}</text>\n",
        title = escape(title)
    )
}

fn put(svg: &mut String, element: &str) {
    // A String takes all that is written to it.
    let _written = writeln!(svg, "{element}");
}

/// Text as it has to be in HTML and SVG.
pub fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('\'', "&#39;")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(svg: &str) -> Vec<(f64, f64)> {
        let points = svg.split("points='").skip(1).flat_map(|rest| rest.split('\'').next().unwrap().split(' '));
        let pair = |point: &str| {
            let (x, y) = point.split_once(',').unwrap();
            (x.parse().unwrap(), y.parse().unwrap())
        };
        points.map(pair).collect()
    }

    /// What is outside of the axes is not seen, and a point of no place is none at all.
    #[test]
    fn all_points_are_within_the_axes() {
        let points = vec![(0.0, 80.0), (0.5, 100.0), (0.999, 30_000.0), (0.999_99, 2_000_000.0)];
        let line = Line { name: "a<b".into(), colour: "#000", dashed: false, marked: true, points };
        let svg = lines("t", [Axis::Share("share"), Axis::Time("time")], &[line]);
        let places = places(&svg);
        assert_eq!(places.len(), 4);
        for (x, y) in &places {
            assert!((LEFT..=WIDTH - RIGHT).contains(x) && (TOP..=HEIGHT - BOTTOM).contains(y), "{x} {y}");
        }
        assert!(places.windows(2).all(|pair| pair[0].0 < pair[1].0 && pair[0].1 > pair[1].1), "{places:?}");
        assert!(svg.contains("a&lt;b") && !svg.contains("NaN") && !svg.contains("inf"));
        for label in ["0 %", "90 %", "99 %", "99.9 %", "99.99 %", "100 µs", "1 ms", "10 ms", "1 s"] {
            assert!(svg.contains(&format!(">{label}<")), "{label}");
        }
    }

    #[test]
    fn labels_do_not_stand_in_each_other() {
        let points = vec![(0.0, 80.0), (0.999_999_9, 100.0)];
        let line = Line { name: "a".into(), colour: "#000", dashed: false, marked: false, points };
        let svg = lines("t", [Axis::Share("share"), Axis::Time("time")], &[line]);
        let below = format!("y='{}' text-anchor='middle'>", HEIGHT - BOTTOM + 17.0);
        let label = |text: &str| {
            let (before, after) = text.split_once(&below)?;
            let half = width(after.split('<').next()?, TICK) / 2.0;
            Some((number(before, "x") - half, number(before, "x") + half))
        };
        let labels: Vec<_> = svg.split("<text").filter_map(label).collect();
        assert!((4..8).contains(&labels.len()), "{labels:?}");
        // Places are written with one digit after the point.
        assert!(labels.windows(2).all(|pair| pair[0].1 < pair[1].0 + 0.1), "{labels:?}");
    }

    #[test]
    fn a_picture_of_nothing_is_still_one() {
        let svg = lines("t", [Axis::Rate("rate"), Axis::Time("time")], &[]);
        assert!(svg.ends_with("</svg>\n") && !svg.contains("NaN"));
    }

    #[test]
    fn a_narrow_range_has_labels() {
        let rate = Axis::Rate("rate");
        let (low, high) = rate.span([1200.0, 1300.0].into_iter().map(|n| rate.place(n)));
        let labels = rate.ticks(low, high).into_iter().filter_map(|(_, label)| label).collect::<Vec<_>>();
        assert_eq!(labels, ["1,000", "2,000"]);
    }

    #[test]
    fn the_longest_bar_of_a_group_has_the_full_length() {
        let bar = |number| ("a".to_string(), "#000", number, "said".to_string());
        let group = Group { title: "g".into(), bars: vec![bar(1.0), bar(4.0)] };
        let svg = bars("t", &[group]);
        let lengths: Vec<f64> = svg.split("<rect").skip(2).map(|rect| number(rect, "width")).collect();
        assert!(lengths[1] > 100.0 && (lengths[1] - 4.0 * lengths[0]).abs() < 0.5, "{lengths:?}");
    }

    fn number(element: &str, name: &str) -> f64 {
        element.split_once(&format!("{name}='")).unwrap().1.split('\'').next().unwrap().parse().unwrap()
    }

    /// Where a text begins and ends, if its characters are as wide as may be.
    fn extents(svg: &str) -> Vec<(f64, f64, String)> {
        let texts = svg.split("<text class='").skip(1).filter(|text| !text.contains("rotate"));
        let extent = |text: &str| {
            let content = text.split_once('>').unwrap().1.split('<').next().unwrap().to_string();
            let character = if text.starts_with("tick") { TICK } else { AXIS };
            let (x, width) = (number(text, "x"), width(&content, character));
            let start = if text.contains("'end'") {
                x - width
            } else if text.contains("'middle'") {
                x - width / 2.0
            } else {
                x
            };
            (start, start + width, content)
        };
        texts.map(extent).collect()
    }

    /// What is out of the frame is not seen.
    #[test]
    fn texts_are_within_the_frame() {
        let bar = |kind: &str, number: f64| (kind.to_string(), "#000", number, format!("{number} {kind}"));
        let bars_of = |most| vec![bar("doozer", 1.0), bar("/s doozer-polling", most)];
        let group = |title: &str, most| Group { title: title.into(), bars: bars_of(most) };
        let long = "a-load-with-the-longest-name----";
        let one = bars("t", &[group("set-1x1-10000-watches", 1_316_923.0), group("get", 2.0)]);
        let two = bars("t", &[group(long, 1_316_923.0)]);
        let names = ["doozer", "doozer-polling", "zookeeper", "etcd", "floor"];
        let line = |name: &str, points| Line { name: name.into(), colour: "#000", dashed: false, marked: true, points };
        let all: Vec<Line> = names.map(|name| line(name, vec![(1000.0, 70.0), (1e6, 20_000_000.0)])).into();
        let three = lines(long, [Axis::Rate("rate"), Axis::Time("time")], &all);
        let points = vec![(0.0, 1e8), (1.0 - 1e-7, 1e9)];
        let four = lines("t", [Axis::Share("share"), Axis::Time("time")], &[line("a", points)]);
        for svg in [one, two, three, four] {
            for (start, end, text) in extents(&svg) {
                assert!(start >= 0.0 && end <= WIDTH, "{text} from {start} to {end}");
            }
        }
    }
}
