//! `torusblk nbdserve`, as a client of a cluster.

use std::io;
use std::time::Duration;

use crate::nbd::NbdClient;
use crate::process::{Outcome, Process};
use crate::wait::wait_until;

/// How long an attach may take: the session of a killed predecessor has to end first.
const ATTACH_BOUND: Duration = Duration::from_secs(60);
const STOP_BOUND: Duration = Duration::from_secs(30);

/// A server of one volume on a loopback port.
#[derive(Debug)]
pub struct NbdServer {
    pub(crate) process: Process,
    pub(crate) port: u16,
    pub(crate) volume: String,
}

impl NbdServer {
    /// What stock clients call the volume.
    pub fn uri(&self) -> String {
        format!("nbd://127.0.0.1:{}/{}", self.port, self.volume)
    }

    /// A connection of our own client.
    pub fn connect(&self) -> io::Result<NbdClient> {
        NbdClient::connect(self.port, &self.volume)
    }

    /// A connection to another export of the same server.
    pub fn connect_to(&self, export: &str) -> io::Result<NbdClient> {
        NbdClient::connect(self.port, export)
    }

    /// What it has printed so far.
    pub fn log(&self) -> String {
        self.process.log()
    }

    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    pub fn kill9(&mut self) {
        self.process.kill9();
    }

    pub fn pause(&self) {
        self.process.pause();
    }

    pub fn resume(&self) {
        self.process.resume();
    }

    /// SIGTERM: the volume is closed in order.
    #[track_caller]
    pub fn stop(mut self) {
        let code = self.process.stop(STOP_BOUND);
        assert_eq!(code, 0, "torusblk did not end in order:\n{}", self.process.log());
    }

    /// Waits until it serves, or has given up.
    #[track_caller]
    pub(crate) fn ready(mut self) -> Result<Self, Outcome> {
        let what = format!("{} is served", self.volume);
        let code = wait_until(&what, ATTACH_BOUND, || {
            if let Some(status) = self.process.ended() {
                return Ok(Some(status.code().unwrap_or(128)));
            }
            let probe = NbdClient::probe(self.port, &self.volume);
            probe.map(|_| None).map_err(|err| format!("{err}\n{}", self.process.log()))
        });
        match code {
            None => Ok(self),
            Some(code) => Err(Outcome { code, stdout: String::new(), stderr: self.process.log() }),
        }
    }
}
