//! The plot of the three ways to serve an image.

use crate::helper::{Area, FONT, INK, PALE, canvas};
use anyhow::{Result, anyhow};
use plotters::prelude::*;
use serde_json::Value;
use std::path::Path;

/// Keys of the results, and what they are called.
const WAYS: [(&str, &str, RGBColor); 3] = [
    ("fuse", "nydusd, FUSE", RGBColor(0xc8, 0x55, 0x3d)),
    ("kernel", "the kernel, EROFS", RGBColor(0x0b, 0x7a, 0x75)),
    ("plain", "unpacked on ext4", RGBColor(0x8a, 0x90, 0x99)),
];
const TASKS: [(&str, &str); 7] = [
    ("read_cold_s", "read, cold"),
    ("read_warm_s", "read, warm"),
    ("walk_cold_s", "walk, cold"),
    ("walk_warm_s", "walk, warm"),
    ("walk_again_s", "walk again"),
    ("python_cold_s", "Python, cold"),
    ("python_warm_s", "Python, warm"),
];

/// Draws it, if it was measured.
pub(crate) fn plot(results: &Value, file: &Path) -> Result<()> {
    if results["native"].is_null() {
        return Ok(());
    }
    let area =
        canvas(file, "One image, all of it cached, by who serves it (median, seconds)", 420)?;
    draw(&results["native"], &area).map_err(|error| anyhow!("cannot draw: {error}"))
}

fn draw(results: &Value, area: &Area<'_>) -> Result<(), Box<dyn std::error::Error>> {
    let seconds = |task: &str, way: &str| results[task][way].as_f64().unwrap_or(0.0);
    let all = TASKS.iter().flat_map(|(task, _)| WAYS.map(|(way, ..)| seconds(task, way)));
    let most = all.fold(0.0, f64::max) * 1.1;
    let width = TASKS.len() as f64;
    let mut chart = ChartBuilder::on(area)
        .margin(16)
        .x_label_area_size(30)
        .y_label_area_size(60)
        .build_cartesian_2d((0..TASKS.len() - 1).into_segmented(), 0.0..most)?
        .set_secondary_coord(0.0..width, 0.0..most);
    let name = |at: &SegmentValue<usize>| match at {
        SegmentValue::CenterOf(index) => TASKS.get(*index).map_or("", |task| task.1).to_owned(),
        _ => String::new(),
    };
    chart
        .configure_mesh()
        .disable_x_mesh()
        .x_labels(TASKS.len())
        .x_label_formatter(&name)
        .y_label_formatter(&|seconds| format!("{seconds:.1}"))
        .bold_line_style(PALE)
        .light_line_style(TRANSPARENT)
        .axis_style(PALE)
        .label_style((FONT, 14, &INK))
        .draw()?;
    for (number, (way, label, color)) in WAYS.into_iter().enumerate() {
        let bar = |(task, (key, _)): (usize, &(&str, &str))| {
            let left = task as f64 + 0.14 + 0.24 * number as f64;
            Rectangle::new([(left, 0.0), (left + 0.22, seconds(key, way))], color.filled())
        };
        chart
            .draw_secondary_series(TASKS.iter().enumerate().map(bar))?
            .label(label)
            .legend(move |(x, y)| Rectangle::new([(x, y - 5), (x + 14, y + 5)], color.filled()));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperRight)
        .margin(14)
        .label_font((FONT, 14, &INK))
        .background_style(WHITE)
        .draw()?;
    area.present()?;
    Ok(())
}
