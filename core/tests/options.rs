//! The types of Python, TypeScript, Go and Java, and the table in the README, are what the core's table of options says.
//!
//! `MWA_REMAKE=1 cargo test -p mwa --test options` writes them anew.

use core::fmt::Write as _;
use std::fs;
use std::path::Path;

use mwa::options::{About, Face, Kind, OPTIONS, Row, SEARCH_OPTIONS, Verb};
use mwa::search::Method;
use mwa::{BlendName, Scheme, SearchOptions};

/// What stands between `begin` and `end` of a file must be `made`.
fn check(file: &str, begin: &str, end: &str, made: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(file);
    let text = fs::read_to_string(&path).unwrap();
    let start = text.find(begin).unwrap_or_else(|| panic!("{file} has no line `{begin}`")) + begin.len();
    let stop = start + text[start..].find(end).unwrap_or_else(|| panic!("{file} has no line `{end}`"));
    if text[start..stop] != *made && std::env::var_os("MWA_REMAKE").is_some() {
        fs::write(&path, format!("{}{made}{}", &text[..start], &text[stop..])).unwrap();
        return;
    }
    assert_eq!(&text[start..stop], made, "{file}: MWA_REMAKE=1 cargo test -p mwa --test options");
}

/// Rows that a verb has on a face.
fn rows(face: Face, verb: Verb) -> impl Iterator<Item = &'static Row> {
    OPTIONS.iter().filter(move |row| row.is_on_face(face, verb))
}

/// Help and default in a line.
fn told(row: &Row) -> String {
    let usual = row.facts.usual;
    if usual.is_empty() { row.help().into() } else { format!("{} [default: {usual}]", row.help()) }
}

fn quoted(words: &[&str], between: &str) -> String {
    words.iter().map(|word| format!("\"{word}\"")).collect::<Vec<_>>().join(between)
}

#[test]
fn python() {
    let type_of = |row: &Row| -> String {
        match row.kind {
            Kind::Switch => "bool".into(),
            Kind::Count | Kind::Whole | Kind::Bytes => "int | None".into(),
            Kind::Size => "int | str | None".into(),
            Kind::Number(_) => "float | None".into(),
            Kind::Text => "str | None".into(),
            Kind::Path => "str | os.PathLike[str] | None".into(),
            Kind::Word(words) => format!("Literal[{}] | None", quoted(words, ", ")),
            Kind::Texts => "Sequence[str] | None".into(),
            Kind::Numbers => "Sequence[float] | None".into(),
            Kind::Steps => "tuple[int | None, int | None] | None".into(),
            Kind::Rank => "int | Literal[\"auto\", \"full\"] | None".into(),
            Kind::Device => "Device | None".into(),
        }
    };
    // names are those of the verb's command; of a search, `goal` has a parameter of its own
    let class = |head: &str, about: &str, verb: Verb, rows: Vec<&'static Row>| {
        let name = |row: &Row| row.flag_of(verb).replace('-', "_");
        let help: String = rows.iter().map(|row| format!("    {}: {}\n", name(row), told(row))).collect();
        let fields: String =
            rows.iter().map(|row| format!("    {}: {}\n", name(row), type_of(row))).collect();
        format!("\nclass {head}:\n    \"\"\"{about}\n\n{help}    \"\"\"\n\n{fields}\n")
    };
    let is_new = |row: &&Row| !row.facts.verbs.contains(&Verb::Weights);
    let made = class(
        "WeightOptions(TypedDict, total=False)",
        "Which checkpoints, and how they are weighed.",
        Verb::Weights,
        rows(Face::Native, Verb::Weights).collect(),
    ) + &class(
        "MergeOptions(WeightOptions, total=False)",
        "Also how the merge is done.",
        Verb::Merge,
        rows(Face::Native, Verb::Merge).filter(is_new).collect(),
    ) + "\n"
        + &class(
            "SearchOptions(TypedDict, total=False)",
            "How weights are searched for, and what of them is merged.",
            Verb::Search,
            SearchOptions::rows(Face::Native).into_iter().filter(|row| row.name != "score_goal").collect(),
        );
    let made = made
        + "\n"
        + &class(
            "ApplyOptions(TypedDict, total=False)",
            "How an adapter is folded into its base.",
            Verb::Apply,
            rows(Face::Native, Verb::Apply).collect(),
        )
        + "\n"
        + &class(
            "ExtractOptions(TypedDict, total=False)",
            "How an adapter is taken out of a model.",
            Verb::Extract,
            rows(Face::Native, Verb::Extract).collect(),
        );
    check(
        "bindings/python/mwa/options.py",
        "# made from core/src/options/mod.rs\n",
        "# end of what is made\n",
        &made,
    );
}

