// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The report's pictures: small ones, so that they can be read on a phone, in colours that a style sheet can exchange for
//! those of a dark page.

use super::target::How;
use anyhow::{Result, anyhow};
use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

/// A colour of a light page, as plotters writes it, and what it becomes on a dark one.
struct Ink(RGBColor, &'static str);

const PAPER: Ink = Ink(RGBColor(255, 255, 255), "#15181c");
const TEXT: Ink = Ink(RGBColor(27, 31, 36), "#e6e8eb");
const MUTED: Ink = Ink(RGBColor(95, 103, 112), "#9aa3ad");
const GRID: Ink = Ink(RGBColor(217, 221, 226), "#343a41");
const GREY: Ink = Ink(RGBColor(138, 143, 152), "#a3a9b2");
const ORANGE: Ink = Ink(RGBColor(200, 80, 30), "#f08a4b");
const BLUE: Ink = Ink(RGBColor(59, 117, 175), "#6ea8e0");
const SKY: Ink = Ink(RGBColor(127, 176, 222), "#a9cdf0");
const GREEN: Ink = Ink(RGBColor(63, 145, 66), "#6fc272");
const PURPLE: Ink = Ink(RGBColor(138, 79, 176), "#c39ae6");
const INKS: [&Ink; 10] = [&PAPER, &TEXT, &MUTED, &GRID, &GREY, &ORANGE, &BLUE, &SKY, &GREEN, &PURPLE];

/// The colour of a way to encrypt.
pub fn colour(how: How) -> RGBColor {
    match how {
        How::Plain => GREY.0,
        How::Native => ORANGE.0,
        How::Fallback => BLUE.0,
        How::NoInlinecrypt => SKY.0,
        How::DmCrypt => GREEN.0,
        How::DmInlinecrypt => PURPLE.0,
    }
}

/// The colour of the nth line.
pub fn line_colour(number: usize) -> RGBColor {
    [ORANGE.0, BLUE.0, GREEN.0, PURPLE.0][number % 4]
}

/// Rules for a dark page: the same shapes in other colours.
pub fn dark_rules() -> String {
    let rule = |ink: &&Ink| {
        let RGBColor(r, g, b) = ink.0;
        let (light, dark) = (format!("#{r:02X}{g:02X}{b:02X}"), ink.1);
        format!("svg [fill=\"{light}\"]{{fill:{dark}}}svg [stroke=\"{light}\"]{{stroke:{dark}}}")
    };
    INKS.iter().map(rule).collect()
}

/// A picture that stands alone and follows the reader's choice of light or dark.
pub fn alone(svg: &str) -> String {
    let style = format!("<style>@media (prefers-color-scheme:dark){{{}}}</style>", dark_rules());
    match svg.find('>') {
        Some(at) => format!("{}{style}{}", &svg[..=at], &svg[at + 1..]),
        None => svg.to_owned(),
    }
}

/// Width of a picture.
const WIDTH: i32 = 440;
const TITLE: i32 = 34;
const BAR: i32 = 24;
const LEFT: i32 = 124;
const RIGHT: i32 = 104;

/// A bar.
pub struct Bar {
    /// Before it.
    pub label: String,
    /// Its length.
    pub value: f64,
    /// The least and the most that was measured.
    pub range: (f64, f64),
    /// Behind it.
    pub text: String,
    /// Its colour.
    pub colour: RGBColor,
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

fn text(area: &Area, words: &str, at: (i32, i32), size: u32, ink: &Ink, pos: Pos) -> Drawn {
    // No name of a font: the page's own.
    let style = ("sans-serif", size).into_font().color(&ink.0).pos(pos);
    area.draw(&Text::new(words.to_owned(), at, style))?;
    Ok(())
}

const LEFT_TOP: Pos = Pos { h_pos: HPos::Left, v_pos: VPos::Top };
const LEFT_MIDDLE: Pos = Pos { h_pos: HPos::Left, v_pos: VPos::Center };
const RIGHT_MIDDLE: Pos = Pos { h_pos: HPos::Right, v_pos: VPos::Center };
const MIDDLE_TOP: Pos = Pos { h_pos: HPos::Center, v_pos: VPos::Top };

/// Lying bars, all from zero.
pub fn bars(title: &str, bars: &[Bar]) -> Result<String> {
    let height = TITLE + BAR * bars.len() as i32 + 10;
    let most = bars.iter().map(|b| b.value.max(b.range.1)).fold(f64::MIN_POSITIVE, f64::max);
    let scale = f64::from(WIDTH - LEFT - RIGHT) / most;
    draw((WIDTH, height), |area| {
        text(area, title, (10, 9), 15, &TEXT, LEFT_TOP)?;
        area.draw(&PathElement::new([(LEFT, TITLE - 2), (LEFT, height - 8)], GRID.0))?;
        for (at, bar) in bars.iter().enumerate() {
            let top = TITLE + BAR * at as i32;
            let middle = top + BAR / 2;
            let x = |value: f64| LEFT + (value * scale).round() as i32;
            let right = x(bar.value);
            area.draw(&Rectangle::new([(LEFT, top + 4), (right, top + BAR - 4)], bar.colour.filled()))?;
            let (low, high) = (x(bar.range.0), x(bar.range.1));
            if high > low + 1 {
                area.draw(&PathElement::new([(low, middle), (high, middle)], TEXT.0))?;
            }
            text(area, &bar.label, (LEFT - 8, middle), 13, &TEXT, RIGHT_MIDDLE)?;
            text(area, &bar.text, (right.max(high) + 6, middle), 12, &MUTED, LEFT_MIDDLE)?;
        }
        Ok(())
    })
}

/// A line over the number of keyslots, or a level if there is only a value without one.
pub struct Line {
    /// What it is.
    pub label: String,
    /// Keyslots and value.
    pub points: Vec<(u32, f64)>,
    /// A level to compare with, drawn dashed.
    pub level: Option<f64>,
    /// Its colour.
    pub colour: RGBColor,
}

/// Lines over the number of keyslots, whose axis is logarithmic.
pub fn lines(title: &str, lines: &[Line], value: impl Fn(f64) -> String) -> Result<String> {
    let legend = lines.len() as i32 * 18;
    let (left, right, top) = (58, WIDTH - 18, TITLE + 4 + legend);
    let (bottom, height) = (top + 180, top + 180 + 44);
    let mut slots: Vec<u32> = lines.iter().flat_map(|l| &l.points).map(|p| p.0).collect();
    slots.sort_unstable();
    slots.dedup();
    let log = |n: u32| f64::from(n.max(1)).log2();
    let (first, last) = (slots.first().map_or(0.0, |n| log(*n)), slots.last().map_or(1.0, |n| log(*n)).max(0.01));
    let values = lines.iter().flat_map(|l| l.points.iter().map(|p| p.1).chain(l.level));
    let most = nice(values.fold(f64::MIN_POSITIVE, f64::max));
    let x = |n: u32| left + 10 + ((log(n) - first) / (last - first).max(0.01) * f64::from(right - left - 20)) as i32;
    let y = |v: f64| bottom - (v / most * f64::from(bottom - top)) as i32;
    draw((WIDTH, height), |area| {
        text(area, title, (10, 9), 15, &TEXT, LEFT_TOP)?;
        for step in 0..=4 {
            let v = most * f64::from(step) / 4.0;
            area.draw(&PathElement::new([(left, y(v)), (right, y(v))], GRID.0))?;
            text(area, &value(v), (left - 6, y(v)), 12, &MUTED, RIGHT_MIDDLE)?;
        }
        for n in &slots {
            text(area, &n.to_string(), (x(*n), bottom + 6), 12, &MUTED, MIDDLE_TOP)?;
        }
        text(area, "keyslots", ((left + right) / 2, bottom + 24), 12, &MUTED, MIDDLE_TOP)?;
        for (at, line) in lines.iter().enumerate() {
            let middle = TITLE + 6 + 18 * at as i32;
            area.draw(&PathElement::new([(left, middle), (left + 22, middle)], line.colour.stroke_width(3)))?;
            text(area, &line.label, (left + 30, middle), 12, &TEXT, LEFT_MIDDLE)?;
            if let Some(level) = line.level {
                let dashes = (left..right).step_by(9).map(|from| [(from, y(level)), ((from + 5).min(right), y(level))]);
                for dash in dashes {
                    area.draw(&PathElement::new(dash, line.colour.stroke_width(2)))?;
                }
            }
            let points: Vec<(i32, i32)> = line.points.iter().map(|(n, v)| (x(*n), y(*v))).collect();
            area.draw(&PathElement::new(points.clone(), line.colour.stroke_width(2)))?;
            for point in points {
                area.draw(&Circle::new(point, 4, line.colour.filled()))?;
            }
        }
        Ok(())
    })
}

/// The next round number, for the end of an axis.
fn nice(most: f64) -> f64 {
    let power = 10f64.powf(most.log10().floor());
    [1.0, 2.0, 4.0, 5.0, 8.0, 10.0].iter().map(|n| n * power).find(|n| *n >= most * 0.999).unwrap_or(most)
}

/// The picture of all loads: a group of bars for each, without a picture's frame of its own.
pub fn overview(title: &str, note: &str, groups: &[(String, Vec<Bar>)]) -> Result<String> {
    const WIDE: i32 = 760;
    const BEFORE: i32 = 150;
    let rows: i32 = groups.iter().map(|(_, bars)| 26 + 18 * bars.len() as i32 + 8).sum();
    let most = groups.iter().flat_map(|(_, bars)| bars).map(|b| b.value).fold(1.0, f64::max);
    let scale = f64::from(WIDE - BEFORE - 150) / most;
    draw((WIDE, 62 + rows), |area| {
        text(area, title, (12, 10), 17, &TEXT, LEFT_TOP)?;
        text(area, note, (12, 34), 12, &MUTED, LEFT_TOP)?;
        let mut y = 62;
        for (name, bars) in groups {
            text(area, name, (12, y + 4), 14, &TEXT, LEFT_TOP)?;
            y += 26;
            let one = BEFORE + scale as i32;
            area.draw(&PathElement::new([(one, y), (one, y + 18 * bars.len() as i32)], GRID.0.stroke_width(2)))?;
            for bar in bars {
                let right = BEFORE + (bar.value * scale).round() as i32;
                area.draw(&Rectangle::new([(BEFORE, y + 3), (right, y + 16)], bar.colour.filled()))?;
                text(area, &bar.label, (BEFORE - 8, y + 9), 12, &TEXT, RIGHT_MIDDLE)?;
                text(area, &bar.text, (right + 6, y + 9), 12, &MUTED, LEFT_MIDDLE)?;
                y += 18;
            }
            y += 8;
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bar(label: &str, value: f64) -> Bar {
        Bar { label: label.into(), value, range: (value, value), text: format!("{value}"), colour: colour(How::Native) }
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
            level: Some(20.0),
            colour: line_colour(0),
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
