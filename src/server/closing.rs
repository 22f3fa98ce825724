//! Closes connections, a few in each pass of the loop.
//!
//! To close a connection takes two system calls and the ends of two tasks, some 30 µs in all, and a process that ends can close
//! thousands at once. The runtime submits nothing before all tasks that are ready have run. So if each connection were closed as
//! soon as its end is known, all other connections would wait for all of these.
//!
//! Instead the tasks of a connection ask here before they close it, and wait until one of the next passes has room. Connections
//! that the replica gives up have the same limit. Links to known peers do not wait, since others depend on that news, and neither
//! does a connection that is closed because memory is short.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

use super::signal::Signal;
use crate::limits::CLOSES_TURN;

/// The tasks that wait to close their connections.
#[derive(Debug, Default)]
pub struct Closing {
    /// In the order in which they asked.
    waiting: RefCell<VecDeque<Rc<Signal>>>,
    /// There may be something to close.
    wanted: Signal,
}

impl Closing {
    /// Waits until this pass, or a later one, has room for one more connection to close.
    pub async fn turn(&self) {
        let signal = Rc::new(Signal::default());
        self.waiting.borrow_mut().push_back(Rc::clone(&signal));
        self.wanted.set();
        signal.wait().await;
    }

    /// Looks for something to close, in one of the next passes.
    pub fn look(&self) {
        self.wanted.set();
    }

    /// Lets connections be closed, [`CLOSES_TURN`] in each pass. `close` closes up to as many as its argument says of those that no
    /// task waits for, and returns how many it has closed. Never ends.
    pub async fn run(&self, mut close: impl FnMut(usize) -> usize) {
        loop {
            self.wanted.wait().await;
            let mut left = CLOSES_TURN - close(CLOSES_TURN);
            while left > 0
                && let Some(signal) = self.waiting.borrow_mut().pop_front()
            {
                signal.set();
                left -= 1;
            }
            if left == 0 {
                self.wanted.set();
            }
            // The runtime parks, and so submits, before the next ones.
            let _done = tokio_uring::no_op().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    /// A process that ends closes all its connections at once: other connections must be served in between, and each connection
    /// must be closed in the end, in its turn.
    #[test]
    fn thousands_of_connections_are_closed_in_one_go() {
        const MANY: usize = 1_000;
        tokio_uring::start(async {
            let (closing, closed) = (Rc::new(Closing::default()), Rc::new(RefCell::new(Vec::new())));
            let given_up = Rc::new(Cell::new(MANY));
            for number in 0..MANY {
                let (closing, closed) = (Rc::clone(&closing), Rc::clone(&closed));
                tokio_uring::spawn(async move {
                    closing.turn().await;
                    closed.borrow_mut().push(number);
                });
            }
            let (runs, left) = (Rc::clone(&closing), Rc::clone(&given_up));
            tokio_uring::spawn(async move {
                runs.run(|most| {
                    let now = left.get().min(most);
                    left.set(left.get() - now);
                    now
                })
                .await;
            });
            let count = || closed.borrow().len() + MANY - given_up.get();
            let (mut before, mut passes) = (0, 0);
            while count() < 2 * MANY {
                // It is submitted, and done, once in a pass.
                tokio_uring::no_op().await.unwrap();
                passes += 1;
                let now = count();
                assert!(now - before <= 2 * CLOSES_TURN, "{} were closed in pass {passes}", now - before);
                before = now;
            }
            assert!(passes >= 2 * MANY / CLOSES_TURN - 2, "{passes} passes");
            assert!(closed.borrow().is_sorted());
            // What comes later is closed too.
            closing.turn().await;
        });
    }
}
