use super::*;
use crate::disk::DiskFile;
use crate::disk::{create_dir_durable, read_file, write_file_atomic};
use std::io::IoSlice;

fn put(disk: &SimDisk, path: &str, bytes: &[u8]) -> Arc<dyn DiskFile> {
    let file = disk.open(path, OpenMode::CreateNew).unwrap();
    file.write_all_at(0, &[IoSlice::new(bytes)]).unwrap();
    file
}

#[test]
fn what_was_synced_survives_every_crash() {
    for seed in 0..200 {
        let disk = SimDisk::new(seed);
        create_dir_durable(&disk, "a/b").unwrap();
        let file = put(&disk, "a/b/f", b"kept");
        file.sync_data().unwrap();
        disk.sync_dir("a/b").unwrap();
        file.write_all_at(4, &[IoSlice::new(&[7; 5000])]).unwrap();
        let after = disk.restart();
        assert_eq!(&read_file(&after, "a/b/f").unwrap()[..4], b"kept", "seed {seed}");
        assert!(file.write_all_at(0, &[]).is_err() && disk.list("").is_err(), "old handles are dead");
    }
}

#[test]
fn unsynced_bytes_and_names_are_kept_in_some_crashes_and_lost_in_others() {
    let (mut kept, mut lost, mut torn, mut gone) = (0, 0, 0, 0);
    for seed in 0..400 {
        let disk = SimDisk::new(seed);
        let file = put(&disk, "f", &[1; 8192]);
        if seed % 2 == 0 {
            disk.sync_dir("").unwrap();
        } else {
            file.sync_data().unwrap();
        }
        let after = disk.restart();
        match read_file(&after, "f") {
            Err(_) => gone += 1,
            Ok(bytes) if bytes.len() == 8192 && bytes.iter().all(|b| *b == 1) => kept += 1,
            Ok(bytes) if bytes.iter().all(|b| *b == 0) => lost += 1,
            Ok(bytes) => {
                assert!(seed % 2 == 0, "synced bytes do not tear");
                for sector in bytes.chunks(512) {
                    assert!(sector.iter().all(|b| *b == sector[0]), "sectors are whole");
                }
                torn += 1;
            }
        }
    }
    assert!(kept > 20 && lost > 20 && torn > 20 && gone > 20, "{kept} {lost} {torn} {gone}");
}

#[test]
fn an_atomic_write_leaves_the_old_or_the_new_content_at_every_crash_point() {
    let kinds =
        [FaultKind::Crash, FaultKind::Torn { sector_bytes: 512 }, FaultKind::Fail, FaultKind::NoSpace];
    let mut new_seen = 0;
    for seed in 0..50 {
        for at_operation in 0..12 {
            for kind in kinds {
                let disk = SimDisk::new(seed);
                write_file_atomic(&disk, "f", &[1; 3000]).unwrap();
                let start = disk.operations();
                disk.inject(Fault { at_operation: start + at_operation, kind });
                let done = write_file_atomic(&disk, "f", &[2; 4000]).is_ok();
                let bytes = read_file(&disk.restart(), "f").unwrap();
                let new = bytes == [2; 4000];
                assert!(new || (!done && bytes == [1; 3000]), "seed {seed} {kind:?} at {at_operation}");
                new_seen += u32::from(new);
            }
        }
    }
    assert!(new_seen > 100);
}

#[test]
fn a_failed_sync_can_leave_bytes_readable_that_no_later_sync_writes() {
    let mut readable_but_lost = 0;
    for seed in 0..200 {
        let disk = SimDisk::new(seed);
        let file = put(&disk, "f", &[0; 512]);
        file.sync_data().unwrap();
        disk.sync_dir("").unwrap();
        file.write_all_at(0, &[IoSlice::new(&[9; 512])]).unwrap();
        disk.inject(Fault { at_operation: 0, kind: FaultKind::FailSync });
        file.sync_data().unwrap_err();
        let read = read_file(&disk, "f").unwrap();
        file.sync_data().unwrap();
        let durable = read_file(&disk.restart(), "f").unwrap();
        readable_but_lost += u32::from(read == [9; 512] && durable == [0; 512]);
    }
    assert!(readable_but_lost > 10, "{readable_but_lost}");
}

#[test]
fn space_ends_and_comes_back() {
    let disk = SimDisk::new(1);
    disk.set_capacity_bytes(1000);
    let file = put(&disk, "f", &[1; 600]);
    assert_eq!(disk.free_bytes().unwrap(), 400);
    assert_eq!(file.allocate(1001).unwrap_err().kind(), io::ErrorKind::StorageFull);
    file.allocate(1000).unwrap();
    file.set_len(100).unwrap();
    disk.inject(Fault { at_operation: 0, kind: FaultKind::NoSpace });
    let refused = file.write_all_at(0, &[IoSlice::new(b"x")]).unwrap_err();
    assert_eq!((refused.kind(), disk.free_bytes().unwrap()), (io::ErrorKind::StorageFull, 0));
    disk.clear_faults();
    file.write_all_at(0, &[IoSlice::new(b"x")]).unwrap();
}

#[test]
fn a_removed_file_stays_readable_through_open_handles_and_flips_are_seen_at_once() {
    let disk = SimDisk::new(1);
    let file = put(&disk, "f", b"abc");
    disk.flip_bit("f", 1, 0).unwrap();
    disk.remove_file("f").unwrap();
    let mut buf = [0; 3];
    assert_eq!(file.read_at(0, &mut buf).unwrap(), 3);
    assert_eq!(&buf, b"acc");
    let reader = put(&disk, "g", b"abc");
    disk.fail_read(disk.reads());
    reader.read_at(0, &mut buf).unwrap_err();
    assert_eq!(disk.faults_struck(), 1);
    assert_eq!(reader.read_at(2, &mut buf).unwrap(), 1);
}

#[test]
fn the_same_seed_and_calls_give_the_same_bytes() {
    let run = |seed| {
        let disk = SimDisk::new(seed);
        for i in 0..20u8 {
            let file = put(&disk, &format!("f{i}"), &vec![i; 700 * usize::from(i)]);
            if i % 3 == 0 {
                file.sync_data().unwrap();
                disk.sync_dir("").unwrap();
            }
        }
        let after = disk.restart();
        after.files().into_iter().map(|(p, _)| (read_file(&after, &p).unwrap(), p)).collect::<Vec<_>>()
    };
    assert_eq!(run(7), run(7));
    assert_ne!(run(7), run(8));
}
