//! What becomes of a process whose parent died: seen as the end of a socket that the parent held, by a thread
//! of its own, so that a plugin that spins or blocks hides nothing from it.
//!
//! PR_SET_PDEATHSIG is no substitute: it follows the *thread* that spawned (prctl(2)).

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Signal, getpgrp, kill_process_group};

/// When the other end of `socket` is closed, the process has `grace` to end; then its whole group is killed.
pub fn watch(socket: OwnedFd, grace: Duration) -> io::Result<()> {
    let thread = std::thread::Builder::new().name("orphan".to_owned()).stack_size(64 * 1024);
    thread.spawn(move || {
        // Without it everything works as well, only slower.
        let _ = super::process::leave_shared_descriptors(Some(socket.as_fd()));
        wait_for_hang_up(&socket);
        std::thread::sleep(grace);
        // Grandchildren too: they may hold the listeners.
        let _ = kill_process_group(getpgrp(), Signal::KILL);
    })?;
    Ok(())
}

fn wait_for_hang_up(socket: &OwnedFd) {
    loop {
        // No events asked for: HUP is always told, and data in the queue must not wake this thread.
        let mut polled = [PollFd::new(socket, PollFlags::empty())];
        let over = PollFlags::HUP | PollFlags::ERR | PollFlags::NVAL;
        if poll(&mut polled, None).is_ok() && polled[0].revents().intersects(over) {
            return;
        }
    }
}
