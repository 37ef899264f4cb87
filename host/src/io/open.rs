//! Files that stay open between uses, shared by all threads: never more of them than the process may have.

use std::fs::File;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// Open files by number. A thread uses one at a time, so that none waits for another that waits for it.
#[derive(Debug)]
pub(crate) struct OpenFiles {
    most: usize,
    state: Mutex<State>,
    /// A file that was in use is free.
    freed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// By number.
    files: Vec<Option<Open>>,
    /// How many of them there are.
    open: usize,
    /// How often a file was asked for: the time by which the files are old or new.
    uses: u64,
    /// Threads that wait until a file is free.
    waiting: usize,
}

#[derive(Debug)]
struct Open {
    file: Arc<File>,
    users: usize,
    last_use: u64,
}

impl OpenFiles {
    /// At most half of what the process may have open: the rest is for whatever else it does.
    pub(crate) fn new() -> Self {
        let most = soft_limit().map_or(MOST, |limit| usize::try_from(limit / 2).unwrap_or(MOST));
        Self::at_most(most.clamp(1, MOST))
    }

    fn at_most(most: usize) -> Self {
        Self { most, state: Mutex::default(), freed: Condvar::new() }
    }

    /// Use the file of this number, which `open` opens if it is not open already.
    pub(crate) fn with<T>(
        &self,
        number: usize,
        open: impl Fn() -> io::Result<File>,
        work: impl FnOnce(&File) -> io::Result<T>,
    ) -> io::Result<T> {
        let file = self.take(number, open)?;
        let _free = Free { files: self, number };
        work(&file)
    }

    fn take(&self, number: usize, open: impl Fn() -> io::Result<File>) -> io::Result<Arc<File>> {
        let mut state = self.lock();
        loop {
            state.uses += 1;
            let now = state.uses;
            if let Some(Some(open)) = state.files.get_mut(number) {
                open.users += 1;
                open.last_use = now;
                return Ok(Arc::clone(&open.file));
            }
            if state.open < self.most || state.close_oldest() {
                match open() {
                    Ok(file) => return Ok(state.add(number, file)),
                    // others in this process have more files open than was left for them
                    Err(error) if is_beyond_limit(&error) && state.open > 0 => {
                        if state.close_oldest() {
                            continue;
                        }
                    }
                    Err(error) => return Err(error),
                }
            }
            state.waiting += 1;
            state = self.freed.wait(state).unwrap_or_else(PoisonError::into_inner);
            state.waiting -= 1;
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Keep a file that was just opened, for one user.
    fn add(&mut self, number: usize, file: File) -> Arc<File> {
        let file = Arc::new(file);
        self.files.resize_with(self.files.len().max(number + 1), || None);
        self.files[number] = Some(Open { file: Arc::clone(&file), users: 1, last_use: self.uses });
        self.open += 1;
        file
    }

    /// Close the file that was not used for longest; `false` if all are in use.
    fn close_oldest(&mut self) -> bool {
        let idle = |open: &Open| (open.users == 0).then_some(open.last_use);
        let files = self.files.iter().enumerate();
        let idle = files.filter_map(|(number, open)| Some((open.as_ref().and_then(idle)?, number)));
        let Some((_, oldest)) = idle.min() else { return false };
        self.files[oldest] = None;
        self.open -= 1;
        true
    }
}

/// Ends one use, whether it came to its end or panicked.
struct Free<'a> {
    files: &'a OpenFiles,
    number: usize,
}

impl Drop for Free<'_> {
    fn drop(&mut self) {
        let mut state = self.files.lock();
        if let Some(Some(open)) = state.files.get_mut(self.number) {
            open.users -= 1;
        }
        if state.waiting > 0 {
            self.files.freed.notify_one();
        }
    }
}

/// More open files than this gain nothing.
const MOST: usize = 4096;

/// How many files the process may have open, where there is a limit.
#[cfg(unix)]
pub(crate) fn soft_limit() -> Option<u64> {
    rustix::process::getrlimit(rustix::process::Resource::Nofile).current
}

/// How many files the process may have open, where there is a limit.
#[cfg(not(unix))]
pub(crate) fn soft_limit() -> Option<u64> {
    None
}

/// Let the process open as many files as the system allows it, as far as that helps. For a process of our own: others may
/// rely on the numbers of files staying low.
#[cfg(all(unix, feature = "cli"))]
pub(crate) fn raise_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let wanted = limit.maximum.unwrap_or(u64::MAX).min(2 * MOST as u64);
    if limit.current.is_some_and(|current| current < wanted) {
        // refused, the limit stays what it was, and is kept to
        let _ = setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum: limit.maximum });
    }
}

/// Nothing limits the number of open files here.
#[cfg(all(not(unix), feature = "cli"))]
pub(crate) fn raise_limit() {}

/// Whether the process, or the whole system, has as many files open as it may.
pub(crate) fn is_beyond_limit(error: &io::Error) -> bool {
    const ENFILE: i32 = 23;
    const EMFILE: i32 = 24;
    cfg!(unix) && matches!(error.raw_os_error(), Some(ENFILE | EMFILE))
}

#[cfg(test)]
mod tests {
    use core::sync::atomic::{AtomicUsize, Ordering};
    use std::io::Read as _;
    use std::thread;

    use super::*;

    /// Files that hold their own number.
    fn folder(count: usize) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for number in 0..count {
            std::fs::write(folder.path().join(number.to_string()), number.to_string()).unwrap();
        }
        folder
    }

    #[test]
    fn threads_share_few_files_and_read_the_right_ones() {
        let (folder, files, opened) = (folder(9), OpenFiles::at_most(3), AtomicUsize::new(0));
        let read = |number: usize| {
            let open = || {
                opened.fetch_add(1, Ordering::Relaxed);
                File::open(folder.path().join(number.to_string()))
            };
            files.with(number, open, |file| {
                assert!(files.lock().open <= 3, "no more than allowed");
                let mut text = [0; 1];
                crate::io::disk::read_at(file, &mut text, 0)?;
                Ok(usize::from(text[0] - b'0'))
            })
        };
        thread::scope(|scope| {
            for thread in 0..7 {
                let read = &read;
                scope.spawn(move || {
                    for i in 0..200 {
                        let number = (thread + i) % 9;
                        assert_eq!(read(number).unwrap(), number);
                    }
                });
            }
        });
        let before = opened.load(Ordering::Relaxed);
        for _ in 0..5 {
            for number in [2, 4, 6] {
                read(number).unwrap();
            }
        }
        assert!(opened.load(Ordering::Relaxed) <= before + 3, "those used last stay open");
    }

    #[test]
    fn where_the_process_has_no_file_left_an_idle_one_is_closed() {
        let (folder, files) = (folder(3), OpenFiles::at_most(3));
        let refuse = Mutex::new(false);
        let read = |number: usize| {
            let open = || {
                if core::mem::take(&mut *refuse.lock().unwrap()) {
                    return Err(io::Error::from_raw_os_error(24));
                }
                File::open(folder.path().join(number.to_string()))
            };
            files.with(number, open, |mut file| {
                let mut text = String::new();
                file.read_to_string(&mut text)?;
                Ok(text)
            })
        };
        *refuse.lock().unwrap() = true;
        if cfg!(unix) {
            assert_eq!(read(0).unwrap_err().raw_os_error(), Some(24), "there is none to close");
        }
        *refuse.lock().unwrap() = false;
        read(0).unwrap();
        *refuse.lock().unwrap() = cfg!(unix);
        assert_eq!(read(1).unwrap(), "1");
        assert_eq!(files.lock().open, if cfg!(unix) { 1 } else { 2 });
    }
}
