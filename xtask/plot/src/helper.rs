//! The plots of the helper's figures.

use anyhow::{Result, anyhow};
use plotters::coord::Shift;
use plotters::prelude::*;
use serde::Deserialize;
use std::path::Path;

/// What was measured, as far as it is drawn.
#[derive(Deserialize)]
pub(crate) struct Results {
    programs: Vec<Row>,
    chains: Vec<Row>,
    layers: Vec<Point>,
}

/// A program and the times of its mounts, in microseconds.
#[derive(Deserialize)]
struct Row {
    key: String,
    label: String,
    median_us: f64,
    p99_us: f64,
}

#[derive(Deserialize)]
struct Point {
    key: String,
    layers: usize,
    median_us: f64,
}

pub(crate) type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

pub(crate) const FONT: &str = "sans-serif";
pub(crate) const INK: RGBColor = RGBColor(0x33, 0x38, 0x40);
pub(crate) const PALE: RGBColor = RGBColor(0xdd, 0xe0, 0xe4);

fn color(key: &str) -> RGBColor {
    match key {
        "floor" => RGBColor(0x8a, 0x90, 0x99),
        "ours" | "ours-front" | "front" => RGBColor(0x0b, 0x7a, 0x75),
        "ours-std" | "behind" => RGBColor(0x6c, 0xb5, 0xb1),
        "go" | "stock" => RGBColor(0xc8, 0x55, 0x3d),
        _ => RGBColor(0xd9, 0xa4, 0x41),
    }
}

/// Latency by program, by what containerd runs and by number of layers, each in a file beside
/// `json`.
pub(crate) fn plot(results: &Results, json: &Path) -> Result<()> {
    let file = |name| json.with_file_name(name);
    let programs = "Time of one mount, spawn to exit, 2 layers";
    bars(programs, &results.programs, &file("programs.svg"))?;
    let chains = "From containerd's exec of mount.fuse to the end of the mount";
    bars(chains, &results.chains, &file("chains.svg"))?;
    layers(results, &file("layers.svg"))
}

/// A bar for each median, a mark for each 99th percentile.
fn bars(title: &str, rows: &[Row], file: &Path) -> Result<()> {
    let title = format!("{title}: median (bar), 99th percentile (mark)");
    let area = canvas(file, &title, 110 + 45 * rows.len() as u32)?;
    draw_bars(rows, &area).map_err(|error| anyhow!("cannot draw: {error}"))
}

fn draw_bars(rows: &[Row], area: &Area<'_>) -> Result<(), Box<dyn std::error::Error>> {
    let most = rows.iter().map(|row| row.p99_us).fold(0.0, f64::max) * 1.05;
    let mut chart = ChartBuilder::on(area)
        .margin(12)
        .x_label_area_size(40)
        .y_label_area_size(280)
        .build_cartesian_2d(0.0..most, (0..rows.len() - 1).into_segmented())?;
    let label = |row: &SegmentValue<usize>| {
        let SegmentValue::CenterOf(index) = row else { return String::new() };
        let row = rows.iter().rev().nth(*index);
        row.map_or_else(String::new, |row| format!("{}: {:.0} µs", row.label, row.median_us))
    };
    chart
        .configure_mesh()
        .disable_y_mesh()
        .x_desc("microseconds")
        .x_label_formatter(&|x| format!("{x:.0}"))
        .y_labels(rows.len())
        .y_label_formatter(&label)
        .bold_line_style(PALE)
        .light_line_style(TRANSPARENT)
        .axis_style(PALE)
        .label_style((FONT, 14, &INK))
        .draw()?;
    for (index, row) in rows.iter().rev().enumerate() {
        let from = (0.0, SegmentValue::Exact(index));
        let to = (row.median_us, SegmentValue::Exact(index + 1));
        let mut bar = Rectangle::new([from, to], color(&row.key).filled());
        bar.set_margin(5, 5, 0, 0);
        chart.draw_series([bar])?;
        let mark = EmptyElement::at((row.p99_us, SegmentValue::CenterOf(index)))
            + PathElement::new([(0, -8), (0, 8)], INK.stroke_width(2));
        chart.draw_series([mark])?;
    }
    area.present()?;
    Ok(())
}

/// Latency by number of layers.
fn layers(results: &Results, file: &Path) -> Result<()> {
    let area = canvas(file, "Time of one mount by number of layers (median, spawn to exit)", 420)?;
    draw_layers(results, &area).map_err(|error| anyhow!("cannot draw: {error}"))
}

fn draw_layers(results: &Results, area: &Area<'_>) -> Result<(), Box<dyn std::error::Error>> {
    let most = results.layers.iter().map(|point| point.median_us).fold(0.0, f64::max) * 1.05;
    let mut chart = ChartBuilder::on(area)
        .margin(16)
        .x_label_area_size(44)
        .y_label_area_size(70)
        .build_cartesian_2d(0.0..510.0, 0.0..most)?;
    chart
        .configure_mesh()
        .x_desc("lower layers")
        .y_desc("microseconds")
        .x_label_formatter(&|x| format!("{x:.0}"))
        .y_label_formatter(&|y| format!("{y:.0}"))
        .bold_line_style(PALE)
        .light_line_style(TRANSPARENT)
        .axis_style(PALE)
        .label_style((FONT, 14, &INK))
        .draw()?;
    for program in &results.programs {
        let points: Vec<_> = results
            .layers
            .iter()
            .filter(|point| point.key == program.key)
            .map(|point| (point.layers as f64, point.median_us))
            .collect();
        if points.is_empty() {
            continue;
        }
        let color = color(&program.key);
        let line = LineSeries::new(points, color.stroke_width(2).filled()).point_size(4);
        chart
            .draw_series(line)?
            .label(&program.label)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], color.stroke_width(3)));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::LowerRight)
        .margin(14)
        .label_font((FONT, 14, &INK))
        .background_style(WHITE)
        .draw()?;
    area.present()?;
    Ok(())
}

/// A white page with a title.
pub(crate) fn canvas<'a>(file: &'a Path, title: &str, height: u32) -> Result<Area<'a>> {
    let area = SVGBackend::new(file, (860, height)).into_drawing_area();
    area.fill(&WHITE)?;
    Ok(area.titled(title, text(18))?)
}

fn text(size: u32) -> TextStyle<'static> {
    (FONT, size).into_font().color(&INK)
}