#[test]
fn the_readme() {
    let mut made = String::from("\n| option | default | |\n|---|---|---|\n");
    for about in
        [About::Selection, About::Metric, About::Weights, About::Space, About::Output, About::Machine]
    {
        writeln!(made, "| **{}** | | |", about.name()).unwrap();
        for row in rows(Face::CommandLine, Verb::Merge).filter(|row| row.facts.about == about) {
            let value = match (row.kind, row.facts.value) {
                (Kind::Switch, _) => String::new(),
                (Kind::Word(words), _) => format!(" {}", words.join("\\|")),
                (_, value) => format!(" {}", value.replace('|', "\\|")),
            };
            let usual = if row.kind == Kind::Switch { "" } else { row.facts.usual };
            // what is said of several faces alike is said once
            let mut lacking = Vec::<(Vec<&str>, &str)>::new();
            for (face, why) in row.facts.lacking {
                let name = match face {
                    Face::Browser => "browsers",
                    Face::Node => "Node",
                    Face::Go => "Go",
                    Face::Java => "Java",
                    Face::CommandLine | Face::Native => continue,
                };
                match lacking.iter_mut().find(|(_, other)| other == why) {
                    Some((names, _)) => names.push(name),
                    None => lacking.push((vec![name], why)),
                }
            }
            let lacking: String = lacking
                .iter()
                .map(|(names, why)| format!("; not in {}: {why}", names.join(" or ")))
                .collect();
            writeln!(made, "| `--{}{value}` | {usual} | {}{lacking} |", row.flag(), row.help()).unwrap();
        }
    }
    made.push('\n');
    check(
        "README.md",
        "<!-- made from core/src/options/mod.rs -->\n",
        "<!-- end of what is made -->\n",
        &made,
    );

    let mut made = String::from("\n| scheme | weight before normalising | needs | p |\n|---|---|---|---|\n");
    for scheme in Scheme::ALL {
        let usual = if scheme == Scheme::default() { " (default)" } else { "" };
        let penalty = scheme.penalty.map_or("–".into(), |span| span.to_string());
        writeln!(made, "| `{scheme}`{usual} | {} | {} | {penalty} |", scheme.formula, scheme.needs.name())
            .unwrap();
    }
    made.push('\n');
    check("README.md", "<!-- made from core/src/weigh/scheme.rs -->\n", "<!-- end of schemes -->\n", &made);
}

#[test]
fn what_tables_say_instead_of_weights() {
    for (file, begin, end) in [
        ("wasm/web/js/cli.ts", "const INSTEAD: Record<string, string> = {\n", "};\n"),
        ("bindings/python/mwa/results.py", "_INSTEAD = {\n", "}\n"),
    ] {
        let is_python = file.ends_with(".py");
        let row = |name: &&str| {
            let instead = name.parse::<BlendName>().ok()?.instead_of_weights()?;
            // as each language's formatter would have it
            let key = if is_python || name.contains('-') { quoted(&[name], "") } else { (*name).into() };
            Some(format!("{}{key}: \"{instead}\",\n", if is_python { "    " } else { "  " }))
        };
        check(file, begin, end, &BlendName::NAMES.iter().filter_map(row).collect::<String>());
    }
}

