//! Two charts: how long a round trip takes, and how fast a stream is.

use std::path::Path;

use plotters::coord::Shift;
use plotters::prelude::{
    BLACK, ChartBuilder, Color, DrawingArea, IntoDrawingArea, IntoFont, IntoLogRange, PathElement,
    RGBColor, Rectangle, SVGBackend, SeriesLabelPosition, TextStyle, WHITE,
};
use plotters::series::LineSeries;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::tables::figures;
use crate::Result;
use crate::cell::{Measure, Pin};
use crate::results::{Record, Results, Row};
use crate::systems::{Family, System};

type Canvas<'a> = DrawingArea<SVGBackend<'a>, Shift>;

const FONT: &str = "sans-serif";
const GREY: RGBColor = RGBColor(0x77, 0x77, 0x77);

fn color(family: Family) -> RGBColor {
    match family {
        Family::Limit => RGBColor(0x9a, 0x9a, 0x9a),
        Family::Wakering => RGBColor(0xd1, 0x49, 0x2e),
        Family::Rival => RGBColor(0x3b, 0x6e, 0xa8),
        Family::Yardstick => RGBColor(0x7f, 0xb0, 0xd8),
    }
}

/// Writes both; a chart for which nothing was measured is left out.
pub(crate) fn write(results: &Results, note: &str, out: &Path) -> Result<()> {
    round_trips(results, note, &out.join("round-trips.svg"))?;
    streams(results, note, &out.join("streams.svg"))
}

/// Bars, on a logarithmic scale: both ends awake on two cores, both asleep on one.
fn round_trips(results: &Results, note: &str, path: &Path) -> Result<()> {
    let panels = [(Pin::Two, "64 B, a core each"), (Pin::One, "64 B, both on one core")];
    let panels = panels.map(|(pin, title)| {
        let row = Row { measure: Measure::RoundTrip, pin, bytes: 64 };
        let mut bars = bars(results, row, |record| record.outcome.p50_ns as f64 / 1e3);
        bars.sort_by(|(_, a), (_, b)| a.total_cmp(b));
        (title, bars)
    });
    let lines = panels.iter().map(|(_, bars)| bars.len()).max().unwrap_or(0);
    if lines == 0 {
        return Ok(());
    }
    let height = 90 + 19 * u32::try_from(lines)?;
    let canvas = SVGBackend::new(path, (1000, height)).into_drawing_area();
    canvas.fill(&WHITE)?;
    heading(&canvas, "Round trip, median in µs (less is better)", note)?;
    let (_, below) = canvas.split_vertically(60);
    let halves = below.split_evenly((1, 2));
    for (half, (title, bars)) in halves.iter().zip(&panels) {
        panel(half, title, bars)?;
    }
    canvas.present()?;
    Ok(())
}

fn bars(
    results: &Results,
    row: Row,
    value: impl Fn(&Record) -> f64,
) -> Vec<(&'static System, f64)> {
    let all = [Family::Limit, Family::Wakering, Family::Rival, Family::Yardstick];
    let systems = results.systems(&all).into_iter();
    systems
        .filter_map(|system| Some((system, results.median(system.name, row, &value)?.median)))
        .collect()
}

fn panel(canvas: &Canvas<'_>, title: &str, bars: &[(&System, f64)]) -> Result<()> {
    const NAMES: i32 = 185;
    const LINE: i32 = 19;

    text(canvas, title, (8, 4), 14, BLACK, HPos::Left)?;
    let (width, _) = canvas.dim_in_pixel();
    let room = f64::from(i32::try_from(width)? - NAMES - 60);
    let least = bars.iter().map(|(_, value)| *value).fold(f64::INFINITY, f64::min);
    let most = bars.iter().map(|(_, value)| *value).fold(0.0, f64::max);
    // Half the shortest bar's length before it begins, so that it can be seen.
    let decades = (most / least * 2.0).log10();
    for ((system, value), line) in bars.iter().zip(0..) {
        let top = 26 + line * LINE;
        #[allow(clippy::cast_possible_truncation, reason = "a length in pixels")]
        let length = (room * (value / least * 2.0).log10() / decades) as i32;
        text(canvas, system.name, (NAMES - 6, top), 12, BLACK, HPos::Right)?;
        let corners = [(NAMES, top), (NAMES + length, top + LINE - 5)];
        canvas.draw(&Rectangle::new(corners, color(system.family).filled()))?;
        text(canvas, &figures(*value), (NAMES + length + 4, top), 12, GREY, HPos::Left)?;
    }
    Ok(())
}

