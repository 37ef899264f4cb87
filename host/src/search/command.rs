//! An evaluator that is a command, run for each candidate.

use core::time::Duration;
use std::path::Path;
use std::process::Stdio;
use std::time::Instant;

use mwa::search::Score;

use super::evaluator::{Candidate, Evaluator};
use super::process::{Cut, Process, Tail, ending};

/// Runs a command line for each candidate, in which `{path}` stands for its folder, and reads the score from what it prints.
///
/// The environment has `MWA_CANDIDATE`, the folder, `MWA_NUMBER`, the candidate's number, and `MWA_WEIGHTS`, one per checkpoint,
/// oldest first, with commas between.
#[derive(Clone, Debug)]
pub struct CommandEvaluator {
    line: String,
    timeout: Option<f64>,
}

impl CommandEvaluator {
    /// A command line as the shell reads it, and how many seconds it may take.
    #[must_use]
    pub fn new(line: &str, timeout: Option<f64>) -> Self {
        Self { line: line.to_owned(), timeout }
    }

    /// The line for a candidate's folder.
    fn with_path(&self, path: &Path) -> String {
        let text = quoted(path);
        // the user's own quotes around it would end these
        let is_quoted = text.starts_with(['\'', '"']);
        let own = ["\"{path}\"", "'{path}'"].iter().filter(|_| is_quoted);
        own.chain(&["{path}"]).fold(self.line.clone(), |line, name| line.replace(name, &text))
    }
}

impl Evaluator for CommandEvaluator {
    fn name(&self) -> String {
        self.line.clone()
    }

    fn score(&self, _: usize, candidate: Candidate<'_>, stopped: &dyn Fn() -> bool) -> Result<Score, String> {
        let weights: Vec<_> = candidate.weights.iter().map(f64::to_string).collect();
        let (weights, number) = (weights.join(","), candidate.number.to_string());
        let words = [
            ("MWA_CANDIDATE", candidate.path.as_os_str()),
            ("MWA_NUMBER", number.as_ref()),
            ("MWA_WEIGHTS", weights.as_ref()),
        ];
        let line = self.with_path(candidate.path);
        let until = self.timeout.map(|seconds| Instant::now() + Duration::from_secs_f64(seconds));
        let mut process = Process::start(&line, &words, Stdio::null())?;
        let output = Tail::of(process.output());
        match process.wait(&output, until, stopped) {
            Err(error) => Err(format!("it cannot be waited for: {error}")),
            Ok(Err(Cut::Stopped)) => Err("stopped".into()),
            Ok(Err(Cut::Late)) => Err(late(self.timeout)),
            Ok(Ok(status)) if !status.success() => Err(ending(status, process.complaint())),
            Ok(Ok(_)) => Score::of_output(&output.text()),
        }
    }
}

/// What became of a candidate that took too long.
pub(super) fn late(timeout: Option<f64>) -> String {
    format!("not scored within {} s (--timeout)", timeout.unwrap_or_default())
}

/// A path as the shell takes it for one word.
fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let is_plain = |letter: char| letter.is_alphanumeric() || "/\\._-+=@:".contains(letter);
    match cfg!(windows) {
        true if text.chars().all(is_plain) => text,
        true => format!("\"{text}\""),
        false => mwa::shell_word(&text).into_owned(),
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    fn score(line: &str, timeout: Option<f64>) -> Result<f64, String> {
        let path = Path::new("/a b/it's");
        let candidate = Candidate { number: 7, path, weights: &[0.25, -0.5, 1.25] };
        CommandEvaluator::new(line, timeout).score(0, candidate, &|| false).map(|score| score.value)
    }

    #[test]
    fn a_command_gives_a_score() {
        assert_eq!(score("echo loss 0.5", None), Ok(0.5));
        assert_eq!(score("echo 7; echo '{\"score\": 0.25}'", None), Ok(0.25));
        assert_eq!(score("test {path} = \"$MWA_CANDIDATE\" && echo $MWA_NUMBER", None), Ok(7.0));
        assert_eq!(score("test \"{path}\" = \"$MWA_CANDIDATE\" && echo 8", None), Ok(8.0));
        assert_eq!(score("test '{path}' = \"$MWA_CANDIDATE\" && echo 9", None), Ok(9.0));
        assert_eq!(score("test $MWA_WEIGHTS = 0.25,-0.5,1.25 && echo 1", None), Ok(1.0));
        assert_eq!(score("cat; echo 3", None), Ok(3.0), "there is nothing to read");
    }

    #[test]
    fn what_goes_wrong_is_told() {
        for (line, why) in [
            ("exit 3", "exit code 3"),
            ("echo 1; echo bad luck >&2; exit 1", "exit code 1: bad luck"),
            ("echo nan", "its score is NaN"),
            ("true", "it printed no number"),
            ("echo 1; kill -9 $$", "it was ended: signal: 9 (SIGKILL)"),
            ("no-such-program-anywhere 2>/dev/null", "exit code 127"),
        ] {
            assert_eq!(score(line, None).unwrap_err(), why, "{line}");
        }
    }

    #[test]
    fn what_hangs_or_stays_is_ended_with_all_it_started() {
        let start = Instant::now();
        assert_eq!(score("sleep 60", Some(0.2)).unwrap_err(), "not scored within 0.2 s (--timeout)");
        assert_eq!(score("trap '' TERM HUP INT; sleep 60 & wait", Some(0.2)).unwrap_err(), late(Some(0.2)));
        // one that stays holds the output, and is killed with the group
        let file = tempfile::NamedTempFile::new().unwrap();
        let line = format!("(sleep 0.7; echo here > {}) & echo 4", file.path().display());
        assert_eq!(score(&line, None), Ok(4.0));
        // one that leaves the group is not waited for
        assert_eq!(score("setsid sleep 3 & echo 5", None), Ok(5.0));
        assert!(start.elapsed() < Duration::from_secs(10));
        std::thread::sleep(Duration::from_secs(1));
        assert_eq!(std::fs::read_to_string(file.path()).unwrap(), "");
    }

    #[test]
    fn a_stop_ends_it() {
        let start = Instant::now();
        let candidate = Candidate { number: 1, path: Path::new("/"), weights: &[1.0] };
        let stopped = || start.elapsed() > Duration::from_millis(100);
        assert!(CommandEvaluator::new("sleep 60", None).score(0, candidate, &stopped).is_err());
        assert!(start.elapsed() < Duration::from_secs(10));
    }

    #[test]
    fn much_output_is_no_harm() {
        assert_eq!(score("yes 12345678 | head -c 5000000; echo; echo 6", None), Ok(6.0));
    }
}