#[test]
fn typescript() {
    let field = |face: Face| {
        move |row: &Row| {
            let type_ = match (row.kind, row.name) {
                (Kind::Switch, _) => "boolean".into(),
                (Kind::Count | Kind::Whole | Kind::Bytes | Kind::Number(_), _) => "number".into(),
                (Kind::Size, _) => "number | string".into(),
                (Kind::Text | Kind::Path, _) => "string".into(),
                (Kind::Word(words), _) => quoted(words, " | "),
                (Kind::Texts, _) => "string[]".into(),
                (Kind::Numbers, _) => "number[]".into(),
                (Kind::Steps, _) => "[first: number | null, last: number | null]".into(),
                (Kind::Rank, _) => "number | \"auto\" | \"full\"".into(),
                (Kind::Device, _) => "\"auto\" | \"cpu\" | \"gpu\"".to_owned(),
            };
            let content = if row.kind == Kind::Path && face == Face::Browser { ": its text" } else { "" };
            format!("  /** {}{content}. */\n  {}?: {type_};\n", told(row), camel(row.name))
        }
    };
    let weighing = rows(Face::Browser, Verb::Weights).map(field(Face::Browser)).collect::<String>();
    let is_merging =
        |row: &&Row| !row.facts.verbs.contains(&Verb::Weights) && row.facts.about != About::Machine;
    let merging =
        rows(Face::Browser, Verb::Merge).filter(is_merging).map(field(Face::Browser)).collect::<String>();
    let made = format!(
        "\n/** How checkpoints are chosen and weighed. */\nexport interface WeighOptions {{\n{weighing}}}\n\n\
         /** What is averaged, and into what. */\nexport interface CoreOptions extends WeighOptions {{\n{merging}}}\n"
    );
    check(
        "wasm/web/js/options.ts",
        "// made from core/src/options/mod.rs\n",
        "// end of what is made\n",
        &made,
    );
}

#[test]
fn go() {
    let field = |row: &Row| {
        let type_ = match row.kind {
            Kind::Switch => "bool",
            // none of these may be 0
            Kind::Count | Kind::Bytes => "int",
            Kind::Whole => "*int",
            Kind::Number(_) => "*float64",
            Kind::Text | Kind::Path | Kind::Word(_) | Kind::Device | Kind::Size => "string",
            Kind::Texts => "[]string",
            Kind::Numbers => "[]float64",
            Kind::Steps => "*Steps",
            Kind::Rank => "Rank",
        };
        let words =
            if let Kind::Word(words) = row.kind { format!(": {}", words.join(", ")) } else { String::new() };
        let name: String = row.name.split('_').map(|word| word[..1].to_uppercase() + &word[1..]).collect();
        let json = format!("`json:\"{},omitzero\"`", row.name);
        format!("\n\t// {}{words}.\n\t{name} {type_} {json}\n", told(row))
    };
    let made: String = rows(Face::Go, Verb::Merge).map(field).collect();
    check(
        "bindings/go/options.go",
        "\t// made from core/src/options/mod.rs\n",
        "\t// end of what is made\n",
        &format!("{made}\n"),
    );
}

#[test]
fn java() {
    let method = |row: &Row, parameters: &str, value: &str, what: &str| {
        let documented = parameters.split(", ").map(|parameter| {
            let name = parameter.rsplit(' ').next().unwrap_or_default();
            format!("     * @param {name} {what}\n")
        });
        format!(
            "\n    /**\n     * {}.\n     *\n{}     * @return these options and that one\n     */\n    \
             public Options {}({parameters}) {{\n        return with(\"{}\", {value});\n    }}\n",
            told(row).replace('&', "&amp;"),
            documented.collect::<String>(),
            camel(row.name),
            row.name,
        )
    };
    let methods = |row: &Row| {
        let name = camel(row.name);
        let one = |type_: &str, what: &str| method(row, &format!("{type_} {name}"), &name, what);
        match row.kind {
            Kind::Switch => one("boolean", "whether to do so"),
            Kind::Count | Kind::Whole | Kind::Bytes => one("long", "a whole number"),
            Kind::Number(_) => one("double", "a number"),
            Kind::Size => one("String", "a size, such as 5GB"),
            Kind::Text => one("String", "a name"),
            Kind::Path => one("String", "a path, its parts parted by {@code /}"),
            Kind::Word(_) => one(&pascal(row.name), "one of these"),
            Kind::Texts => method(row, &format!("String... {name}"), &format!("List.of({name})"), "names"),
            Kind::Numbers => {
                let list = format!("DoubleStream.of({name}).boxed().toList()");
                method(row, &format!("double... {name}"), &list, "numbers")
            }
            Kind::Steps => {
                method(row, "Long first, Long last", "Arrays.asList(first, last)", "a step, or null")
            }
            Kind::Rank => one("long", "a whole number") + &one("Rank", "how it is found"),
            Kind::Device => unreachable!("it is left out"),
        }
    };
    let words = |row: &Row| {
        let words = match row.kind {
            Kind::Word(words) => words,
            Kind::Rank => &["auto", "full"],
            _ => return String::new(),
        };
        // `with` makes the word of it again: a name in Java has no `-`, and begins with no digit
        let constant = |word: &str| {
            let name = word.to_uppercase().replace('-', "_");
            if name.starts_with(|letter: char| letter.is_ascii_digit()) { format!("_{name}") } else { name }
        };
        let word = |word: &&str| format!("        /** {{@code {word}}}. */\n        {}", constant(word));
        format!(
            "\n    /** Values of {{@code {}}}. */\n    public enum {} {{\n{}\n    }}\n",
            camel(row.name),
            pascal(row.name),
            words.iter().map(word).collect::<Vec<_>>().join(",\n")
        )
    };
    let all = || rows(Face::Java, Verb::Merge);
    let made =
        format!("{}{}\n", all().map(methods).collect::<String>(), all().map(words).collect::<String>());
    check(
        "bindings/java/src/main/java/mwa/Options.java",
        "    // made from core/src/options/mod.rs\n",
        "    // end of what is made\n",
        &made,
    );
}

