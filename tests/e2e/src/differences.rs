//! The tables of docs/differences.md.

/// The cells of each row of the first table below a heading that begins so, without the backticks
/// around a cell.
///
/// # Panics
/// There is no such heading.
pub fn rows(heading: &str) -> Vec<Vec<String>> {
    let document = include_str!("../../../docs/differences.md");
    let (_, section) = document.split_once(&format!("\n{heading}")).expect(heading);
    let section = section.split("\n#").next().unwrap_or_default();
    let lines = section.lines().skip_while(|line| !line.starts_with('|'));
    let rows = lines.take_while(|line| line.starts_with('|')).skip(2);
    rows.map(|row| row.trim_matches('|').split(" | ").map(cell).collect()).collect()
}

/// What stands in backticks in a cell, or all of it.
pub fn quoted(cell: &str) -> Vec<&str> {
    match cell.contains('`') {
        true => cell.split('`').skip(1).step_by(2).collect(),
        false => vec![cell],
    }
}

fn cell(text: &str) -> String {
    let text = text.trim();
    let inner = text.strip_prefix('`').and_then(|text| text.strip_suffix('`'));
    inner.filter(|inner| !inner.contains('`')).unwrap_or(text).to_owned()
}
