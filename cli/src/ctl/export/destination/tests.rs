//! What stands in a file afterwards, and what does not.

use std::os::unix::fs::MetadataExt;

use bytes::Bytes;

use super::*;
use crate::stream::{Moment, StreamReader};

const SIZE: u64 = 10 << 20;

fn place(folder: &Path, replace: bool) -> Result<Place, DestinationError> {
    Place::check(&folder.join("disk.img"), replace)
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

fn data(offset: u64, byte: u8) -> Chunk {
    Chunk::Data { offset, data: Bytes::from(vec![byte; 4096]) }
}

fn header(from: bool) -> Header {
    let moment = Moment { id: 1, name: "mon".to_owned(), created_ms: 1, size: SIZE };
    Header {
        cluster: Uuid::nil(),
        volume_id: 1,
        volume: "disk".to_owned(),
        to: moment.clone(),
        from: from.then_some(moment),
    }
}

#[tokio::test]
async fn holes_stay_holes() {
    let folder = tempfile::tempdir().unwrap();
    let mut destination =
        Destination::begin(place(folder.path(), false).unwrap(), None, SIZE).await.unwrap();
    assert!(destination.write(&data(4096, 1)).await.unwrap());
    assert!(!destination.write(&Chunk::Zero { offset: 8192, length: 4096 }).await.unwrap());
    assert!(destination.write(&data(SIZE - 4096, 2)).await.unwrap());
    destination.end().await.unwrap().unwrap().keep().unwrap();
    assert_eq!(names(folder.path()), ["disk.img"]);
    let path = folder.path().join("disk.img");
    let bytes = fs::read(&path).unwrap();
    assert_eq!(bytes.len() as u64, SIZE);
    assert_eq!((bytes[4095], bytes[4096], bytes[8192], bytes[bytes.len() - 1]), (0, 1, 0, 2));
    assert!(fs::metadata(path).unwrap().blocks() * 512 < SIZE / 2);
}

#[tokio::test]
async fn a_stream_of_changes_tells_of_zeroes() {
    let folder = tempfile::tempdir().unwrap();
    for from in [false, true] {
        let place = place(folder.path(), true).unwrap();
        let mut destination = Destination::begin(place, Some(header(from)), SIZE).await.unwrap();
        let zero = Chunk::Zero { offset: 8192, length: 4096 };
        assert!(destination.write(&data(4096, 1)).await.unwrap());
        assert_eq!(destination.write(&zero).await.unwrap(), from);
        destination.end().await.unwrap().unwrap().keep().unwrap();
        let bytes = fs::read(folder.path().join("disk.img")).unwrap();
        let mut stream = StreamReader::begin(&bytes[..]).await.unwrap();
        assert_eq!(stream.header(), &header(from));
        assert_eq!(stream.next().await.unwrap(), Some(data(4096, 1)));
        assert_eq!(stream.next().await.unwrap(), from.then_some(zero));
    }
}

#[tokio::test]
async fn a_file_that_is_not_whole_is_none() {
    let folder = tempfile::tempdir().unwrap();
    let mut destination =
        Destination::begin(place(folder.path(), false).unwrap(), None, SIZE).await.unwrap();
    destination.write(&data(0, 1)).await.unwrap();
    assert_eq!(names(folder.path()).len(), 1);
    drop(destination);
    assert!(names(folder.path()).is_empty());
    let destination =
        Destination::begin(place(folder.path(), false).unwrap(), None, SIZE).await.unwrap();
    drop(destination.end().await.unwrap());
    assert!(names(folder.path()).is_empty());
}

#[tokio::test]
async fn a_file_that_exists_is_replaced_only_by_force() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("disk.img");
    let early = Destination::begin(place(folder.path(), false).unwrap(), None, SIZE).await.unwrap();
    fs::write(&path, "mine").unwrap();
    assert!(matches!(place(folder.path(), false), Err(DestinationError::Exists(_))));
    // It was made since we looked.
    let kept = early.end().await.unwrap().unwrap().keep();
    assert!(matches!(kept, Err(DestinationError::Exists(_))));
    assert_eq!((fs::read(&path).unwrap(), names(folder.path()).len()), (b"mine".to_vec(), 1));
    let forced = Destination::begin(place(folder.path(), true).unwrap(), None, 5).await.unwrap();
    forced.end().await.unwrap().unwrap().keep().unwrap();
    assert_eq!(fs::read(&path).unwrap(), [0; 5]);
}

#[tokio::test]
async fn a_file_that_is_replaced_keeps_its_permissions() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("disk.img");
    fs::write(&path, "mine").unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    let forced = Destination::begin(place(folder.path(), true).unwrap(), None, 5).await.unwrap();
    forced.end().await.unwrap().unwrap().keep().unwrap();
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
}

#[tokio::test]
async fn a_link_is_not_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let (link, path) = (folder.path().join("disk.img"), folder.path().join("real.img"));
    fs::write(&path, "old").unwrap();
    std::os::unix::fs::symlink(&path, &link).unwrap();
    let destination =
        Destination::begin(place(folder.path(), true).unwrap(), None, 5).await.unwrap();
    destination.end().await.unwrap().unwrap().keep().unwrap();
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    assert_eq!(fs::read(&path).unwrap(), [0; 5]);
}

#[test]
fn devices_and_folders_are_refused() {
    let error = |path: &str| Place::check(Path::new(path), true).unwrap_err().to_string();
    assert!(error("/dev/null").starts_with("/dev/null is no regular file"));
    assert!(error("/tmp").starts_with("/tmp is no regular file"));
    assert_eq!(error(".."), ".. names no file");
}

#[tokio::test]
async fn a_folder_that_is_not_there_is_named() {
    let place = Place::check(Path::new("/no/such/folder/disk.img"), false).unwrap();
    let error = Destination::begin(place, None, 5).await.map(|_| ()).unwrap_err();
    assert_eq!(error.to_string(), "cannot write /no/such/folder/disk.img");
}
