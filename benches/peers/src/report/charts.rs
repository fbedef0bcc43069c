//! Two charts of ratios to the limit: round trips and streams.

use std::path::Path;

use plotters::coord::Shift;
use plotters::prelude::{
    BLACK, Color, DrawingArea, IntoDrawingArea, IntoFont, PathElement, RGBColor, Rectangle,
    SVGBackend, TextStyle, WHITE,
};
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::text::figures;
use crate::Result;
use crate::quartiles::Quartiles;
use crate::results::{Results, Value, reference};
use crate::row::{Measure, Pin, Row, SIZES, size};
use crate::system::{Family, System, Way};

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

/// Both ends awake on two cores, both asleep on one.
fn round_trips(results: &Results, note: &str, path: &Path) -> Result<()> {
    let panel = |(pin, title): (Pin, &str)| {
        let row = Row { measure: Measure::RoundTrip, pin, bytes: 64 };
        let bars = results.systems().into_iter().filter_map(|system| {
            let ratio = results.ratio(row, system.name, reference(row), |_| true)?;
            Some(Bar { name: system.name.to_owned(), family: system.family, ratio })
        });
        panel(format!("{title}; {} = 1", reference(row)), row, bars.collect())
    };
    let places = [(Pin::Two, "awake, a core each"), (Pin::One, "asleep, one core for both")];
    let title =
        "Round trips of 64 bytes, time as a multiple of a limit, logarithmic (less is better)";
    draw(title, note, &places.map(panel), Scale::Logarithmic, path)
}

/// A panel for each length: each crate and each limit by its fastest way.
fn streams(results: &Results, note: &str, path: &Path) -> Result<()> {
    let panels = SIZES.map(|bytes| {
        let row = Row { measure: Measure::Stream, pin: Pin::Two, bytes };
        let mut bars: Vec<Bar> = Vec::new();
        for system in results.systems() {
            let ratio = results.ratio(row, system.name, reference(row), |_| true);
            let Some(ratio) = ratio else { continue };
            let bar = Bar { name: group(system), family: system.family, ratio };
            match bars.iter_mut().find(|other| other.name == bar.name) {
                Some(other) if other.ratio.median < ratio.median => *other = bar,
                Some(_) => {}
                None => bars.push(bar),
            }
        }
        panel(format!("{}; {} = 1", size(bytes), reference(row)), row, bars)
    });
    let title = "Streams between two cores, speed as a multiple of a limit (more is better)";
    draw(title, note, &panels, Scale::Linear, path)
}

/// The best first.
fn panel(title: String, row: Row, mut bars: Vec<Bar>) -> Panel {
    bars.sort_by(|a, b| a.ratio.median.total_cmp(&b.ratio.median));
    if Value::in_row(row) == Value::Speed {
        bars.reverse();
    }
    Panel { title, bars }
}

/// Under which name the ways of a crate are shown together.
fn group(system: &System) -> String {
    let crate_name = || system.name.split(',').next().unwrap_or(system.name);
    match system.family {
        Family::Limit => system.name.to_owned(),
        Family::Wakering => match system.way {
            Some(Way::InPlace) => "wakering, in place".to_owned(),
            Some(Way::Items) => "wakering, items in packets".to_owned(),
            _ => "wakering, Bytes".to_owned(),
        },
        Family::Rival if system.name.starts_with("Unix") => system.name.to_owned(),
        Family::Rival => crate_name().to_owned(),
        Family::Yardstick => format!("{} (threads)", crate_name().trim_end_matches(" (threads)")),
    }
}

struct Bar {
    name: String,
    family: Family,
    ratio: Quartiles,
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
/// Half the height of what shows the quartiles.
const WHISKER: i32 = 3;

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
    let least = bars.iter().map(|bar| bar.ratio.lower).fold(1.0, f64::min);
    let most = bars.iter().map(|bar| bar.ratio.upper).fold(1.0, f64::max);
    #[allow(clippy::cast_possible_truncation, reason = "a length in pixels")]
    let length = |value: f64| match scale {
        Scale::Linear => (room * value / most) as i32,
        // Begins at half the shortest bar, so that this one can be seen.
        Scale::Logarithmic => {
            (room * (value / least * 2.0).ln() / (most / least * 2.0).ln()) as i32
        }
    };
    for (Bar { name, family, ratio }, line) in bars.iter().zip(0..) {
        let top = HEAD + line * LINE;
        let middle = top + (LINE - 5) / 2;
        text(canvas, name, (NAMES - 6, top), 12, BLACK, HPos::Right)?;
        let corners = [(NAMES, top), (NAMES + length(ratio.median), top + LINE - 5)];
        canvas.draw(&Rectangle::new(corners, color(*family).filled()))?;
        let (from, to) = (NAMES + length(ratio.lower), NAMES + length(ratio.upper));
        let whisker =
            [(from, middle - WHISKER), (from, middle + WHISKER), (from, middle), (to, middle)];
        let whisker = whisker.into_iter().chain([(to, middle - WHISKER), (to, middle + WHISKER)]);
        canvas.draw(&PathElement::new(whisker.collect::<Vec<_>>(), BLACK))?;
        text(canvas, &figures(ratio.median), (to + 5, top), 12, GREY, HPos::Left)?;
    }
    let limit = NAMES + length(1.0);
    let bottom = HEAD + i32::try_from(bars.len())? * LINE;
    canvas.draw(&PathElement::new([(limit, HEAD - 4), (limit, bottom)], GREY))?;
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
