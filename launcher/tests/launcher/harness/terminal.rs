//! A terminal for a command: what it draws for people is seen only there (pty(7)).

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::process::{Command, ExitStatus};

/// Runs a command with its output and its errors on a terminal; gives what a person would have seen of it, escape
/// sequences included, and how it ended.
pub(crate) fn on_a_terminal(command: &mut Command) -> (String, ExitStatus) {
    let (mut ours, theirs) = pair();
    let mut child = command
        .stdout(theirs.try_clone().expect("duplicate the terminal"))
        .stderr(theirs)
        .spawn()
        .expect("start the command");
    // The command keeps the ends of the terminal until it is dropped, and with them the end of the reading away.
    command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
    let mut seen = Vec::new();
    let mut buffer = [0; 4096];
    // A terminal without its other side says EIO and not end of file.
    while let Ok(read @ 1..) = ours.read(&mut buffer) {
        seen.extend_from_slice(&buffer[..read]);
    }
    let status = child.wait().expect("wait for the command");
    (String::from_utf8_lossy(&seen).into_owned(), status)
}

/// Both ends of a new terminal, close-on-exec from the start: a child of another test would keep it open.
fn pair() -> (File, OwnedFd) {
    let ours = File::options().read(true).write(true).open("/dev/ptmx").expect("open /dev/ptmx");
    let unlocked: libc::c_int = 0;
    // SAFETY: TIOCSPTLCK of ioctl_tty(2) reads one int, which lives through the call.
    #[expect(unsafe_code, reason = "the features of nix and rustix that are built have no terminals")]
    let done = unsafe { libc::ioctl(ours.as_raw_fd(), libc::TIOCSPTLCK, &raw const unlocked) };
    assert_eq!(done, 0, "unlock the terminal: {}", std::io::Error::last_os_error());
    let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
    // SAFETY: TIOCGPTPEER of ioctl_tty(2) takes flags of open(2) by value and touches no memory of ours.
    #[expect(unsafe_code, reason = "the features of nix and rustix that are built have no terminals")]
    let theirs = unsafe { libc::ioctl(ours.as_raw_fd(), libc::TIOCGPTPEER, flags) };
    assert!(theirs >= 0, "open the other end of the terminal: {}", std::io::Error::last_os_error());
    // SAFETY: the call has just made this descriptor, and nobody else has it.
    #[expect(unsafe_code, reason = "the features of nix and rustix that are built have no terminals")]
    let theirs = unsafe { OwnedFd::from_raw_fd(theirs) };
    (ours, theirs)
}
