//! Clients that ask for the same few paths over and over, while something happens to the proxy.

use std::{
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    thread,
};

use super::Proxy;

/// How often clients were answered.
#[derive(Default)]
pub(crate) struct Load {
    served: AtomicUsize,
    rejected: AtomicUsize,
    over: AtomicBool,
}

impl Load {
    /// Does `work` while one client for each of `paths` asks for it.
    pub(crate) fn during(proxy: &Proxy, paths: &[&str], work: impl FnOnce(&Self)) -> Self {
        let load = Self::default();
        thread::scope(|scope| {
            let _end = End(&load.over);
            for path in paths {
                let load = &load;
                scope.spawn(move || {
                    while !load.over.load(Ordering::Relaxed) {
                        let ok = proxy.get(path).status == 200;
                        let counter = if ok { &load.served } else { &load.rejected };
                        counter.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
            work(&load);
        });
        load
    }

    /// Requests that were answered with 200.
    pub(crate) fn served(&self) -> usize {
        self.served.load(Ordering::Relaxed)
    }

    /// Requests that were not.
    pub(crate) fn rejected(&self) -> usize {
        self.rejected.load(Ordering::Relaxed)
    }
}

/// Ends the clients also where the work has failed, so that a test fails and does not hang.
struct End<'a>(&'a AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
