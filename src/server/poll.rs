//! Busy polling: for a while after something has come, the core looks for more instead of going to sleep.
//!
//! A core that sleeps has to be woken for every packet and every write that ends, which takes long, above all on a virtual machine.
//! While it polls it gives way, time and again, to whatever else is to run on it: on the core that takes the disk's interrupts the
//! kernel's own thread ends the writes.

use std::time::Instant;

use super::Shell;

/// Polls whenever something has come. Never comes to its end.
pub async fn poll(shell: &Shell) {
    loop {
        shell.came.wait().await;
        let until = Instant::now() + shell.busy_poll;
        while Instant::now() < until && !shell.came.is_set() {
            // The runtime parks, and so submits and looks for what has ended, but this wakes it at once.
            let _done = tokio_uring::no_op().await;
            rustix::thread::sched_yield();
        }
    }
}
