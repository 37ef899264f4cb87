//! How time and memory grow with the number of checkpoints, as a table and as a picture.

use core::fmt::Write as _;
use std::fs;

use super::{Contender, Sample, floor, machine, mwa, sampled};
use crate::inputs;
use crate::run::{Result, build, target};

/// Numbers of checkpoints.
const COUNTS: [usize; 7] = [1, 2, 4, 8, 16, 32, 64];
/// The newest so many are merged, with the residual and without, beside reading them and writing one.
const LINES: [&str; 3] = ["floor (cat all, cp one)", "mwa merge --residual off", "mwa merge"];

/// `cargo xtask bench growth`: writes target/bench/growth.svg.
pub(super) fn growth(runs: usize) -> Result {
    build()?;
    let folder = target().join("bench/lora-many");
    let most = COUNTS[COUNTS.len() - 1];
    let files = inputs::adapters(&folder, &inputs::LLAMA_7B, most as u64)?;
    let out = target().join("bench/out");
    let mut rows = Vec::new();
    println!("\n{}; {runs} runs, page cache warm; seconds, CPU seconds, MB at most\n", machine());
    println!("| checkpoints | {} |\n|---|---|---|---|", LINES.join(" | "));
    for count in COUNTS {
        let mut contenders = LINES.map(|name| {
            if name == LINES[0] {
                return floor(&files[most - count..], 1, &out);
            }
            let mut merge = mwa(name);
            merge.args(["--last", &count.to_string()]);
            merge.arg(&folder).arg("--output").arg(out.join("merged"));
            Contender { name, commands: vec![merge] }
        });
        let samples = sampled(&mut contenders, runs, &out)?;
        let samples: Vec<_> = samples.iter().map(|samples| Sample::median(samples)).collect();
        let cells =
            samples.iter().map(|it| format!("{:.3}, {:.3}, {}", it.seconds, it.cpu, it.peak / 1_000_000));
        println!("| {count} | {} |", cells.collect::<Vec<_>>().join(" | "));
        rows.push((count, samples));
    }
    let path = target().join("bench/growth.svg");
    fs::write(&path, drawn(&rows)).map_err(|error| format!("{}: {error}", path.display()))?;
    println!("\n{}", path.display());
    Ok(())
}

/// Wall seconds over checkpoints above, peak memory below; both axes begin at zero, so that what is linear is straight.
fn drawn(rows: &[(usize, Vec<Sample>)]) -> String {
    const STYLE: &str = "text{font:12px system-ui,sans-serif;fill:#57606a}path{fill:none;stroke-width:2}\
        .c0{stroke:#8c959f;fill:#8c959f}.c1{stroke:#1a7f37;fill:#1a7f37}.c2{stroke:#0969da;fill:#0969da}path{fill:none!important}\
        .axis{stroke:#8c959f;stroke-width:1}@media(prefers-color-scheme:dark){text{fill:#9198a1}.c1{stroke:#3fb950;fill:#3fb950}\
        .c2{stroke:#4493f8;fill:#4493f8}}";
    /// Its title, what of a sample it shows, and where it lies.
    type Panel = (&'static str, fn(&Sample) -> f64, [f64; 2]);
    let panels: [Panel; 2] = [
        ("seconds, by the clock", |it| it.seconds, [40.0, 240.0]),
        ("MB of memory at most", |it| it.peak as f64 / 1e6, [290.0, 370.0]),
    ];
    let widest = rows.iter().map(|row| row.0).max().unwrap_or(1) as f64;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 640 420\" role=\"img\" aria-label=\"time and memory of a merge over the \
         number of its checkpoints\"><style>{STYLE}</style>\n"
    );
    for (title, of, [top, bottom]) in panels {
        let highest = rows.iter().flat_map(|row| &row.1).map(of).fold(0.0, f64::max);
        let at = |count: usize, value: f64| {
            (60.0 + 560.0 * count as f64 / widest, bottom - (bottom - top) * value / highest)
        };
        let _ = writeln!(svg, "<text x=\"60\" y=\"{}\">{title}</text>", top - 14.0);
        let _ = writeln!(svg, "<path class=\"axis\" d=\"M60 {top}V{bottom}H620\"/>");
        for (value, y) in [(highest, top + 4.0), (0.0, bottom)] {
            let _ = writeln!(
                svg,
                "<text x=\"54\" y=\"{y}\" text-anchor=\"end\">{}</text>",
                (value * 100.0).round() / 100.0
            );
        }
        for line in 0..LINES.len() {
            let points: Vec<_> = rows.iter().map(|(count, samples)| at(*count, of(&samples[line]))).collect();
            let path: Vec<_> = points.iter().map(|(x, y)| format!("{x:.1} {y:.1}")).collect();
            let _ = writeln!(svg, "<path class=\"c{line}\" d=\"M{}\"/>", path.join("L"));
            for (x, y) in points {
                let _ = writeln!(svg, "<circle class=\"c{line}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\"/>");
            }
        }
    }
    for (line, name) in LINES.iter().enumerate() {
        let x = 220 + 140 * line;
        let _ = writeln!(
            svg,
            "<circle class=\"c{line}\" cx=\"{x}\" cy=\"22\" r=\"4\"/><text x=\"{}\" y=\"26\">{name}</text>",
            x + 8
        );
    }
    for (count, _) in rows.iter().filter(|row| row.0 >= 8) {
        let x = 60.0 + 560.0 * *count as f64 / widest;
        let _ = writeln!(svg, "<text x=\"{x:.1}\" y=\"388\" text-anchor=\"middle\">{count}</text>");
    }
    svg + "<text x=\"60\" y=\"410\">checkpoints of 80 MB</text></svg>\n"
}
