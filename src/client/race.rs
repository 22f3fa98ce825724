//! Overlapping attempts: the first begins at once, and another one whenever the last has failed or takes too long. The first
//! attempt that succeeds ends the others. So an address that does not answer costs little time, and never hides the next one.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use tokio::time::sleep;

/// Runs attempts until one succeeds. The next attempt begins when `stagger` has passed since the last began, or when all earlier
/// attempts have failed. Dropping the future ends all attempts.
///
/// # Errors
/// If no attempt succeeds: all errors, in the order in which the attempts began.
pub(super) async fn first<T, E, F>(attempts: impl IntoIterator<Item = F>, stagger: Duration) -> Result<T, Vec<E>>
where
    F: Future<Output = Result<T, E>>,
{
    let mut attempts = attempts.into_iter().peekable();
    let mut running: Vec<(usize, Pin<Box<F>>)> = Vec::new();
    let mut failed: Vec<(usize, E)> = Vec::new();
    let mut begun = 0;
    let mut next = Box::pin(sleep(Duration::ZERO));
    poll_fn(|cx| {
        loop {
            let mut i = 0;
            while i < running.len() {
                match running[i].1.as_mut().poll(cx) {
                    Poll::Pending => i += 1,
                    Poll::Ready(Ok(value)) => return Poll::Ready(Ok(value)),
                    Poll::Ready(Err(error)) => failed.push((running.remove(i).0, error)),
                }
            }
            if attempts.peek().is_none() && running.is_empty() {
                failed.sort_by_key(|(n, _)| *n);
                return Poll::Ready(Err(std::mem::take(&mut failed).into_iter().map(|(_, error)| error).collect()));
            }
            let due = running.is_empty() || attempts.peek().is_some() && next.as_mut().poll(cx).is_ready();
            match due.then(|| attempts.next()).flatten() {
                None => return Poll::Pending,
                Some(attempt) => {
                    running.push((begun, Box::pin(attempt)));
                    begun += 1;
                    next = Box::pin(sleep(stagger));
                }
            }
        }
    })
    .await
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use super::*;

    type Attempt = Pin<Box<dyn Future<Output = Result<u32, u32>>>>;

    #[tokio::test]
    async fn an_attempt_that_hangs_does_not_hide_the_next() {
        let attempts: Vec<Attempt> = vec![Box::pin(pending()), Box::pin(ready(Err(1))), Box::pin(ready(Ok(2)))];
        assert_eq!(first(attempts, Duration::from_millis(1)).await, Ok(2));
    }

    #[tokio::test]
    async fn the_next_begins_at_once_when_all_have_failed() {
        let attempts: Vec<Attempt> = vec![Box::pin(ready(Err(0))), Box::pin(ready(Err(1))), Box::pin(ready(Ok(2)))];
        assert_eq!(first(attempts, Duration::from_secs(86_400)).await, Ok(2));
    }

    #[tokio::test]
    async fn all_errors_come_in_the_order_of_their_attempts() {
        let late = Box::pin(async {
            sleep(Duration::from_millis(20)).await;
            Err(0)
        });
        let attempts: Vec<Attempt> = vec![late, Box::pin(ready(Err(1)))];
        assert_eq!(first(attempts, Duration::from_millis(1)).await, Err(vec![0, 1]));
        assert_eq!(first(Vec::<Attempt>::new(), Duration::ZERO).await, Err(vec![]));
    }
}