/// Messages name options with their values: JavaScript must know which have one.
#[test]
fn what_values_are_in_javascript() {
    let line = |row: &Row| {
        let kind = match row.kind {
            Kind::Switch => "switch",
            Kind::Count | Kind::Whole | Kind::Bytes | Kind::Number(_) => "number",
            Kind::Word(_) | Kind::Text | Kind::Size => "word",
            Kind::Numbers => "numbers",
            _ => "other",
        };
        format!("  {}: \"{kind}\",\n", camel(row.name))
    };
    let made: String = rows(Face::CommandLine, Verb::Merge).map(line).collect();
    let (begin, end) = ("  // made from core/src/options/mod.rs\n", "  // end of what is made\n");
    check("wasm/web/js/speech.ts", begin, end, &made);
}

/// JavaScript's spelling.
fn camel(name: &str) -> String {
    let mut words = name.split('_');
    let first = words.next().unwrap_or_default().to_owned();
    words.fold(first, |name, word| name + &word[..1].to_uppercase() + &word[1..])
}

/// The spelling of Java's types.
fn pascal(name: &str) -> String {
    let camel = camel(name);
    camel[..1].to_uppercase() + &camel[1..]
}

/// The command line of the npm package parses by a list of its own: it must have the same flags.
#[test]
fn the_command_line_in_node() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../wasm/web/js/cli.ts");
    let text = fs::read_to_string(path).unwrap();
    let help =
        text.split("const HELP = `").nth(1).and_then(|rest| rest.split('`').next()).expect("it has a help");
    let flags = |text: &str| {
        let words = text.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '-');
        let mut flags: Vec<_> = words.filter_map(|word| word.strip_prefix("--").map(str::to_owned)).collect();
        flags.sort();
        flags.dedup();
        flags
    };
    let mut known: Vec<_> = rows(Face::Node, Verb::Merge)
        .filter(|row| row.name != "checkpoints")
        .map(Row::flag)
        .chain(["output", "json", "quiet"].map(str::to_owned))
        .collect();
    known.sort();
    assert_eq!(flags(help), known);
}

/// The options and the methods of a search.
#[test]
fn the_page_on_search() {
    let mut made = String::from("\n| option | default | |\n|---|---|---|\n");
    for row in SEARCH_OPTIONS.iter().filter(|row| row.is_on_face(Face::CommandLine, Verb::Search)) {
        let value = match (row.kind, row.facts.value) {
            (Kind::Switch, _) => String::new(),
            (Kind::Word(words), _) => format!(" {}", words.join("\\|")),
            (_, value) => format!(" {}", value.replace('|', "\\|")),
        };
        let flag = row.flag_of(Verb::Search);
        writeln!(made, "| `--{flag}{value}` | {} | {} |", row.facts.usual, row.help()).unwrap();
    }
    made.push('\n');
    check(
        "docs/search.md",
        "<!-- made from core/src/options/search.rs -->\n",
        "<!-- end of options -->\n",
        &made,
    );

    let mut made = String::from("\n| method | |\n|---|---|\n");
    for method in Method::ALL {
        writeln!(made, "| `{method}` | {} |", method.about).unwrap();
    }
    made.push('\n');
    check(
        "docs/search.md",
        "<!-- made from core/src/search/mod.rs -->\n",
        "<!-- end of methods -->\n",
        &made,
    );
}
