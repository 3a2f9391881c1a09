//! What is done again and again while nobody asks for it: each task at an interval of its own.

use std::time::Duration;
use tokio::task::JoinSet;

/// Tasks that run; they end when it is dropped.
#[derive(Default)]
pub struct Background(JoinSet<()>);

impl Background {
    /// Does something every `interval`, one time after the other. Each pause is up to a tenth
    /// longer, by chance, so that the nodes of a cluster do not ask a registry all at once.
    pub fn every<F>(&mut self, interval: Duration, task: impl Fn() -> F + Send + 'static)
    where
        F: Future<Output = ()> + Send,
    {
        self.0.spawn(async move {
            loop {
                task().await;
                tokio::time::sleep(interval.mul_f64(1.0 + fastrand::f64() / 10.0)).await;
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    #[tokio::test]
    async fn tasks_repeat_until_the_end() {
        let (counts, mut background) = (Arc::new([AtomicU32::new(0), AtomicU32::new(0)]), None);
        for number in [0, 1] {
            let counts = Arc::clone(&counts);
            let task = move || {
                counts[number].fetch_add(1, Ordering::Relaxed);
                std::future::ready(())
            };
            let interval = [Duration::from_millis(1), Duration::from_secs(1000)][number];
            background.get_or_insert_with(Background::default).every(interval, task);
        }
        while counts[0].load(Ordering::Relaxed) < 10 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert_eq!(counts[1].load(Ordering::Relaxed), 1, "an interval of its own");
        drop(background);
        while Arc::strong_count(&counts) > 1 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}
