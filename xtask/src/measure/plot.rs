// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The reports' charts. They are small enough for a phone, and a style sheet can exchange their colours for those of a
//! dark page.

use anyhow::{Result, anyhow};
use plotters::coord::Shift;
use plotters::coord::combinators::BindKeyPoints;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

/// A colour of a light page, as plotters writes it, and what it becomes on a dark one.
#[derive(Clone, Copy)]
pub struct Colour(RGBColor, &'static str);

const PAPER: Colour = Colour(RGBColor(255, 255, 255), "#15181c");
const TEXT: Colour = Colour(RGBColor(27, 31, 36), "#e6e8eb");
const MUTED: Colour = Colour(RGBColor(95, 103, 112), "#9aa3ad");
const GRID: Colour = Colour(RGBColor(217, 221, 226), "#343a41");
pub const GREY: Colour = Colour(RGBColor(138, 143, 152), "#a3a9b2");
pub const ORANGE: Colour = Colour(RGBColor(200, 80, 30), "#f08a4b");
pub const SAND: Colour = Colour(RGBColor(235, 165, 100), "#c9a27c");
pub const BLUE: Colour = Colour(RGBColor(59, 117, 175), "#6ea8e0");
pub const SKY: Colour = Colour(RGBColor(127, 176, 222), "#a9cdf0");
pub const GREEN: Colour = Colour(RGBColor(63, 145, 66), "#6fc272");
pub const PURPLE: Colour = Colour(RGBColor(138, 79, 176), "#c39ae6");
const COLOURS: [Colour; 11] = [PAPER, TEXT, MUTED, GRID, GREY, ORANGE, SAND, BLUE, SKY, GREEN, PURPLE];

/// Rules for a dark page: the same shapes in other colours.
pub fn dark_rules() -> String {
    let rule = |ink: &Colour| {
        let RGBColor(r, g, b) = ink.0;
        let (light, dark) = (format!("#{r:02X}{g:02X}{b:02X}"), ink.1);
        format!("svg [fill=\"{light}\"]{{fill:{dark}}}svg [stroke=\"{light}\"]{{stroke:{dark}}}")
    };
    COLOURS.iter().map(rule).collect()
}

/// A picture for a file of its own. It follows the reader's choice of light or dark.
pub fn alone(svg: &str) -> String {
    let style = format!("<style>@media (prefers-color-scheme:dark){{{}}}</style>", dark_rules());
    match svg.find('>') {
        Some(at) => format!("{}{style}{}", &svg[..=at], &svg[at + 1..]),
        None => svg.to_owned(),
    }
}

/// Width of a small picture.
const WIDTH: i32 = 440;
const TITLE: i32 = 34;

/// A bar.
pub struct Bar {
    /// The label before it.
    pub label: String,
    /// Its length.
    pub value: f64,
    /// The least and the most that was measured.
    pub range: (f64, f64),
    /// The label behind it.
    pub text: String,
    /// Its colour.
    pub colour: Colour,
}

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Drawn = Result<(), Box<dyn std::error::Error>>;

/// Draws into a string.
fn draw(size: (i32, i32), what: impl FnOnce(&Area) -> Drawn) -> Result<String> {
    let mut svg = String::new();
    let drawn = || -> Drawn {
        let area = SVGBackend::with_string(&mut svg, (size.0 as u32, size.1 as u32)).into_drawing_area();
        area.fill(&PAPER.0)?;
        what(&area)?;
        area.present()?;
        Ok(())
    };
    drawn().map_err(|e| anyhow!("cannot draw: {e}"))?;
    Ok(svg)
}

fn text(area: &Area, words: &str, at: (i32, i32), size: u32, colour: Colour, pos: Pos) -> Drawn {
    // No name of a font: the page's own.
    let style = ("sans-serif", size).into_font().color(&colour.0).pos(pos);
    area.draw(&Text::new(words.to_owned(), at, style))?;
    Ok(())
}

const LEFT_TOP: Pos = Pos { h_pos: HPos::Left, v_pos: VPos::Top };
const LEFT_MIDDLE: Pos = Pos { h_pos: HPos::Left, v_pos: VPos::Center };
const RIGHT_MIDDLE: Pos = Pos { h_pos: HPos::Right, v_pos: VPos::Center };

/// One of several bars, below `top` and to the right of `left`.
fn bar(area: &Area, (left, top, height): (i32, i32, i32), scale: f64, bar: &Bar) -> Drawn {
    let middle = top + height / 2;
    let x = |value: f64| left + (value * scale).round() as i32;
    let (right, low, high) = (x(bar.value), x(bar.range.0), x(bar.range.1));
    let thick = height / 3;
    area.draw(&Rectangle::new([(left, middle - thick), (right, middle + thick)], bar.colour.0.filled()))?;
    if high > low + 1 {
        area.draw(&PathElement::new([(low, middle), (high, middle)], TEXT.0))?;
    }
    text(area, &bar.label, (left - 8, middle), 13, TEXT, RIGHT_MIDDLE)?;
    text(area, &bar.text, (right.max(high) + 6, middle), 12, MUTED, LEFT_MIDDLE)
}

/// Horizontal bars, all from zero.
pub fn bars(title: &str, bars: &[Bar]) -> Result<String> {
    const HEIGHT: i32 = 24;
    let (left, right) = (124, 104);
    let bottom = TITLE + HEIGHT * bars.len() as i32;
    let most = bars.iter().map(|b| b.value.max(b.range.1)).fold(f64::MIN_POSITIVE, f64::max);
    let scale = f64::from(WIDTH - left - right) / most;
    draw((WIDTH, bottom + 10), |area| {
        text(area, title, (10, 9), 15, TEXT, LEFT_TOP)?;
        area.draw(&PathElement::new([(left, TITLE - 2), (left, bottom + 2)], GRID.0))?;
        let tops = (TITLE..).step_by(HEIGHT as usize);
        bars.iter().zip(tops).try_for_each(|(one, top)| bar(area, (left, top, HEIGHT), scale, one))
    })
}

/// A line over the number of keyslots, or a level if there is only a value without one.
pub struct Line {
    /// Its label.
    pub label: String,
    /// Keyslots and value.
    pub points: Vec<(u32, f64)>,
    /// A level to compare with, drawn in dashes.
    pub dashed: Option<f64>,
    /// Another one, drawn in dots.
    pub dotted: Option<f64>,
    /// Its colour.
    pub colour: Colour,
}

/// Lines over the number of keyslots, whose axis is logarithmic.
pub fn lines(title: &str, lines: &[Line], value: impl Fn(f64) -> String) -> Result<String> {
    let top = TITLE + 4 + 18 * lines.len() as i32;
    let mut slots: Vec<u32> = lines.iter().flat_map(|l| &l.points).map(|p| p.0).collect();
    slots.sort_unstable();
    slots.dedup();
    let first = slots.first().copied().unwrap_or(1);
    let last = slots.last().copied().unwrap_or(1).max(first + 1);
    let values = lines.iter().flat_map(|l| l.points.iter().map(|p| p.1).chain(l.dashed).chain(l.dotted));
    let most = nice(values.fold(f64::MIN_POSITIVE, f64::max));
    draw((WIDTH, top + 180 + 44), |area| {
        text(area, title, (10, 9), 15, TEXT, LEFT_TOP)?;
        let mut chart = ChartBuilder::on(area)
            .margin_top(top)
            .margin_right(18)
            .x_label_area_size(44)
            .y_label_area_size(58)
            .build_cartesian_2d((first..last).log_scale().with_key_points(slots.clone()), 0.0..most)?;
        let labels = ("sans-serif", 12).into_font().color(&MUTED.0);
        chart
            .configure_mesh()
            .disable_x_mesh()
            .light_line_style(TRANSPARENT)
            .bold_line_style(GRID.0)
            .axis_style(GRID.0)
            .label_style(labels)
            .x_desc("keyslots")
            .x_labels(slots.len())
            .y_labels(8)
            .y_label_formatter(&|v| value(*v))
            .draw()?;
        for (line, middle) in lines.iter().zip((TITLE + 6..).step_by(18)) {
            let style = line.colour.0.stroke_width(2);
            area.draw(&PathElement::new([(58, middle), (80, middle)], line.colour.0.stroke_width(3)))?;
            text(area, &line.label, (88, middle), 12, TEXT, LEFT_MIDDLE)?;
            for (level, dash, gap) in [(line.dashed, 9, 4), (line.dotted, 2, 4)] {
                let ends = level.map(|level| [(first, level), (last, level)]);
                chart.draw_series(DashedLineSeries::new(ends.into_iter().flatten(), dash, gap, style))?;
            }
            chart.draw_series(LineSeries::new(line.points.clone(), style))?;
            chart.draw_series(line.points.iter().map(|p| Circle::new(*p, 4, line.colour.0.filled())))?;
        }
        Ok(())
    })
}

/// The next round number, for the end of an axis.
fn nice(most: f64) -> f64 {
    let power = 10f64.powf(most.log10().floor());
    [1.0, 2.0, 4.0, 5.0, 8.0, 10.0].iter().map(|n| n * power).find(|n| *n >= most * 0.999).unwrap_or(most)
}

/// Bars of one load.
pub struct Group {
    /// Its name.
    pub title: String,
    /// The bars.
    pub bars: Vec<Bar>,
}

/// The picture of all loads: ratios, with a mark where they are 1. `common`: all groups have the same scale.
pub fn overview(title: &str, note: &str, groups: &[Group], common: bool) -> Result<String> {
    const WIDE: i32 = 760;
    const LEFT: i32 = 150;
    const ROW: i32 = 18;
    let height = |group: &Group| ROW * group.bars.len() as i32;
    let rows: i32 = groups.iter().map(|group| 26 + height(group) + 8).sum();
    let most = |groups: &[Group]| groups.iter().flat_map(|g| &g.bars).map(|b| b.value).fold(1.0, f64::max);
    draw((WIDE, 62 + rows), |area| {
        text(area, title, (12, 10), 17, TEXT, LEFT_TOP)?;
        text(area, note, (12, 34), 12, MUTED, LEFT_TOP)?;
        let mut y = 62;
        for group in groups {
            text(area, &group.title, (12, y + 4), 14, TEXT, LEFT_TOP)?;
            y += 26;
            let most = most(if common { groups } else { std::slice::from_ref(group) });
            let scale = f64::from(WIDE - LEFT - 150) / most;
            let one = LEFT + scale as i32;
            area.draw(&PathElement::new([(one, y), (one, y + height(group))], GRID.0.stroke_width(2)))?;
            for (at, one) in group.bars.iter().enumerate() {
                bar(area, (LEFT, y + ROW * at as i32, ROW), scale, one)?;
            }
            y += height(group) + 8;
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bar(label: &str, value: f64) -> Bar {
        Bar { label: label.into(), value, range: (value, value), text: format!("{value}"), colour: ORANGE }
    }

    #[test]
    fn colours_can_be_exchanged() {
        let svg = bars("t", &[bar("a", 1.0), bar("b", 2.0)]).unwrap();
        assert!(svg.contains("fill=\"#C8501E\"") && svg.contains("viewBox"), "{svg}");
        assert!(dark_rules().contains("svg [fill=\"#C8501E\"]{fill:#f08a4b}"));
        let alone = alone(&svg);
        assert!(alone.starts_with("<svg") && alone.contains("prefers-color-scheme") && alone.contains("</svg>"));
    }

    #[test]
    fn lines_have_axes_and_levels() {
        let line = Line {
            label: "16 keys".into(),
            points: vec![(1, 10.0), (1024, 40.0)],
            dashed: Some(20.0),
            dotted: None,
            colour: ORANGE,
        };
        let svg = lines("t", &[line], |v| format!("{v:.0}")).unwrap();
        assert!(svg.contains("1024") && svg.contains("16 keys") && svg.contains("keyslots"));
        assert!(lines("empty", &[], |v| v.to_string()).is_ok());
    }

    #[test]
    fn axes_end_at_round_numbers() {
        assert_eq!([0.9, 1.0, 1.1, 3.0, 45.0, 7000.0].map(nice), [1.0, 1.0, 2.0, 4.0, 50.0, 8000.0]);
    }
}
