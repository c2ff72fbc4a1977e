//! The tables drawn: for each a bar a line as long as its median, its quartiles as a whisker, and what it must be as a
//! mark. Plain SVG 1.1 without a script or a style sheet, so that every viewer shows it.

use std::fmt::Write as _;

use crate::figures::{Line, Spread, Table, Verdict};

const WIDTH: f64 = 900.0;
/// Where bars begin and end.
const LEFT: f64 = 300.0;
const RIGHT: f64 = 760.0;
const ROW: f64 = 22.0;
const HEAD: f64 = 44.0;

pub(crate) fn document(tables: &[Table]) -> String {
    let drawn: Vec<&Table> = tables.iter().filter(|table| !table.lines.is_empty()).collect();
    let height: f64 = drawn.iter().map(|table| HEAD + ROW * table.lines.len() as f64).sum::<f64>() + 20.0;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" viewBox=\"0 0 {WIDTH} {height}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
    );
    let mut top = 10.0;
    for table in drawn {
        top = chart(&mut svg, table, top);
    }
    svg + "</svg>\n"
}

/// Draws a table from `top` on; where the next one begins.
fn chart(svg: &mut String, table: &Table, top: f64) -> f64 {
    let title = escaped(&format!("{}: {} ({})", table.scenario, table.title, table.unit));
    // Writing into a string does not fail.
    let _ = writeln!(svg, "<text x=\"10\" y=\"{}\" font-weight=\"bold\">{title}</text>", top + 20.0);
    let spreads: Vec<_> = table.lines.iter().map(|line| Spread::of(&line.samples)).collect();
    let marks = table.lines.iter().filter_map(|line| line.target).map(|target| target.must);
    let longest = spreads.iter().flatten().map(|spread| spread.high).chain(marks).fold(f64::MIN_POSITIVE, f64::max);
    let x = |value: f64| LEFT + (RIGHT - LEFT) * (value / longest).clamp(0.0, 1.0);
    for (row, (line, spread)) in table.lines.iter().zip(&spreads).enumerate() {
        let Some(spread) = spread else { continue };
        let y = top + HEAD - 10.0 + ROW * row as f64;
        let middle = y + 7.0;
        let subject = escaped(&line.subject);
        let _ = writeln!(svg, "<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{subject}</text>", LEFT - 8.0, y + 11.0);
        let (width, colour) = (x(spread.median) - LEFT, colour(line));
        let _ = writeln!(svg, "<rect x=\"{LEFT}\" y=\"{y}\" width=\"{width:.1}\" height=\"14\" fill=\"{colour}\"/>");
        let (low, high) = (x(spread.low), x(spread.high));
        let _ = writeln!(svg, "<path d=\"M{low:.1} {middle}H{high:.1}\" stroke=\"#333\" stroke-width=\"2\"/>");
        if let Some(target) = line.target {
            let at = x(target.must);
            let _ = writeln!(svg, "<path d=\"M{at:.1} {}v18\" stroke=\"#c00\" stroke-width=\"1.5\"/>", y - 2.0);
        }
        let ratios = line.against.iter().filter_map(|against| {
            let ratio = Spread::of(&against.ratios)?.median;
            Some(format!(" · {}× {}", super::number(ratio), against.baseline))
        });
        let figure = escaped(&(super::number(spread.median) + &ratios.take(1).collect::<String>()));
        let _ = writeln!(
            svg,
            "<text x=\"{:.1}\" y=\"{}\" fill=\"#333\">{figure}</text>",
            high.max(x(spread.median)) + 6.0,
            y + 11.0
        );
    }
    top + HEAD + ROW * table.lines.len() as f64
}

/// Blue, or by what it should be: green as meant, red not as it must.
fn colour(line: &Line) -> &'static str {
    let own = line.target.zip(Spread::of(&line.samples));
    let ratios = line.against.iter().filter_map(|against| against.target.zip(Spread::of(&against.ratios)));
    let verdicts: Vec<Verdict> = own.into_iter().chain(ratios).map(|(target, at)| target.verdict(at.median)).collect();
    match () {
        () if verdicts.contains(&Verdict::Missed) => "#d98c8c",
        () if verdicts.is_empty() => "#9db7d5",
        () => "#8fbf8f",
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_line_is_drawn_and_foreign_text_is_no_markup() {
        let svg = super::document(&[crate::report::example()]);
        assert_eq!(svg.matches("<rect x=").count(), 2, "{svg}");
        assert!(svg.contains("other &lt;one&gt;") && svg.contains("a hello &amp; more"), "{svg}");
        assert_eq!(svg.matches("#d98c8c").count(), 1, "the one that misses its target is red: {svg}");
        assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n"));
    }
}
