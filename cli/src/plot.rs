//! Curves as SVG.

use anyhow::{Result, anyhow, bail};
use etalon::format::write_atomically;
use plotters::coord::ranged1d::{KeyPointHint, NoDefaultFormatting, Ranged, ValueFormatter};
use plotters::element::DashedPathElement;
use plotters::prelude::*;
use std::ops::Range;
use std::path::Path;

/// Okabe and Ito's colours, which the colour-blind can tell apart; yellow, hard to see on white, is last.
const COLOURS: [RGBColor; 8] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(230, 159, 0),
    RGBColor(86, 180, 233),
    RGBColor(0, 0, 0),
    RGBColor(240, 228, 66),
];

/// Dash and gap of the lines, in pixels, when the colours are used up.
const DASHES: [(i32, i32); 3] = [(1, 0), (8, 5), (2, 4)];

/// Width of a line in the legend.
const LEGEND: i32 = 26;

const SIZE: (u32, u32) = (900, 560);

/// Differences of numbers below this are finite.
const HUGE: f64 = 1e300;

/// A named curve.
pub(crate) type Series = (String, Vec<(f64, f64)>);

/// Writes curves as an SVG with a legend. Points that are not finite (or as good as infinite)
/// are left out, and with `log_y` those that are not positive.
/// Points of short curves are marked.
pub(crate) fn lines(path: &Path, title: &str, x_label: &str, y_label: &str, log_y: bool, series: &[Series]) -> Result<()> {
    let usable = |p: &(f64, f64)| p.0.abs() < HUGE && p.1.abs() < HUGE && (!log_y || p.1 > 0.0);
    let curves = series.iter().map(|(name, points)| (name.clone(), points.iter().copied().filter(usable).collect()));
    let series: Vec<Series> = curves.collect();
    let all = || series.iter().flat_map(|s| &s.1);
    let (x, y) = (Axis::over(all().map(|p| p.0), false), Axis::over(all().map(|p| p.1), log_y));
    let (Some(x), Some(y)) = (x, y) else {
        bail!("{}: there is no point to draw", path.display());
    };
    let plot = Plot { title, labels: (x_label, y_label), axes: (x, y), series: &series };
    let mut svg = String::new();
    plot.draw(&mut svg).map_err(|e| anyhow!("{}: the curves cannot be drawn: {e}", path.display()))?;
    Ok(write_atomically(path, svg.as_bytes())?)
}

struct Plot<'a> {
    title: &'a str,
    labels: (&'a str, &'a str),
    axes: (Axis, Axis),
    series: &'a [Series],
}

impl Plot<'_> {
    /// The corner in whose part of the plot the fewest points lie.
    fn free_corner(&self) -> SeriesLabelPosition {
        let corners = [
            (SeriesLabelPosition::UpperRight, true, true),
            (SeriesLabelPosition::LowerLeft, false, false),
            (SeriesLabelPosition::UpperLeft, false, true),
            (SeriesLabelPosition::LowerRight, true, false),
        ];
        let (x, y) = &self.axes;
        let covered = |right: bool, upper: bool| {
            // Half of the width, two fifths of the height: a legend of ten lines.
            let under = |p: &&(f64, f64)| (x.part(p.0) > 0.5) == right && if upper { y.part(p.1) > 0.6 } else { y.part(p.1) < 0.4 };
            // Curves of many points do not outweigh others.
            self.series.iter().map(|s| s.1.iter().filter(under).count() as f64 / s.1.len().max(1) as f64).sum::<f64>()
        };
        let best = corners.into_iter().min_by(|a, b| covered(a.1, a.2).total_cmp(&covered(b.1, b.2)));
        best.map_or(SeriesLabelPosition::UpperRight, |c| c.0)
    }

    fn draw(self, svg: &mut String) -> Result<(), DrawingAreaErrorKind<std::io::Error>> {
        let legend = self.free_corner();
        let root = SVGBackend::with_string(svg, SIZE).into_drawing_area();
        // Readers in the dark get a white page too, not black letters on black.
        root.fill(&WHITE)?;
        let mut chart = ChartBuilder::on(&root)
            .caption(self.title, ("sans-serif", 22))
            .margin(16)
            .x_label_area_size(48)
            .y_label_area_size(72)
            .build_cartesian_2d(self.axes.0, self.axes.1)?;
        chart
            .configure_mesh()
            .x_desc(self.labels.0)
            .y_desc(self.labels.1)
            .axis_desc_style(("sans-serif", 17))
            .label_style(("sans-serif", 15))
            .bold_line_style(BLACK.mix(0.15))
            .draw()?;
        for (i, (name, points)) in self.series.iter().enumerate() {
            let colour = COLOURS[i % COLOURS.len()];
            let (dash, gap) = DASHES[i / COLOURS.len() % DASHES.len()];
            let style = colour.stroke_width(2);
            let drawn = if gap == 0 {
                chart.draw_series(LineSeries::new(points.iter().copied(), style))?
            } else {
                chart.draw_series(DashedLineSeries::new(points.iter().copied(), dash, gap, style))?
            };
            // In the legend a piece of the line, dashed alike.
            drawn.label(name).legend(move |(x, y)| {
                let (dash, gap) = if gap == 0 { (LEGEND, LEGEND) } else { (dash, gap) };
                DashedPathElement::new([(x, y), (x + LEGEND, y)], dash, gap, style).into_dyn()
            });
            if points.len() <= 32 {
                chart.draw_series(points.iter().map(|p| Circle::new(*p, 3, colour.filled())))?;
            }
        }
        chart
            .configure_series_labels()
            .position(legend)
            .margin(12)
            .legend_area_size(LEGEND + 10)
            .background_style(WHITE.mix(0.85))
            .border_style(BLACK.mix(0.3))
            .label_font(("sans-serif", 15))
            .draw()?;
        root.present()
    }
}

