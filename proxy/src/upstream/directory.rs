//! A directory on this machine as an upstream: the files of a log, as tlog-tiles names them.
//!
//! What is outside the directory is never read. Paths have only plain names in them, and a symbolic
//! link is followed as long as it ends inside: mirrors link `latest` to a directory beside it, and
//! whoever can put links there decides about the files in it anyway, which are proven like any
//! others; but nobody shall be able to make the proxy read `/etc`. The directory itself may be a
//! link, and may be turned to another one while the proxy runs.

use std::{
    fs,
    io::{self, ErrorKind, Read as _},
    path::{Component, Path},
    time::Duration,
};

use bytes::Bytes;
use url::Url;

use super::error::FetchError;

/// Reads the file `path` below the directory at `base`, of at most `limit` bytes, within `timeout`
/// (a network file system may hang).
pub(crate) async fn read(
    upstream: &str,
    base: &Url,
    path: &str,
    limit: usize,
    timeout: Duration,
) -> Result<Bytes, FetchError> {
    let network = |message: String| FetchError::Network {
        upstream: upstream.to_owned(),
        message,
    };
    let directory = base
        .to_file_path()
        .map_err(|()| network("not a path on this machine".to_owned()))?;
    let path = path.to_owned();
    let read = tokio::task::spawn_blocking(move || read_below(&directory, &path, limit));
    match tokio::time::timeout(timeout, read).await {
        Ok(Ok(Ok(Some(bytes)))) => Ok(bytes),
        Ok(Ok(Ok(None))) => Err(FetchError::TooLarge {
            upstream: upstream.to_owned(),
            limit,
        }),
        Ok(Ok(Err(error))) if error.kind() == ErrorKind::NotFound => Err(FetchError::NotFound {
            upstream: upstream.to_owned(),
        }),
        Ok(Ok(Err(error))) => Err(network(error.to_string())),
        Ok(Err(error)) => Err(network(error.to_string())),
        Err(_) => Err(network(format!("no answer within {timeout:?}"))),
    }
}

/// The content of a file below `directory`; `None` if it is larger than `limit`. Whatever is not a
/// file inside is not found.
fn read_below(directory: &Path, path: &str, limit: usize) -> io::Result<Option<Bytes>> {
    let not_found = || io::Error::from(ErrorKind::NotFound);
    let plain = |component: Component<'_>| matches!(component, Component::Normal(_));
    if !Path::new(path).components().all(plain) {
        return Err(not_found());
    }
    let directory = directory.canonicalize()?;
    let file = match directory.join(path).canonicalize() {
        // A file where the path has a directory: as absent as any other.
        Err(error) if error.kind() == ErrorKind::NotADirectory => return Err(not_found()),
        file => file?,
    };
    // Before it is opened: opening a pipe would wait for a writer.
    if !file.starts_with(&directory) || !fs::metadata(&file)?.is_file() {
        return Err(not_found());
    }
    let mut bytes = Vec::new();
    // One more than allowed tells what is too large; what the file system says about the length is
    // not believed, because the file may grow.
    let most = u64::try_from(limit).unwrap_or(u64::MAX).saturating_add(1);
    fs::File::open(file)?.take(most).read_to_end(&mut bytes)?;
    Ok((bytes.len() <= limit).then(|| bytes.into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn only_files_inside_the_directory_are_read() {
        let world = tempfile::tempdir().expect("a directory");
        let log = world.path().join("log");
        fs::create_dir_all(log.join("tile/0")).expect("made");
        fs::create_dir_all(log.join("mirror")).expect("made");
        fs::write(world.path().join("secret"), "outside").expect("written");
        fs::write(log.join("checkpoint"), "inside").expect("written");
        fs::write(log.join("mirror/checkpoint"), "linked").expect("written");
        symlink("mirror", log.join("latest")).expect("linked");
        symlink("../secret", log.join("out")).expect("linked");
        symlink(world.path(), log.join("up")).expect("linked");
        symlink("loop", log.join("loop")).expect("linked");
        symlink("log", world.path().join("current")).expect("linked");

        let read = |directory: &str, path: &str| {
            let read = read_below(&world.path().join(directory), path, 6);
            read.map(|bytes| bytes.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()))
                .map_err(|error| error.kind())
        };
        for (directory, path, want) in [
            ("log", "checkpoint", Ok("inside")),
            ("current", "checkpoint", Ok("inside")), // the directory itself may be a link
            ("log", "latest/checkpoint", Ok("linked")),
            ("log", "tile/0/000", Err(ErrorKind::NotFound)),
            ("log", "tile/0", Err(ErrorKind::NotFound)), // a directory is not a file
            ("log", "checkpoint/000", Err(ErrorKind::NotFound)),
            ("log", "../secret", Err(ErrorKind::NotFound)),
            ("log", "tile/../checkpoint", Err(ErrorKind::NotFound)),
            ("log", "/etc/hostname", Err(ErrorKind::NotFound)),
            ("log", "out", Err(ErrorKind::NotFound)),
            ("log", "up/secret", Err(ErrorKind::NotFound)),
            ("gone", "checkpoint", Err(ErrorKind::NotFound)),
        ] {
            let want = want.map(|text: &str| Some(text.to_owned()));
            assert_eq!(read(directory, path), want, "{directory} {path}");
        }
        assert!(read("log", "loop").is_err());
    }

    #[test]
    fn a_file_may_have_as_many_bytes_as_the_resource_and_not_one_more() {
        let log = tempfile::tempdir().expect("a directory");
        let read = |bytes: usize| {
            fs::write(log.path().join("checkpoint"), vec![b'x'; bytes]).expect("written");
            read_below(log.path(), "checkpoint", 100).expect("readable")
        };
        assert_eq!(read(100).map(|bytes| bytes.len()), Some(100));
        assert_eq!(read(101), None);
    }

    #[test]
    fn a_pipe_is_not_waited_for() {
        let log = tempfile::tempdir().expect("a directory");
        let pipe = log.path().join("checkpoint");
        let mode = rustix::fs::Mode::RUSR;
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, mode, 0)
            .expect("made");
        let read = read_below(log.path(), "checkpoint", 100);
        assert_eq!(read.map_err(|error| error.kind()), Err(ErrorKind::NotFound));
    }
}
