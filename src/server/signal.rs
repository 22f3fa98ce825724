//! A wake-up between two tasks of the one thread: set it, and the task that waits goes on.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::task::{Poll, Waker};

/// One task waits, any may set. Setting twice before the task runs is once; setting before it waits is not lost.
#[derive(Debug, Default)]
pub struct Signal {
    set: Cell<bool>,
    waiter: RefCell<Option<Waker>>,
}

impl Signal {
    /// Wakes the waiting task, or lets its next wait pass.
    pub fn set(&self) {
        if !self.set.replace(true)
            && let Some(waiter) = self.waiter.borrow_mut().take()
        {
            waiter.wake();
        }
    }

    /// Whether the next wait will pass.
    pub fn is_set(&self) -> bool {
        self.set.get()
    }

    /// Waits until the signal is set, and clears it.
    pub async fn wait(&self) {
        poll_fn(|context| {
            if self.set.replace(false) {
                return Poll::Ready(());
            }
            let mut waiter = self.waiter.borrow_mut();
            match &mut *waiter {
                Some(waiter) => waiter.clone_from(context.waker()),
                none => *none = Some(context.waker().clone()),
            }
            Poll::Pending
        })
        .await;
    }
}
