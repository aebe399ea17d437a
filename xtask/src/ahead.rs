//! What later steps of `cargo xtask test` need, built with what the earlier ones leave of the processor.
//!
//! Half of the steps wait more than they compute, and the whole-program optimisation of the image is
//! one thread's for minutes: side by side, neither is noticed.

use std::thread::{self, JoinHandle};

use anyhow::Result;
use tile_proxy_tests::image;
use tile_proxy_tests::interrupt;
use tile_proxy_tests::progress::Progress;
use tile_proxy_tests::toolchain::{ALL, CONTROL_PLANE, LOGS, Toolchain};

/// Builds under way. Dropped, they are stopped; what is complete stays.
pub(crate) struct Ahead(Option<JoinHandle<Result<()>>>);

impl Ahead {
    /// Begins to build the Go programs in the order of the steps that run them, then the image; of
    /// the cluster only if it is `wanted`.
    ///
    /// Nothing is reported: a step that needs what could not be built tries again, and says why.
    pub(crate) fn start(cluster_wanted: bool) -> Self {
        Self(Some(thread::spawn(move || build(cluster_wanted))))
    }

    /// Builds nothing.
    pub(crate) fn nothing() -> Self {
        Self(None)
    }

    /// Waits until everything was tried.
    pub(crate) fn finish(&mut self) {
        if let Some(builds) = self.0.take() {
            let _ = builds.join();
        }
    }
}

impl Drop for Ahead {
    fn drop(&mut self) {
        if self.0.as_ref().is_none_or(JoinHandle::is_finished) {
            return;
        }
        let already = interrupt::raised();
        interrupt::raise();
        self.finish();
        if !already {
            interrupt::clear();
        }
    }
}

fn build(cluster_wanted: bool) -> Result<()> {
    // On Linux this is of the calling thread, and what it starts inherits it.
    let _ = rustix::process::nice(LEAST);
    let progress = Progress::silent();
    let toolchain = Toolchain::open()?;
    // One list after the other: the lock of the cache is held for a whole list.
    toolchain.build(&CONTROL_PLANE, &progress)?;
    toolchain.build(&LOGS, &progress)?;
    if cluster_wanted {
        toolchain.build(&ALL, &progress)?;
        image::product::build(&progress)?;
    }
    Ok(())
}

/// The lowest priority there is.
const LEAST: i32 = 19;
