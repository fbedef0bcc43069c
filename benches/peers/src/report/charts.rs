//! Two charts: how long a round trip takes, and how fast a stream is.

use std::path::Path;

use plotters::coord::Shift;
use plotters::prelude::{
    BLACK, Color, DrawingArea, IntoDrawingArea, IntoFont, RGBColor, Rectangle, SVGBackend,
    TextStyle, WHITE,
};
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::tables::{ALL, figures, size};
use crate::Result;
use crate::cell::{Measure, Pin};
use crate::results::{Median, Record, Results, Row};
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

/// Both ends awake on two cores, both asleep on one; on a logarithmic scale.
fn round_trips(results: &Results, note: &str, path: &Path) -> Result<()> {
    let panel = |(pin, title): (Pin, &str)| {
        let row = Row { measure: Measure::RoundTrip, pin, bytes: 64 };
        let micros = |record: &Record| record.outcome.p50_ns as f64 / 1e3;
        let systems = results.systems(ALL).into_iter();
        let bars = systems.filter_map(|system| {
            let value = results.median(system.name, row, micros)?.median;
            Some(Bar { name: system.name.to_owned(), family: system.family, value })
        });
        let mut bars: Vec<Bar> = bars.collect();
        bars.sort_by(|a, b| a.value.total_cmp(&b.value));
        Panel { title: title.to_owned(), bars }
    };
    let places = [(Pin::Two, "64 B, a core each"), (Pin::One, "64 B, both on one core")];
    let title = "Round trip, median in µs, logarithmic (less is better)";
    draw(title, note, &places.map(panel), Scale::Logarithmic, path)
}

/// A panel for each size: each crate and each limit by its fastest way.
fn streams(results: &Results, note: &str, path: &Path) -> Result<()> {
    let rows = results.rows(Measure::Stream).into_iter().filter(|row| row.pin == Pin::Two);
    let panel = |row: Row| {
        let mut bars: Vec<Bar> = Vec::new();
        for system in results.systems(ALL) {
            let speed = results.median(system.name, row, Record::gigabytes_per_second);
            let Some(Median { median: value, .. }) = speed else { continue };
            let name = group(system);
            match bars.iter_mut().find(|bar| bar.name == name) {
                Some(bar) => bar.value = bar.value.max(value),
                None => bars.push(Bar { name, family: system.family, value }),
            }
        }
        bars.sort_by(|a, b| b.value.total_cmp(&a.value));
        Panel { title: size(row.bytes), bars }
    };
    let panels: Vec<Panel> = rows.map(panel).collect();
    let title = "Stream on two cores, GB/s, each by its fastest way (more is better)";
    draw(title, note, &panels, Scale::Linear, path)
}

/// Under which name the ways of a crate are shown together.
fn group(system: &System) -> String {
    let crate_name = || system.name.split(',').next().unwrap_or(system.name);
    match system.family {
        Family::Limit => system.name.to_owned(),
        Family::Wakering if system.name.contains("in place") => "wakering, in place".to_owned(),
        Family::Wakering => "wakering, Bytes".to_owned(),
        Family::Rival if system.name.starts_with("Unix") => system.name.to_owned(),
        Family::Rival => crate_name().to_owned(),
        Family::Yardstick => format!("{} (threads)", crate_name().trim_end_matches(" (threads)")),
    }
}

struct Bar {
    name: String,
    family: Family,
    value: f64,
}

struct Panel {
    title: String,
    bars: Vec<Bar>,
}

#[derive(Clone, Copy)]
enum Scale {
    Linear,
    Logarithmic,
}

/// Pixels: a chart, a line of a panel, what stands above them, the names, the figures.
const WIDTH: u32 = 1000;
const LINE: i32 = 19;
const HEAD: i32 = 26;
const NAMES: i32 = 190;
const FIGURES: i32 = 50;

/// Two panels beside each other, as many rows of them as it takes.
fn draw(title: &str, note: &str, panels: &[Panel], scale: Scale, path: &Path) -> Result<()> {
    let height = |row: &[Panel]| {
        let lines = row.iter().map(|panel| panel.bars.len()).max().unwrap_or(0);
        i32::try_from(lines).map(|lines| HEAD + lines * LINE + 12)
    };
    let heights = panels.chunks(2).map(height).collect::<std::result::Result<Vec<_>, _>>()?;
    if panels.iter().all(|panel| panel.bars.is_empty()) {
        return Ok(());
    }
    let total = u32::try_from(60 + heights.iter().sum::<i32>())?;
    let canvas = SVGBackend::new(path, (WIDTH, total)).into_drawing_area();
    canvas.fill(&WHITE)?;
    text(&canvas, title, (12, 10), 18, BLACK, HPos::Left)?;
    text(&canvas, note, (12, 36), 11, GREY, HPos::Left)?;
    let (_, mut below) = canvas.split_vertically(60);
    for (row, height) in panels.chunks(2).zip(heights) {
        let (here, rest) = below.split_vertically(height);
        for (half, panel) in here.split_evenly((1, 2)).iter().zip(row) {
            bars(half, panel, scale)?;
        }
        below = rest;
    }
    canvas.present()?;
    Ok(())
}

fn bars(canvas: &Canvas<'_>, Panel { title, bars }: &Panel, scale: Scale) -> Result<()> {
    text(canvas, title, (12, 4), 14, BLACK, HPos::Left)?;
    let (width, _) = canvas.dim_in_pixel();
    let room = f64::from(i32::try_from(width)? - NAMES - FIGURES);
    let least = bars.iter().map(|bar| bar.value).fold(f64::INFINITY, f64::min);
    let most = bars.iter().map(|bar| bar.value).fold(0.0, f64::max);
    let share = |value: f64| match scale {
        Scale::Linear => value / most,
        // Begins at half the shortest bar, so that this one can be seen.
        Scale::Logarithmic => (value / least * 2.0).ln() / (most / least * 2.0).ln(),
    };
    for (Bar { name, family, value }, line) in bars.iter().zip(0..) {
        let top = HEAD + line * LINE;
        #[allow(clippy::cast_possible_truncation, reason = "a length in pixels")]
        let length = (room * share(*value)) as i32;
        text(canvas, name, (NAMES - 6, top), 12, BLACK, HPos::Right)?;
        let corners = [(NAMES, top), (NAMES + length, top + LINE - 5)];
        canvas.draw(&Rectangle::new(corners, color(*family).filled()))?;
        text(canvas, &figures(*value), (NAMES + length + 4, top), 12, GREY, HPos::Left)?;
    }
    Ok(())
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
