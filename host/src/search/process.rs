//! A program of the user's: started in a process group of its own, its output kept in part, ended with all that it started.

use core::time::Duration;
use std::ffi::OsStr;
use std::io::{self, Read};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::Instant;

/// So much of the end of an output is kept.
const KEPT: usize = 64 << 10;
/// How often it is looked whether a program has ended, or is to be.
const POLL: Duration = Duration::from_millis(5);
/// So long the rest of an output is waited for, after the program and its group have ended: someone who left the group may
/// hold it open for ever.
const REST: Duration = Duration::from_millis(500);

/// A program under way; it and its group are killed when this is dropped.
pub(super) struct Process {
    child: Child,
    error: Tail,
    is_over: bool,
}

/// Why a program did not end by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cut {
    /// The caller wants no more.
    Stopped,
    /// It took too long.
    Late,
}

impl Process {
    /// Start a command line as the shell reads it, with these words in its environment.
    pub(super) fn start(line: &str, words: &[(&str, &OsStr)], stdin: Stdio) -> Result<Self, String> {
        let mut command = shell(line);
        command.envs(words.iter().copied()).stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped());
        #[cfg(unix)]
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let mut child = command.spawn().map_err(|error| format!("it cannot be started: {error}"))?;
        let error = Tail::of(child.stderr.take().expect("it is piped"));
        Ok(Self { child, error, is_over: false })
    }

    /// What it writes.
    pub(super) fn output(&mut self) -> ChildStdout {
        self.child.stdout.take().expect("it is piped, and taken once")
    }

    /// What it reads.
    pub(super) fn input(&mut self) -> ChildStdin {
        self.child.stdin.take().expect("it is piped, and taken once")
    }

    /// Wait until it ends, or is cut off; `output` is looked at, to notice an end soon. All that it started in its group is ended
    /// with it.
    pub(super) fn wait(
        &mut self,
        output: &Tail,
        until: Option<Instant>,
        stopped: &dyn Fn() -> bool,
    ) -> io::Result<Result<ExitStatus, Cut>> {
        loop {
            if self.has_ended()? {
                self.kill_group();
                self.is_over = true;
                return self.child.wait().map(Ok);
            }
            if stopped() {
                self.end();
                return Ok(Err(Cut::Stopped));
            }
            if until.is_some_and(|until| Instant::now() >= until) {
                self.end();
                return Ok(Err(Cut::Late));
            }
            if output.wait(POLL) {
                // its output is closed, so that its end is near
                thread::sleep(Duration::from_micros(200));
            }
        }
    }

    /// Whether it ended by itself. Its number stays taken, and so that of its group.
    #[cfg(unix)]
    pub(super) fn has_ended(&self) -> io::Result<bool> {
        use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        Ok(waitid(WaitId::Pid(Pid::from_child(&self.child)), options)?.is_some())
    }

    /// Whether it ended by itself.
    #[cfg(not(unix))]
    pub(super) fn has_ended(&mut self) -> io::Result<bool> {
        Ok(self.child.try_wait()?.is_some())
    }

    #[cfg(unix)]
    fn kill_group(&mut self) {
        use rustix::process::{Pid, Signal, kill_process_group};
        let _ = kill_process_group(Pid::from_child(&self.child), Signal::KILL);
    }

    #[cfg(not(unix))]
    fn kill_group(&mut self) {
        let _ = self.child.kill();
    }

    /// Kill it and its group.
    pub(super) fn end(&mut self) {
        if !self.is_over {
            self.is_over = true;
            self.kill_group();
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }

    /// The end of what it wrote to standard error, in a line.
    pub(super) fn complaint(&self) -> Option<String> {
        let text = self.error.text();
        let mut lines = text.lines().rev().map(str::trim).filter(|line| !line.is_empty());
        let last = lines.next()?;
        Some(last.chars().take(300).collect())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.end();
    }
}

/// How a program ended, if not well, and what it said last.
pub(super) fn ending(status: ExitStatus, complaint: Option<String>) -> String {
    let how = match status.code() {
        Some(code) => format!("exit code {code}"),
        None => format!("it was ended: {status}"),
    };
    complaint.map_or(how.clone(), |complaint| format!("{how}: {complaint}"))
}

#[cfg(unix)]
fn shell(line: &str) -> Command {
    let mut command = Command::new("sh");
    command.arg("-c").arg(line);
    command
}

#[cfg(not(unix))]
fn shell(line: &str) -> Command {
    let mut command = Command::new("cmd");
    command.arg("/C").arg(line);
    command
}

/// The end of an output, read as it comes by a thread of its own, which nobody waits for.
#[derive(Clone)]
pub(super) struct Tail(Arc<(Mutex<Heard>, Condvar)>);

#[derive(Default)]
struct Heard {
    bytes: Vec<u8>,
    is_over: bool,
}

impl Tail {
    pub(super) fn of(mut output: impl Read + Send + 'static) -> Self {
        let tail = Self(Arc::default());
        let (own, writer) = (tail.clone(), tail.clone());
        let read = move || {
            let mut buffer = vec![0; 16 << 10];
            loop {
                match output.read(&mut buffer) {
                    Ok(0) => break,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(_) => break,
                    Ok(count) => {
                        let bytes = &mut writer.lock().bytes;
                        bytes.extend_from_slice(&buffer[..count]);
                        if bytes.len() > 2 * KEPT {
                            bytes.drain(..bytes.len() - KEPT);
                        }
                    }
                }
            }
            writer.lock().is_over = true;
            writer.0.1.notify_all();
        };
        // without a thread there is no output, which is then missed
        if thread::Builder::new().spawn(read).is_err() {
            own.lock().is_over = true;
        }
        tail
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Heard> {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wait for its end, but not longer than this; whether it is there.
    pub(super) fn wait(&self, time: Duration) -> bool {
        let is_open = |state: &mut Heard| !state.is_over;
        let waited = self.0.1.wait_timeout_while(self.lock(), time, is_open);
        waited.unwrap_or_else(PoisonError::into_inner).0.is_over
    }

    /// What there is of it.
    pub(super) fn text(&self) -> String {
        self.wait(REST);
        String::from_utf8_lossy(&self.lock().bytes).into_owned()
    }
}
