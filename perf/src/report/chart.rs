//! Charts as SVG: bars with whiskers for peers side by side, lines for a metric over a size.
#![forbid(unsafe_code)]
#![deny(clippy::disallowed_methods)]

use super::html::escape;
use super::number;
use crate::stats::Summary;

const WIDTH: f64 = 760.0;
const LABEL_WIDTH: f64 = 150.0;
/// Right of the longest bar, for its figure.
const FIGURE_WIDTH: f64 = 170.0;
const TITLE_HEIGHT: f64 = 34.0;
const BAR_STEP: f64 = 26.0;
const BAR_HEIGHT: f64 = 16.0;

const PLOT_HEIGHT: f64 = 260.0;
const PLOT_LEFT: f64 = 70.0;
const PLOT_RIGHT: f64 = 20.0;
const AXIS_HEIGHT: f64 = 50.0;

const HIGHLIGHT: &str = "#0b6e99";
const OTHER: &str = "#9db4c0";
const INK: &str = "#222";

#[derive(Debug, Clone)]
pub struct Bar {
    pub label: String,
    pub summary: Summary,
    pub highlighted: bool,
}

/// Horizontal bars from zero, with the spread as a whisker and the median as a figure.
pub fn bars(title: &str, unit: &str, bars: &[Bar]) -> String {
    let longest = bars.iter().map(|bar| bar.summary.spread().1.max(bar.summary.median)).fold(0.0, f64::max);
    let scale = if longest > 0.0 { (WIDTH - LABEL_WIDTH - FIGURE_WIDTH) / longest } else { 0.0 };
    let height = TITLE_HEIGHT + BAR_STEP * bars.len() as f64 + 8.0;
    let mut svg = head(title, unit, height);
    for (row, bar) in bars.iter().enumerate() {
        svg += &one_bar(bar, TITLE_HEIGHT + BAR_STEP * row as f64, scale);
    }
    svg + "</svg>\n"
}

fn one_bar(bar: &Bar, top: f64, scale: f64) -> String {
    let middle = top + BAR_HEIGHT / 2.0;
    let baseline = middle + 4.5;
    let (low, high) = bar.summary.spread();
    let (from, to) = (LABEL_WIDTH + low * scale, LABEL_WIDTH + high * scale);
    let colour = if bar.highlighted { HIGHLIGHT } else { OTHER };
    let length = bar.summary.median * scale;
    let mut svg = format!(
        "<text x=\"{:.1}\" y=\"{baseline:.1}\" text-anchor=\"end\">{}</text>\n\
         <rect x=\"{LABEL_WIDTH}\" y=\"{top:.1}\" width=\"{length:.1}\" height=\"{BAR_HEIGHT}\" fill=\"{colour}\"/>\n",
        LABEL_WIDTH - 8.0,
        escape(&bar.label),
    );
    if bar.summary.count > 1 {
        let (above, below) = (middle - 4.0, middle + 4.0);
        svg += &format!(
            "<path d=\"M{from:.1} {middle:.1}H{to:.1}M{from:.1} {above:.1}V{below:.1}M{to:.1} {above:.1}V{below:.1}\" \
             stroke=\"{INK}\" fill=\"none\"/>\n"
        );
    }
    let figure_at = LABEL_WIDTH + length.max(high * scale) + 8.0;
    svg + &format!(
        "<text x=\"{figure_at:.1}\" y=\"{baseline:.1}\">{}</text>\n",
        escape(&number::with_spread(&bar.summary))
    )
}

#[derive(Debug, Clone)]
pub struct Line {
    pub label: String,
    /// Size and summary, sizes ascending and above zero.
    pub points: Vec<(u64, Summary)>,
}

/// A metric over a size: logarithmic to the right, from zero upwards.
pub fn lines(title: &str, unit: &str, axis: &str, lines: &[Line]) -> String {
    let points = || lines.iter().flat_map(|line| &line.points);
    let top = points().map(|(_, s)| s.spread().1).fold(0.0, f64::max).max(f64::MIN_POSITIVE);
    let (smallest, largest) = (
        points().map(|&(size, _)| size).min().unwrap_or(1).max(1) as f64,
        points().map(|&(size, _)| size).max().unwrap_or(1).max(1) as f64,
    );
    let decades = (largest / smallest).ln().max(f64::MIN_POSITIVE);
    let plot_width = WIDTH - PLOT_LEFT - PLOT_RIGHT;
    let x = |size: u64| PLOT_LEFT + (size.max(1) as f64 / smallest).ln() / decades * plot_width;
    let y = |value: f64| TITLE_HEIGHT + PLOT_HEIGHT * (1.0 - value / top);

    let mut svg = head(title, unit, TITLE_HEIGHT + PLOT_HEIGHT + AXIS_HEIGHT);
    svg += &grid(top, y);
    let mut sizes: Vec<u64> = points().map(|&(size, _)| size).collect();
    sizes.sort_unstable();
    sizes.dedup();
    let axis_at = TITLE_HEIGHT + PLOT_HEIGHT + 18.0;
    for size in sizes {
        svg += &format!("<text x=\"{:.1}\" y=\"{axis_at}\" text-anchor=\"middle\">{size}</text>\n", x(size));
    }
    svg += &format!(
        "<text x=\"{}\" y=\"{}\" text-anchor=\"middle\">{}</text>\n",
        PLOT_LEFT + plot_width / 2.0,
        axis_at + 20.0,
        escape(axis)
    );
    for line in lines {
        svg += &one_line(line, x, y);
    }
    svg + "</svg>\n"
}