/// An axis with round numbers.
#[derive(Clone)]
struct Axis {
    range: Range<f64>,
    log: bool,
    ticks: Vec<f64>,
}

impl Axis {
    /// From the least to the largest value, with some room around.
    fn over(values: impl Iterator<Item = f64>, log: bool) -> Option<Self> {
        let scaled = values.map(|v| scale(v, log));
        let (low, high) = scaled.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), v| (low.min(v), high.max(v)));
        if low > high {
            return None;
        }
        let wide = high - low > 1e-9 * high.abs().max(low.abs());
        let room = if wide { (high - low) / 25.0 } else { (high.abs() / 10.0).max(1e-3) };
        let range = low - room..high + room;
        let ticks = if log { log_ticks(&range) } else { ticks(&range) };
        Some(Self { range, log, ticks })
    }

    /// Where a value lies: 0 at the axis' beginning, 1 at its end.
    fn part(&self, value: f64) -> f64 {
        (scale(value, self.log) - self.range.start) / (self.range.end - self.range.start)
    }
}

/// A value as it lies on an axis.
fn scale(v: f64, log: bool) -> f64 {
    if log { v.log10() } else { v }
}

impl Ranged for Axis {
    type FormatOption = NoDefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, limit: (i32, i32)) -> i32 {
        limit.0 + (f64::from(limit.1 - limit.0) * self.part(*value)).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, hint: Hint) -> Vec<f64> {
        // Only lines that have a number.
        if hint.weight().allow_light_points() { Vec::new() } else { self.ticks.clone() }
    }

    fn range(&self) -> Range<f64> {
        let back = |v: f64| if self.log { 10f64.powf(v) } else { v };
        back(self.range.start)..back(self.range.end)
    }
}

impl ValueFormatter<f64> for Axis {
    fn format(value: &f64) -> String {
        number(*value)
    }
}

/// Round numbers of a range: some 5 to 10.
fn ticks(range: &Range<f64>) -> Vec<f64> {
    let raw = (range.end - range.start) / 8.0;
    let power = 10f64.powf(raw.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].into_iter().map(|m| m * power).find(|s| *s >= raw).unwrap_or(raw);
    if !(step.is_finite() && step > 0.0) {
        return vec![range.start, range.end];
    }
    let first = (range.start / step).ceil();
    (0..16).map(|i| (first + f64::from(i)) * step).filter(|t| *t <= range.end).collect()
}

/// The same where the range is one of decimal logarithms: powers of ten, with round numbers between as there is room
/// for.
fn log_ticks(range: &Range<f64>) -> Vec<f64> {
    let decades = range.end - range.start;
    if decades < 0.4 {
        return ticks(&(10f64.powf(range.start)..10f64.powf(range.end)));
    }
    let among: &[f64] = match decades {
        ..1.0 => &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0],
        ..4.0 => &[1.0, 2.0, 5.0],
        _ => &[1.0],
    };
    let every = ((decades / 10.0).ceil() as i32).max(1);
    let powers = (range.start.floor() as i32..=range.end.ceil() as i32).filter(|p| p % every == 0);
    powers.flat_map(|p| among.iter().map(move |m| m * 10f64.powi(p))).filter(|t| range.contains(&t.log10())).collect()
}

