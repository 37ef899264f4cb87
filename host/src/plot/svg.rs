//! An SVG by its elements. Colours go by classes, which dark ground turns to others; whatever comes from files is escaped.

use core::fmt::Write as _;

use mwa::readable;

/// The classes: grounds and inks are GitHub's and Hugging Face's, and every line and bar has at least 3 : 1 against its ground.
const STYLE: &str = "\
  .ground { fill: #ffffff } .ink { fill: #1f2328 } .faint { fill: #59636e } .rule { stroke: #d1d9e0 } .axis { stroke: #818b98 }
  .curve { stroke: #0969da } .rate { stroke: #818b98 } .mark { fill: #ffffff; stroke: #0969da } .bar, .chosen { fill: #bc4c00 } .minus { fill: #cf222e }
  @media (prefers-color-scheme: dark) {
    .ground { fill: #0d1117 } .ink { fill: #f0f6fc } .faint { fill: #9198a1 } .rule { stroke: #2f3742 } .axis { stroke: #656c76 }
    .curve { stroke: #4493f8 } .rate { stroke: #9198a1 } .mark { fill: #0d1117; stroke: #4493f8 } .bar, .chosen { fill: #f0883e } .minus { fill: #f85149 }
  }
  text { font: 12px system-ui, sans-serif } .title { font-weight: 600 } .end { text-anchor: end } .middle { text-anchor: middle }
  path { fill: none; stroke-width: 1.6; stroke-linejoin: round } .chosen { stroke: none }
";

/// Whether a file is a picture that is made here.
#[cfg(any(feature = "cli", test))]
pub(crate) fn is_ours(file: &[u8]) -> bool {
    let mark = b"<style>\n.ground { fill: ";
    file.starts_with(b"<svg ") && file.windows(mark.len()).any(|part| part == mark)
}

/// A picture in the making.
#[derive(Debug)]
pub(crate) struct Svg {
    width: f64,
    height: f64,
    body: String,
}

impl Svg {
    /// Of so many units, which are pixels where it is shown as large as it is.
    pub(crate) fn new(width: f64, height: f64) -> Self {
        Self { width, height, body: String::new() }
    }

    fn push(&mut self, element: core::fmt::Arguments<'_>) {
        self.body.write_fmt(element).expect("a String takes all");
        self.body.push('\n');
    }

    pub(crate) fn line(&mut self, class: &str, (x1, y1): (f64, f64), (x2, y2): (f64, f64)) {
        self.push(format_args!(
            r#"<line class="{class}" x1="{x1:.1}" y1="{y1:.1}" x2="{x2:.1}" y2="{y2:.1}"/>"#
        ));
    }

    /// Text whose baseline is at `y`.
    pub(crate) fn text(&mut self, class: &str, (x, y): (f64, f64), text: &str) {
        let text = escaped(text);
        self.push(format_args!(r#"<text class="{class}" x="{x:.1}" y="{y:.1}">{text}</text>"#));
    }

    /// A circle, and what a pointer on it shows.
    pub(crate) fn dot(&mut self, class: &str, (x, y): (f64, f64), radius: f64, title: &str) {
        let title = escaped(title);
        self.push(format_args!(
            r#"<circle class="{class}" cx="{x:.1}" cy="{y:.1}" r="{radius}"><title>{title}</title></circle>"#
        ));
    }

    /// A rectangle, and what a pointer on it shows.
    pub(crate) fn bar(&mut self, class: &str, (x, y): (f64, f64), (width, height): (f64, f64), title: &str) {
        let title = escaped(title);
        self.push(format_args!(
            r#"<rect class="{class}" x="{x:.1}" y="{y:.1}" width="{width:.1}" height="{height:.1}"><title>{title}</title></rect>"#
        ));
    }

    /// A line through points; one that is nowhere parts it.
    pub(crate) fn path(&mut self, class: &str, points: impl IntoIterator<Item = Option<(f64, f64)>>) {
        let (mut path, mut pen) = (String::new(), 'M');
        for point in points {
            match point {
                Some((x, y)) => {
                    write!(path, "{pen}{x:.1} {y:.1}").expect("a String takes all");
                    pen = 'L';
                }
                None => pen = 'M',
            }
        }
        self.push(format_args!(r#"<path class="{class}" d="{path}"/>"#));
    }

    /// The file; `title` is what those hear who cannot see it.
    pub(crate) fn finish(self, title: &str) -> String {
        let Self { width, height, body } = self;
        let title = escaped(title);
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" height=\"{height}\" role=\"img\">\n\
             <title>{title}</title>\n<style>\n{STYLE}</style>\n\
             <rect class=\"ground\" width=\"{width}\" height=\"{height}\" rx=\"6\"/>\n{body}</svg>\n"
        )
    }
}

fn escaped(text: &str) -> String {
    readable(text).replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_leave_their_text() {
        let mut svg = Svg::new(10.0, 10.0);
        svg.text("ink", (1.0, 2.0), "</text><script>\"&\u{7}");
        let file = svg.finish("a<b");
        assert!(file.contains(r#"y="2.0">&lt;/text&gt;&lt;script&gt;&quot;&amp;\u{7}</text>"#), "{file}");
        assert!(file.contains("<title>a&lt;b</title>"), "{file}");
        assert!(is_ours(file.as_bytes()) && !is_ours(b"<svg xmlns=\"http://www.w3.org/2000/svg\"></svg>"));
    }

    #[test]
    fn a_point_that_is_nowhere_parts_a_line() {
        let mut svg = Svg::new(10.0, 10.0);
        svg.path("curve", [Some((0.0, 1.0)), Some((2.0, 3.0)), None, Some((4.0, 5.0))]);
        assert!(svg.finish("").contains(r#"d="M0.0 1.0L2.0 3.0M4.0 5.0""#));
    }
}