/// A rule and its figure at every quarter of the height.
fn grid(top: f64, y: impl Fn(f64) -> f64) -> String {
    let rules = (0..=4).map(|quarter| {
        let value = top * f64::from(quarter) / 4.0;
        let at = y(value);
        format!(
            "<path d=\"M{PLOT_LEFT} {at:.1}H{:.1}\" stroke=\"#ddd\"/>\n\
             <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>\n",
            WIDTH - PLOT_RIGHT,
            PLOT_LEFT - 8.0,
            at + 4.5,
            number::short(value)
        )
    });
    rules.collect()
}

fn one_line(line: &Line, x: impl Fn(u64) -> f64, y: impl Fn(f64) -> f64) -> String {
    let path: Vec<String> =
        line.points.iter().map(|(size, s)| format!("{:.1},{:.1}", x(*size), y(s.median))).collect();
    let mut svg = format!(
        "<polyline points=\"{}\" fill=\"none\" stroke=\"{HIGHLIGHT}\" stroke-width=\"2\"><title>{}</title></polyline>\n",
        path.join(" "),
        escape(&line.label)
    );
    for (size, summary) in &line.points {
        let (low, high) = summary.spread();
        svg += &format!(
            "<path d=\"M{0:.1} {1:.1}V{2:.1}\" stroke=\"{INK}\"/>\n\
             <circle cx=\"{0:.1}\" cy=\"{3:.1}\" r=\"3.5\" fill=\"{HIGHLIGHT}\"/>\n",
            x(*size),
            y(low),
            y(high),
            y(summary.median)
        );
    }
    svg
}

fn head(title: &str, unit: &str, height: f64) -> String {
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height:.0}\" width=\"{WIDTH}\" \
         height=\"{height:.0}\" font-family=\"system-ui,sans-serif\" font-size=\"12\" fill=\"{INK}\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n\
         <text x=\"8\" y=\"20\" font-size=\"14\" font-weight=\"bold\">{}, {}</text>\n",
        escape(title),
        escape(unit)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn summary(samples: &[f64]) -> Summary {
        Summary::of(samples).unwrap()
    }

    fn bar(label: &str, samples: &[f64]) -> Bar {
        Bar { label: label.into(), summary: summary(samples), highlighted: label == "vswitch" }
    }

    /// The values of an attribute, in order.
    fn attributes(svg: &str, name: &str) -> Vec<f64> {
        let marker = format!(" {name}=\"");
        svg.split(&marker).skip(1).filter_map(|rest| rest.split('"').next()?.parse().ok()).collect()
    }

    #[test]
    fn bars_are_as_long_as_their_medians() {
        let svg = bars("TCP", "Gbit/s", &[bar("vswitch", &[10.0, 10.0]), bar("a<b", &[5.0, 5.0])]);
        let widths = attributes(&svg, "width");
        // The picture itself, then the bars.
        let [.., long, short] = widths[..] else { panic!("{widths:?}") };
        assert!((long / short - 2.0).abs() < 0.01, "{long} {short}");
        assert!(long <= WIDTH - LABEL_WIDTH - FIGURE_WIDTH + 0.1);
        assert!(svg.contains("a&lt;b") && svg.contains("TCP, Gbit/s"));
        assert!(svg.contains(HIGHLIGHT) && svg.contains(OTHER));
    }

    #[test]
    fn whiskers_need_more_than_one_sample() {
        assert!(!bars("t", "u", &[bar("x", &[1.0])]).contains("<path"));
        assert!(bars("t", "u", &[bar("x", &[1.0, 2.0])]).contains("<path"));
    }

    #[test]
    fn nothing_and_zero_can_be_drawn() {
        for svg in [bars("t", "u", &[]), bars("t", "u", &[bar("x", &[0.0])]), lines("t", "u", "n", &[])] {
            assert!(svg.ends_with("</svg>\n") && !svg.contains("NaN") && !svg.contains("inf"), "{svg}");
        }
    }

    #[test]
    fn lines_span_the_plot() {
        let line =
            Line { label: "vswitch".into(), points: vec![(2, summary(&[1.0])), (1024, summary(&[2.0]))] };
        let svg = lines("t", "u", "ports", &[line]);
        let (xs, ys) = (attributes(&svg, "cx"), attributes(&svg, "cy"));
        assert_eq!(xs, [PLOT_LEFT, WIDTH - PLOT_RIGHT]);
        assert_eq!(ys, [TITLE_HEIGHT + PLOT_HEIGHT / 2.0, TITLE_HEIGHT]);
    }
}
