//! The manual pages: one for the program and one for each command, made of what `--help` is made of.

use std::io::{self, Write};

use clap::{Command, CommandFactory as _};
use clap_mangen::Man;

use crate::cli::arguments::Cli;

/// All pages: the name of each file, and what is in it. The first is the program's own.
pub(crate) fn pages() -> io::Result<Vec<(String, Vec<u8>)>> {
    let mut program = Cli::command().disable_help_subcommand(true);
    program.build();
    let commands = program.get_subcommands().cloned().collect::<Vec<_>>();
    let name = |command: &Command| command.get_display_name().unwrap_or(command.get_name()).to_owned();
    [program].into_iter().chain(commands).map(|command| page(name(&command), command)).collect()
}

fn page(name: String, command: Command) -> io::Result<(String, Vec<u8>)> {
    let after = command.get_after_help().map(ToString::to_string).unwrap_or_default();
    let has_commands = command.has_subcommands();
    let mut page = Vec::new();
    // clap keeps names for as long as the program runs
    let shown: &str = name.clone().leak();
    let man = Man::new(command.name(shown).version(env!("CARGO_PKG_VERSION")));
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_description_section(&mut page)?;
    man.render_options_section(&mut page)?;
    if has_commands {
        man.render_subcommands_section(&mut page)?;
    }
    for block in after.split("\n\n") {
        section(block, &mut page)?;
    }
    man.render_version_section(&mut page)?;
    Ok((format!("{name}.1"), page))
}

/// A block of help: `Title: text`, or a title and lines that are shown as they are.
fn section(block: &str, page: &mut Vec<u8>) -> io::Result<()> {
    let Some((title, text)) = block.split_once(':') else { return Ok(()) };
    writeln!(page, ".SH {}", title.trim().to_uppercase())?;
    match text.strip_prefix('\n') {
        Some(lines) => {
            writeln!(page, ".nf")?;
            for line in lines.lines() {
                writeln!(page, "{}", escaped(line.strip_prefix("  ").unwrap_or(line)))?;
            }
            writeln!(page, ".fi")
        }
        None => writeln!(page, "{}", escaped(text.trim())),
    }
}

/// Text that `man` shows letter by letter.
fn escaped(text: &str) -> String {
    let text = text.replace('\\', "\\e").replace('-', "\\-");
    if text.starts_with(['.', '\'']) { format!("\\&{text}") } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_command_has_a_page_with_its_options_and_examples_line_by_line() {
        let pages = pages().unwrap();
        let names: Vec<_> = pages.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names[..2], ["mwa.1", "mwa-merge.1"]);
        assert!(
            ["mwa-weights.1", "mwa-inspect.1", "mwa-verify.1"].iter().all(|name| names.contains(name)),
            "{names:?}"
        );
        let text = |name: &str| {
            let (_, page) = pages.iter().find(|(other, _)| other == name).unwrap();
            String::from_utf8(page.clone()).unwrap()
        };
        let merge = text("mwa-merge.1");
        assert!(
            merge.contains("\\-\\-penalty") && merge.contains("How hard a worse checkpoint is punished"),
            "{merge}"
        );
        assert!(merge.contains(".SH EXAMPLES\n.nf\nmwa merge runs/my\\-lora \\-o merged"), "{merge}");
        assert!(text("mwa.1").contains("mwa\\-merge(1)"));
    }

    #[test]
    fn what_begins_as_a_request_is_shown() {
        assert_eq!(escaped("./a-b\\c"), "\\&./a\\-b\\ec");
    }
}
