//! An evaluator that is a program which stays: a line of JSON in for each candidate, a line of JSON out.

use core::time::Duration;
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{ChildStdin, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Instant;

use mwa::search::{Score, object};
use serde_json::{Map, Value, json};

use super::command::late;
use super::evaluator::{Candidate, Evaluator};
use super::process::Process;

/// How often it is looked whether the work is to stop.
const POLL: Duration = Duration::from_millis(20);
/// So long a server may take to end by itself, once nothing more will be asked.
const END: Duration = Duration::from_secs(2);

/// Keeps one program for each worker. It reads `{"id": 7, "path": "…", "weights": [0.5, 0.5]}` from its standard input, and answers
/// `{"id": 7, "score": 0.25}`, or `{"id": 7, "error": "why there is none"}`, in a line each; other lines are left unread. One that
/// ends or takes too long fails its candidate, and is started again for the next.
#[derive(Debug)]
pub struct ServerEvaluator {
    line: String,
    timeout: Option<f64>,
    /// One for each worker.
    servers: Vec<Mutex<Option<Server>>>,
}

impl ServerEvaluator {
    /// A command line as the shell reads it, how many seconds a score may take, and how many workers there are.
    #[must_use]
    pub fn new(line: &str, timeout: Option<f64>, workers: usize) -> Self {
        let servers = (0..workers.max(1)).map(|_| Mutex::default()).collect();
        Self { line: line.to_owned(), timeout, servers }
    }
}

struct Server {
    process: Process,
    input: Option<ChildStdin>,
    answers: Receiver<Map<String, Value>>,
}

impl core::fmt::Debug for Server {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("Server")
    }
}

impl Server {
    fn start(line: &str) -> Result<Self, String> {
        let mut process = Process::start(line, &[], Stdio::piped())?;
        let (input, output) = (process.input(), process.output());
        let (send, answers) = mpsc::channel();
        let read = move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                // what libraries print besides is not meant for us
                if let Some(answer) = object(&line)
                    && answer.contains_key("id")
                    && send.send(answer).is_err()
                {
                    return;
                }
            }
        };
        thread::Builder::new().spawn(read).map_err(|error| format!("it cannot be heard: {error}"))?;
        Ok(Self { process, input: Some(input), answers })
    }

    fn ask(
        &mut self,
        candidate: Candidate<'_>,
        timeout: Option<f64>,
        stopped: &dyn Fn() -> bool,
    ) -> Result<Map<String, Value>, String> {
        let until = timeout.map(|seconds| Instant::now() + Duration::from_secs_f64(seconds));
        let path = candidate.path.display().to_string();
        let question = json!({ "id": candidate.number, "path": path, "weights": candidate.weights });
        let input = self.input.as_mut().expect("it is open as long as it is asked");
        if let Err(error) = input.write_all(format!("{question}\n").as_bytes()).and_then(|()| input.flush()) {
            return Err(self.gone(&format!("does not listen: {error}")));
        }
        loop {
            match self.answers.recv_timeout(POLL) {
                Ok(answer) if answer.get("id") == Some(&json!(candidate.number)) => return Ok(answer),
                // to a question of before
                Ok(_) => {}
                Err(RecvTimeoutError::Disconnected) => return Err(self.gone("has ended")),
                Err(RecvTimeoutError::Timeout) if stopped() => return Err("stopped".into()),
                Err(RecvTimeoutError::Timeout) => {
                    if until.is_some_and(|until| Instant::now() >= until) {
                        return Err(late(timeout));
                    }
                }
            }
        }
    }

    fn gone(&self, how: &str) -> String {
        match self.process.complaint() {
            Some(complaint) => format!("the server {how}: {complaint}"),
            None => format!("the server {how}"),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.input = None; // it reads to the end, and may tidy up
        let until = Instant::now() + END;
        while Instant::now() < until && matches!(self.process.has_ended(), Ok(false)) {
            thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Evaluator for ServerEvaluator {
    fn name(&self) -> String {
        self.line.clone()
    }

    fn score(
        &self,
        worker: usize,
        candidate: Candidate<'_>,
        stopped: &dyn Fn() -> bool,
    ) -> Result<Score, String> {
        let mut place = self.servers[worker].lock().unwrap_or_else(PoisonError::into_inner);
        let mut server = match place.take() {
            Some(server) => server,
            None => Server::start(&self.line)?,
        };
        match server.ask(candidate, self.timeout, stopped) {
            Ok(answer) => {
                *place = Some(server);
                match answer.get("error").and_then(Value::as_str) {
                    Some(why) if !answer.contains_key("score") => Err(why.chars().take(300).collect()),
                    _ => Score::of_json(&answer),
                }
            }
            Err(why) => {
                server.process.end();
                Err(why)
            }
        }
    }

    fn rest(&self) {
        for place in &self.servers {
            *place.lock().unwrap_or_else(PoisonError::into_inner) = None;
        }
    }
}

#[cfg(all(test, unix))]
mod tests {
    use std::path::Path;

    use super::*;

    fn scores(line: &str, timeout: Option<f64>, numbers: &[usize]) -> Vec<Result<f64, String>> {
        let evaluator = ServerEvaluator::new(line, timeout, 1);
        let score = |&number: &usize| {
            let candidate = Candidate { number, path: Path::new("/x"), weights: &[0.5, 0.5] };
            evaluator.score(0, candidate, &|| false).map(|score| score.value)
        };
        numbers.iter().map(score).collect()
    }

    /// Answers with the number of lines it has read, so that one that was started again is seen.
    const COUNTS: &str = r#"n=0; while read line; do n=$((n+1)); id=${line#*\"id\":}; id=${id%%,*};
        case $id in 3) exit 1;; 5) sleep 60;; 7) echo "{\"id\": 7, \"error\": \"too hot\"}";; 8) echo "{\"id\": 8, \"score\": NaN}";;
        10) echo "{\"id\": 10, \"error\": \"loss is NaN\"}";;
        *) echo loading; echo "{\"loss\": 1}"; echo "{\"id\": $id, \"score\": $n}";; esac; done"#;

    #[test]
    fn a_server_stays_and_is_started_again_when_it_fails() {
        let found = scores(COUNTS, Some(0.4), &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10]);
        let why = |at: usize| found[at].clone().unwrap_err();
        assert_eq!((&found[0], &found[1]), (&Ok(1.0), &Ok(2.0)));
        assert!(why(2).starts_with("the server has ended"), "{}", why(2));
        assert_eq!(found[3], Ok(1.0));
        assert_eq!(why(4), "not scored within 0.4 s (--timeout)");
        assert_eq!((&found[5], why(6).as_str()), (&Ok(1.0), "too hot"));
        assert_eq!(why(7), "its score is NaN");
        assert_eq!(found[8], Ok(4.0));
        assert_eq!(why(9), "loss is NaN", "texts are left alone");
    }

    #[test]
    fn a_program_that_is_no_server_fails_each_candidate() {
        for line in ["true", "echo 1", "no-such-program-anywhere"] {
            for found in scores(line, Some(5.0), &[1, 2]) {
                assert!(found.clone().unwrap_err().starts_with("the server "), "{line}: {found:?}");
            }
        }
    }
}
