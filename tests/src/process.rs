//! Processes under test: started with their output in a file, bounded, never left behind.

use std::ffi::OsStr;
use std::fmt;
use std::fs::{self, File};
use std::io;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use nix::sys::prctl;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::wait::wait_until;

/// A running program, its output in a log.
///
/// To be started on the thread of the test: the kernel kills the process when the thread that
/// started it ends, so that a killed test leaves nothing behind either.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

/// How a program that ran to its end ended.
#[derive(Debug)]
pub struct Outcome {
    /// The exit code; 128 and the signal if it died of one.
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Process {
    /// Starts `command`; what it prints is appended to `log`.
    #[track_caller]
    pub fn start(name: &str, command: &mut Command, log: &Path) -> Self {
        let file = File::options().create(true).append(true).open(log).expect("a log to write to");
        command
            .stdin(Stdio::null())
            .stdout(file.try_clone().expect("a second handle"))
            .stderr(file);
        let child = die_with_parent(command).spawn();
        let child = child.unwrap_or_else(|err| panic!("cannot start {command:?}: {err}"));
        Self { name: name.to_owned(), child, log: log.to_owned() }
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// What it has printed so far.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Its exit status, once it has ended.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("our own child")
    }

    /// `kill -9`, and the end of it awaited.
    pub fn kill9(&mut self) {
        self.child.kill().expect("our own child");
        self.child.wait().expect("our own child");
    }

    /// Stops it where it is: a machine that hangs.
    pub fn pause(&self) {
        self.signal(Signal::SIGSTOP);
    }

    /// Lets a paused one go on.
    pub fn resume(&self) {
        self.signal(Signal::SIGCONT);
    }

    /// Ctrl-C.
    pub fn interrupt(&self) {
        self.signal(Signal::SIGINT);
    }

    /// Asks it to end (SIGTERM) and waits for that; its exit code.
    #[track_caller]
    pub fn stop(&mut self, bound: Duration) -> i32 {
        self.signal(Signal::SIGTERM);
        self.wait(bound)
    }

    /// Waits for its end; its exit code.
    #[track_caller]
    pub fn wait(&mut self, bound: Duration) -> i32 {
        let what = format!("{} ends", self.name);
        let status = wait_until(&what, bound, || {
            self.ended().ok_or_else(|| format!("running\n{}", self.log()))
        });
        code(status)
    }

    /// Bytes that it has read by system calls so far, from files and sockets.
    pub fn bytes_read(&self) -> u64 {
        let counters = fs::read_to_string(format!("/proc/{}/io", self.id())).unwrap_or_default();
        let line = counters.lines().find_map(|line| line.strip_prefix("rchar: "));
        line.and_then(|count| count.parse().ok()).unwrap_or(0)
    }

    fn signal(&self, signal: Signal) {
        kill(pid(self.id()), signal).expect("our own child");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            self.kill9();
        }
    }
}

impl Outcome {
    /// The outcome itself, if the program ended with 0.
    #[track_caller]
    pub fn success(self) -> Self {
        assert_eq!(self.code, 0, "{self}");
        self
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { code, stdout, stderr } = self;
        write!(f, "exit code {code}\n{stdout}{stderr}")
    }
}

/// Runs a program to its end, at most for `bound`.
#[track_caller]
pub fn run<A: AsRef<OsStr>>(
    program: &Path,
    arguments: impl IntoIterator<Item = A>,
    bound: Duration,
) -> Outcome {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = die_with_parent(&mut command).spawn();
    let child = child.unwrap_or_else(|err| panic!("cannot start {command:?}: {err}"));
    let id = child.id();
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || sender.send(child.wait_with_output()));
    let Ok(output) = receiver.recv_timeout(bound) else {
        kill(pid(id), Signal::SIGKILL).expect("our own child");
        panic!("{command:?} did not end within {bound:?}");
    };
    let output = output.expect("our own child");
    Outcome {
        code: code(output.status),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

fn code(status: ExitStatus) -> i32 {
    status.code().or(status.signal().map(|signal| 128 + signal)).expect("an ended process")
}

fn pid(id: u32) -> Pid {
    Pid::from_raw(i32::try_from(id).expect("a process id"))
}

fn die_with_parent(command: &mut Command) -> &mut Command {
    // SAFETY: between fork and exec only prctl is called, which is async-signal-safe.
    unsafe {
        command.pre_exec(|| prctl::set_pdeathsig(Signal::SIGKILL).map_err(io::Error::from));
    }
    command
}
