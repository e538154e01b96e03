//! A process behind a pseudo-terminal.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use anyhow::{Context, ensure};
use nix::pty::{Winsize, openpty};

use crate::Host;
use crate::host::resolve;
use crate::process::collect;
use crate::wait::eventually;

/// ctrl-p ctrl-q, with which a user leaves a container without ending it.
pub const DETACH_KEYS: &str = "\x10\x11";

/// The near end of a pseudo-terminal and the process that has the far end as its controlling terminal. Dropping it
/// hangs up.
pub struct Terminal {
    keyboard: File,
    screen: Arc<Mutex<Vec<u8>>>,
    far_end: Option<OwnedFd>,
    child: Child,
}

impl Terminal {
    /// Starts a process on a machine with a terminal of 24 rows and 80 columns.
    pub fn spawn(host: &Host, args: &[&str]) -> Terminal {
        Terminal::spawn_with(host, args, collect)
    }

    /// [`Terminal::spawn`] with a screen that shows so many bytes every tenth of a second, as over a slow line.
    pub fn spawn_slow(host: &Host, args: &[&str], bytes: usize) -> Terminal {
        Terminal::spawn_with(host, args, move |mut from, into| {
            let mut buffer = vec![0; bytes];
            while let Ok(read @ 1..) = from.read(&mut buffer) {
                into.lock().expect("no holder panics").extend_from_slice(&buffer[..read]);
                thread::sleep(Duration::from_millis(100));
            }
        })
    }

    fn spawn_with(
        host: &Host,
        args: &[&str],
        show: impl FnOnce(File, &Mutex<Vec<u8>>) + Send + 'static,
    ) -> Terminal {
        let size = Winsize { ws_row: 24, ws_col: 80, ws_xpixel: 0, ws_ypixel: 0 };
        let pty = openpty(&size, None).expect("a pseudo-terminal can be made");
        let far_end = || Stdio::from(pty.slave.try_clone().expect("a descriptor can be duplicated"));
        // setsid makes the terminal the controlling one of the process.
        let mut command = host.command("setsid");
        command.args(["--ctty", "--wait", &resolve(args[0])]).args(&args[1..]);
        command.stdin(far_end()).stdout(far_end()).stderr(far_end());
        let child = command.spawn().unwrap_or_else(|e| panic!("{args:?} does not start: {e}"));
        let keyboard = File::from(pty.master);
        let screen = Arc::new(Mutex::new(Vec::new()));
        let (from, into) = (keyboard.try_clone().expect("a descriptor can be duplicated"), screen.clone());
        thread::spawn(move || show(from, &into));
        Terminal { keyboard, screen, far_end: Some(pty.slave), child }
    }

    pub fn type_keys(&mut self, keys: &str) {
        self.keyboard.write_all(keys.as_bytes()).expect("a terminal takes keys");
    }

    /// Everything that was shown so far.
    pub fn screen(&self) -> String {
        String::from_utf8_lossy(&self.screen.lock().expect("no reader panics")).into_owned()
    }

    /// Waits until `text` was shown.
    pub fn wait_for(&self, text: &str) {
        eventually(&format!("`{text}` appears"), || {
            let screen = self.screen();
            ensure!(screen.contains(text), "the screen shows {screen:?}");
            Ok(())
        });
    }

    /// Changes the size of the window.
    pub fn resize(&self, rows: u16, columns: u16) {
        let far_end = self.far_end().try_clone().expect("a descriptor can be duplicated");
        let mut stty = Command::new("stty");
        stty.args(["rows", &rows.to_string(), "columns", &columns.to_string()]).stdin(far_end);
        assert!(stty.status().expect("stty runs").success(), "stty sets the size");
    }

    /// Is the terminal in the mode in which a shell finds it: lines, echo, signals?
    pub fn is_cooked(&self) -> bool {
        use nix::sys::termios::{LocalFlags, tcgetattr};
        let flags = tcgetattr(self.far_end().as_fd()).expect("it is a terminal").local_flags;
        flags.contains(LocalFlags::ICANON | LocalFlags::ECHO | LocalFlags::ISIG)
    }

    /// Waits for the end of the process and returns its exit code.
    pub fn wait(&mut self) -> i32 {
        eventually("the process behind the terminal ends", || {
            let status = self.child.try_wait().expect("a child can be waited for");
            let code = status.and_then(|status| status.code());
            code.with_context(|| format!("the screen shows {:?}", self.screen()))
        })
    }

    fn far_end(&self) -> &OwnedFd {
        self.far_end.as_ref().expect("it is closed by drop only")
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        drop(self.far_end.take());
        if self.child.try_wait().ok().flatten().is_none() {
            // What it runs on the machine ends with the machine.
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}
