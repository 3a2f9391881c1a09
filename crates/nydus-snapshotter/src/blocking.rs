//! Work that waits for the disk.

use std::io;

/// Does it where that holds up nobody.
///
/// # Errors
/// What it fails with.
pub async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|error| Err(io::Error::other(error)))
}