/// A number of an axis: short, and without the noise of the last digits.
fn number(v: f64) -> String {
    let magnitude = v.abs();
    if magnitude != 0.0 && !(1e-4..1e7).contains(&magnitude) {
        // Through text: three digits, of which zeros at the end are dropped.
        return format!("{:e}", format!("{v:.2e}").parse::<f64>().unwrap_or(v));
    }
    let digits = if magnitude == 0.0 { 0 } else { (5 - magnitude.log10().floor() as i32).clamp(0, 9) as usize };
    let text = format!("{v:.digits$}");
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(name: &str) -> std::path::PathBuf {
        let path = std::env::temp_dir().join(format!("etalon-plot-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        path
    }

    /// Curves that fall like those of training.
    fn falling(count: usize, points: usize) -> Vec<Series> {
        let at = |i: usize, x: f64| 2.5 + i as f64 * 0.2 + 6.0 * (-x / (150.0 + 40.0 * i as f64)).exp();
        let curve = |i: usize| (0..points).map(|n| n as f64 * 2000.0 / points as f64).map(|x| (x, at(i, x))).collect();
        (0..count).map(|i| (format!("method {i} & <others>"), curve(i))).collect()
    }

    #[test]
    fn curves_become_an_svg() {
        let folder = folder("svg");
        for (log, count, points) in [(false, 3, 400), (true, 4, 400), (true, 10, 12), (false, 1, 1)] {
            let path = folder.join(format!("{log}-{count}.svg"));
            lines(&path, "Validation perplexity", "step", "perplexity", log, &falling(count, points)).unwrap();
            let svg = std::fs::read_to_string(&path).unwrap();
            assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"));
            for text in ["Validation perplexity", "step", "perplexity", "method 0 &amp; &lt;others&gt;", "#0072B2"] {
                assert!(svg.contains(text), "{text}");
            }
            assert!(svg.contains(&format!("method {}", count - 1)));
        }
        if std::env::var_os("ETALON_KEEP").is_none() {
            std::fs::remove_dir_all(folder).unwrap();
        }
    }

    #[test]
    fn hostile_points_are_left_out() {
        let folder = folder("hostile");
        let path = folder.join("x.svg");
        let draw = |log, points: &[(f64, f64)]| lines(&path, "", "", "", log, &[("a".into(), points.to_vec()), ("b".into(), vec![])]);
        for points in [&[][..], &[(f64::NAN, 1.0), (1.0, f64::INFINITY)]] {
            assert!(draw(false, points).unwrap_err().to_string().contains("x.svg"));
        }
        assert!(draw(true, &[(1.0, 0.0), (2.0, -1.0)]).is_err());
        assert!(!path.exists());
        for points in [
            &[(0.0, 0.0)][..],
            &[(1.0, 5.0), (1.0, 5.0)],
            &[(0.0, -1e299), (1e299, 1e299)],
            &[(0.0, 1e-300), (1e-300, 1e-299)],
            &[(1.0, f64::NAN), (f64::MIN, f64::MAX), (f64::MAX, 1.0), (1.0, 2.0)],
            &[(1e9, 1.0), (1e9 + 1e-3, 1.0 + 1e-12)],
        ] {
            for log in [false, true] {
                let drawn = draw(log, points);
                assert_eq!(drawn.is_ok(), !log || points.iter().any(|p| p.1 > 0.0), "{points:?} {drawn:?}");
            }
        }
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn ticks_are_round_and_numbers_short() {
        let near =
            |a: Vec<f64>, b: &[f64]| assert!(a.len() == b.len() && a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-9), "{a:?} {b:?}");
        near(ticks(&(0.0..2000.0)), &[0.0, 500.0, 1000.0, 1500.0, 2000.0]);
        near(ticks(&(-0.31..0.41)), &[-0.3, -0.2, -0.1, 0.0, 0.1, 0.2, 0.3, 0.4]);
        near(log_ticks(&(0.9..2.2)), &[10.0, 20.0, 50.0, 100.0]);
        near(log_ticks(&(0.3..0.8)), &[2.0, 3.0, 4.0, 5.0, 6.0]);
        near(log_ticks(&(0.3..0.5)), &[2.0, 2.2, 2.4, 2.6, 2.8, 3.0]);
        near(log_ticks(&(-6.1..-1.9)), &[1e-6, 1e-5, 1e-4, 1e-3, 1e-2]);
        for (v, text) in [(0.0, "0"), (0.30000000000000004, "0.3"), (1500.0, "1500"), (-2.5, "-2.5"), (0.0005, "0.0005"), (2e-5, "2e-5")] {
            assert_eq!(number(v), text);
        }
        assert_eq!((number(1e7), number(50_272.0), number(1.23456e-7)), ("1e7".into(), "50272".into(), "1.23e-7".into()));
    }
}