/// Lines over the sizes of packets: the limits, wakering's best ways, each rival.
fn streams(results: &Results, note: &str, path: &Path) -> Result<()> {
    let rows: Vec<Row> =
        results.rows(Measure::Stream).into_iter().filter(|row| row.pin == Pin::Two).collect();
    let (Some(first), Some(last)) = (rows.first(), rows.last()) else { return Ok(()) };
    let series: Vec<_> = shown(results)
        .into_iter()
        .map(|(name, system, style)| (name, style, line(results, system, &rows)))
        .filter(|(_, _, line)| !line.is_empty())
        .collect();
    let values = || series.iter().flat_map(|(_, _, line)| line).map(|(_, value)| *value);
    let least = values().fold(f64::INFINITY, f64::min);
    let most = values().fold(0.0, f64::max);
    if series.is_empty() {
        return Ok(());
    }
    let canvas = SVGBackend::new(path, (1000, 560)).into_drawing_area();
    canvas.fill(&WHITE)?;
    heading(&canvas, "Stream, GB/s by bytes of a packet (more is better)", note)?;
    let (_, below) = canvas.split_vertically(60);
    let mut chart = ChartBuilder::on(&below)
        .margin(10)
        .margin_right(250)
        .x_label_area_size(30)
        .y_label_area_size(50)
        .build_cartesian_2d(
            (first.bytes as f64 * 0.9..last.bytes as f64 * 1.1).log_scale(),
            (least * 0.8..most * 1.25).log_scale(),
        )?;
    let sizes: Vec<f64> = rows.iter().map(|row| row.bytes as f64).collect();
    chart
        .configure_mesh()
        .bold_line_style(GREY.mix(0.25))
        .light_line_style(WHITE)
        .x_labels(sizes.len())
        .x_label_formatter(&|bytes| format!("{bytes:.0}"))
        .y_label_formatter(&|value| figures(*value))
        .draw()?;
    for (name, (color, width), line) in series {
        chart
            .draw_series(LineSeries::new(line, color.stroke_width(width)).point_size(width))?
            .label(name)
            .legend(move |(x, y)| {
                PathElement::new([(x, y), (x + 18, y)], color.stroke_width(width))
            });
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::Coordinate(735, 0))
        .label_font((FONT, 12).into_font())
        .border_style(WHITE)
        .draw()?;
    canvas.present()?;
    Ok(())
}

/// What one line stands for: the best of some systems at each size.
type Line = (&'static str, Vec<&'static System>, (RGBColor, u32));

fn shown(results: &Results) -> Vec<Line> {
    let of = |family, part: &str| -> Vec<&'static System> {
        let systems = results.systems(&[family]).into_iter();
        systems.filter(|system| system.name.contains(part)).collect()
    };
    let mut wakering = of(Family::Wakering, "");
    let in_place = of(Family::Wakering, "in place");
    wakering.retain(|system| !system.name.contains("in place"));
    let blue =
        [0x1f4e79, 0x2e75b6, 0x00838f, 0x6a4c93, 0x558b2f, 0x8d6e63, 0xb07d00, 0x90a4ae, 0xbcaaa4];
    let blue = |nth: usize| {
        let [_, red, green, other] = u32::to_be_bytes(blue[nth % blue.len()]);
        RGBColor(red, green, other)
    };
    let mut lines: Vec<Line> = vec![
        ("bare ring, in place", of(Family::Limit, "bare ring, in place"), (GREY, 1)),
        ("bare ring, copied", of(Family::Limit, "bare ring, copied"), (color(Family::Limit), 1)),
        ("wakering, in place", in_place, (RGBColor(0xf2, 0x8e, 0x2b), 3)),
        ("wakering, Bytes", wakering, (color(Family::Wakering), 3)),
    ];
    let others = results.systems(&[Family::Rival, Family::Yardstick]).into_iter().enumerate();
    lines.extend(others.map(|(nth, system)| (system.name, vec![system], (blue(nth), 1))));
    lines
}

fn line(results: &Results, systems: Vec<&System>, rows: &[Row]) -> Vec<(f64, f64)> {
    let best = |row: &Row| {
        let speeds = systems
            .iter()
            .filter_map(|system| results.median(system.name, *row, Record::gigabytes_per_second));
        speeds.map(|speed| speed.median).max_by(f64::total_cmp)
    };
    rows.iter().filter_map(|row| Some((row.bytes as f64, best(row)?))).collect()
}

fn heading(canvas: &Canvas<'_>, title: &str, note: &str) -> Result<()> {
    text(canvas, title, (12, 10), 18, BLACK, HPos::Left)?;
    text(canvas, note, (12, 36), 11, GREY, HPos::Left)
}

fn text(
    canvas: &Canvas<'_>,
    words: &str,
    at: (i32, i32),
    height: i32,
    color: RGBColor,
    side: HPos,
) -> Result<()> {
    let style =
        TextStyle::from((FONT, height).into_font()).color(&color).pos(Pos::new(side, VPos::Top));
    canvas.draw_text(words, &style, at)?;
    Ok(())
}
