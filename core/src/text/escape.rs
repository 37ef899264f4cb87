//! Names as they may be shown: nothing in them moves a cursor, colours a terminal, or turns the reading direction.

use alloc::borrow::Cow;
use alloc::format;
use alloc::string::String;
use core::fmt::Write as _;

/// The text with each character that is not for reading written as Rust writes it, such as `\n` or `\u{1b}`: controls,
/// line and paragraph separators, marks that change the direction of text, and invisible ones.
///
/// Names of files, tensors, metrics and modules come from strangers. Whatever shows them to a person passes them through
/// here; whatever hands them to a program keeps them as they are.
#[must_use]
pub fn readable(text: &str) -> Cow<'_, str> {
    if !text.chars().any(is_hidden) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len() + 16);
    for character in text.chars() {
        if is_hidden(character) {
            let _ = write!(shown, "{}", character.escape_default());
        } else {
            shown.push(character);
        }
    }
    Cow::Owned(shown)
}

/// As a word of a command line that is offered: quoted where a shell would make something else of it.
#[must_use]
pub fn shell_word(text: &str) -> Cow<'_, str> {
    let is_plain = |c: char| c.is_alphanumeric() || "/._-+=:,@%".contains(c);
    if !text.is_empty() && text.chars().all(is_plain) {
        return Cow::Borrowed(text);
    }
    Cow::Owned(format!("'{}'", text.replace('\'', r"'\''")))
}

/// As [`readable`], with all that means something in Markdown or HTML made plain.
#[must_use]
pub fn markdown(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for character in readable(text).chars() {
        match character {
            '&' => shown.push_str("&amp;"),
            '<' => shown.push_str("&lt;"),
            '>' => shown.push_str("&gt;"),
            '\\' | '`' | '*' | '[' | ']' | '|' | '!' | '#' | '~' => {
                shown.push('\\');
                shown.push(character);
            }
            _ => shown.push(character),
        }
    }
    shown
}

const fn is_hidden(character: char) -> bool {
    matches!(character,
        '\0'..='\x1f' | '\x7f'..='\u{9f}' // C0, DEL, C1
        | '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' // directions
        | '\u{2028}' | '\u{2029}' // line and paragraph separators
        | '\u{ad}' | '\u{200b}' | '\u{2060}'..='\u{2064}' | '\u{206a}'..='\u{206f}' | '\u{feff}' // invisible
        | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}' // annotations and tags
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_shell_would_part_is_quoted() {
        for plain in ["runs/κ/checkpoint-10", "a_b.c", "日本語"] {
            assert!(matches!(shell_word(plain), Cow::Borrowed(same) if same == plain));
        }
        for (raw, quoted) in [
            ("my run/a", "'my run/a'"),
            ("", "''"),
            ("it's", r"'it'\''s'"),
            ("$HOME", "'$HOME'"),
            ("a\\b", r"'a\b'"),
        ] {
            assert_eq!(shell_word(raw), quoted);
        }
    }

    #[test]
    fn nothing_reaches_a_terminal_that_is_not_for_reading() {
        for plain in ["", "runs/κ/checkpoint-10", "日本語 ✓ é e\u{301}", r"C:\runs\a", "a‍b"] {
            assert!(matches!(readable(plain), Cow::Borrowed(same) if same == plain));
        }
        for (raw, shown) in [
            ("a\x1b]0;title\x07\x1b[2Jb", r"a\u{1b}]0;title\u{7}\u{1b}[2Jb"),
            ("one\r\ntwo\ttabs", r"one\r\ntwo\ttabs"),
            ("\u{9b}31m", r"\u{9b}31m"),
            ("a\u{202e}cba\u{2066}", r"a\u{202e}cba\u{2066}"),
            ("line\u{2028}separator\u{feff}", r"line\u{2028}separator\u{feff}"),
        ] {
            assert_eq!(readable(raw), shown);
        }
    }

    #[test]
    fn names_are_no_markup() {
        assert_eq!(markdown("a|b\n<img src=x>&[l](u)`*_"), r"a\|b\\n&lt;img src=x&gt;&amp;\[l\](u)\`\*_");
        assert_eq!(markdown("checkpoint-10_a.b"), "checkpoint-10_a.b");
    }
}
