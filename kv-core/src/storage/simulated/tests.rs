//! The guarantees of the simulated disk.

use super::*;

fn rng(seed: u64) -> fastrand::Rng {
    fastrand::Rng::with_seed(seed)
}

fn disk_with(name: &str, bytes: &[u8]) -> (Disk, Arc<dyn File>) {
    let disk = Disk::new();
    disk.put(name, bytes.to_vec());
    let file = disk.open(name).unwrap();
    (disk, file)
}

#[test]
fn files_behave_as_the_seam_promises() {
    crate::storage::tests::conformance(&Disk::new());
}

#[test]
fn synced_data_survives_every_power_cut() {
    for seed in 0..200 {
        let disk = Disk::new();
        let file = disk.create("a").unwrap();
        file.write_at(&[7; 5000], 100).unwrap();
        file.sync().unwrap();
        disk.sync_directory().unwrap();
        let before = disk.contents("a").unwrap();
        disk.crash(&mut rng(seed));
        assert_eq!(disk.contents("a").unwrap(), before, "seed {seed}");
    }
}

#[test]
fn an_unsynced_write_is_kept_lost_or_torn_by_whole_units() {
    for (tearing, unit) in [(Tearing::Sector, 512), (Tearing::Block, 4096)] {
        let (mut kept, mut lost, mut torn) = (0, 0, 0);
        for seed in 0..200 {
            let (disk, file) = disk_with("a", &[1; 16384]);
            disk.set_tearing(tearing);
            file.write_at(&[2; 8192], 4096).unwrap();
            disk.crash(&mut rng(seed));
            let bytes = disk.contents("a").unwrap();
            assert_eq!(bytes.len(), 16384);
            assert!(bytes.chunks(unit).all(|unit| unit.iter().all(|byte| *byte == unit[0])), "seed {seed}");
            match bytes[4096..12288].iter().filter(|byte| **byte == 2).count() {
                0 => lost += 1,
                8192 => kept += 1,
                _ => torn += 1,
            }
            assert!(bytes[..4096].iter().chain(&bytes[12288..]).all(|byte| *byte == 1));
        }
        assert!(kept > 10 && lost > 10 && torn > 10, "{kept} {lost} {torn}");
    }
}

#[test]
fn growing_and_shrinking_are_undone_too() {
    for seed in 0..200 {
        let (disk, file) = disk_with("a", &[1; 3000]);
        file.set_len(1000).unwrap();
        file.set_len(2000).unwrap();
        file.write_at(&[3; 1500], 1500).unwrap();
        disk.fork().crash(&mut rng(seed));
        disk.crash_losing_all();
        assert_eq!(disk.contents("a").unwrap(), [1; 3000]);
    }
}

#[test]
fn f_disk_2_names_are_old_or_new_never_neither() {
    let mut seen = std::collections::BTreeSet::new();
    for seed in 0..200 {
        let (disk, _file) = disk_with("a", b"old");
        let file = disk.create("a.new").unwrap();
        file.write_at(b"new", 0).unwrap();
        file.sync().unwrap();
        disk.rename("a.new", "a").unwrap();
        disk.crash(&mut rng(seed));
        let found = disk.contents("a").expect("the name is there");
        assert!(found == b"old" || found == b"new");
        seen.insert(found);
    }
    assert_eq!(seen.len(), 2);
}

#[test]
fn f_disk_10_after_a_failed_sync_the_next_one_succeeds_and_the_data_is_gone() {
    let (disk, file) = disk_with("a", &[1; 1024]);
    disk.fail_next(Kind::Sync);
    file.write_at(&[2; 1024], 0).unwrap();
    file.sync().unwrap_err();
    file.sync().unwrap();
    assert_eq!(disk.contents("a").unwrap(), [2; 1024], "it goes on being read");
    file.write_at(&[3; 512], 512).unwrap();
    file.sync().unwrap();
    disk.crash_losing_all();
    let bytes = disk.contents("a").unwrap();
    assert_eq!((bytes[0], bytes[512]), (1, 3), "only what was written again is durable");
}

#[test]
fn f_disk_10_data_of_a_failed_sync_is_lost_with_the_cache() {
    let (disk, file) = disk_with("a", &[1; 1024]);
    disk.fail_next(Kind::Sync);
    file.write_at(&[2; 1024], 0).unwrap();
    file.sync().unwrap_err();
    file.write_at(&[3; 512], 512).unwrap();
    file.drop_cache().unwrap();
    let bytes = disk.contents("a").unwrap();
    assert_eq!((bytes[0], bytes[512]), (2, 3), "not while something waits to be written");
    file.sync().unwrap();
    file.drop_cache().unwrap();
    let bytes = disk.contents("a").unwrap();
    assert_eq!((bytes[0], bytes[512]), (1, 3));
    disk.crash_losing_all();
    assert_eq!(disk.contents("a").unwrap(), bytes);
}

/// A disk whose file "a" consists of ones, after a sync has failed that should have replaced them by twos.
fn disk_with_a_failed_sync() -> (Disk, Arc<dyn File>) {
    let (disk, file) = disk_with("a", &[1; 1536]);
    disk.fail_next(Kind::Sync);
    file.write_at(&[2; 1536], 0).unwrap();
    file.sync().unwrap_err();
    (disk, file)
}

/// A simulated member lost an entry to a flipped bit, and a power cut brought the entry back.
#[test]
fn damage_to_what_was_written_again_after_a_failed_sync_lasts() {
    let power_cuts: [fn(&Disk); 2] = [|disk| disk.crash_losing_all(), |disk| disk.crash(&mut rng(1))];
    for power_cut in power_cuts {
        let (disk, file) = disk_with_a_failed_sync();
        file.write_at(&[2; 512], 512).unwrap();
        file.sync().unwrap();
        assert!(disk.flip_bit("a", 600, 0));
        power_cut(&disk);
        let mut expected = [[1; 512], [2; 512], [1; 512]].concat();
        expected[600] = 3;
        assert_eq!(disk.contents("a").unwrap(), expected);
    }
    let (disk, file) = disk_with_a_failed_sync();
    file.write_at(&[2; 1536], 0).unwrap();
    file.sync().unwrap();
    assert!(disk.flip_bit("a", 600, 0));
    disk.shorten("a", 1024);
    file.drop_cache().unwrap();
    let bytes = disk.contents("a").unwrap();
    assert_eq!((bytes.len(), bytes[512], bytes[600]), (1024, 2, 3), "nothing of it waits to be restored");
}

#[test]
fn a_failing_disk_fails_from_the_given_operation_on_until_the_crash() {
    let (disk, file) = disk_with("a", &[1; 512]);
    disk.fail_after(2);
    file.write_at(&[2], 0).unwrap();
    file.write_at(&[2], 1).unwrap_err();
    file.sync().unwrap_err();
    disk.kill();
    file.sync().unwrap_err();
    disk.open("a").unwrap().sync().unwrap();
    assert_eq!(&disk.contents("a").unwrap()[..3], &[2, 2, 1], "the interrupted write took effect");
}

#[test]
fn f_disk_11_a_full_disk_is_reported_and_recovers_when_there_is_room() {
    let (disk, file) = disk_with("a", &[1; 512]);
    disk.set_capacity(Some(1024));
    assert_eq!(file.write_at(&[2; 1024], 512).unwrap_err().kind(), io::ErrorKind::StorageFull);
    file.write_at(&[2; 512], 512).unwrap();
    file.write_at(&[3; 512], 512).unwrap();
    disk.set_capacity(None);
    file.write_at(&[2; 1024], 1024).unwrap();
    assert_eq!(disk.used(), 2048);
}

#[test]
fn damage_is_done_at_the_requested_place() {
    let (disk, file) = disk_with("a", &[0; 4096]);
    assert!(disk.flip_bit("a", 5, 3));
    assert!(!disk.flip_bit("a", 4096, 3) && !disk.flip_bit("b", 0, 0));
    assert_eq!(disk.contents("a").unwrap()[5], 8);

    disk.make_unreadable("a", 512, 512);
    let mut buffer = [0; 1024];
    file.read_at(&mut buffer, 0).unwrap_err();
    file.read_at(&mut buffer, 1024).unwrap();
    file.write_at(&[1; 512], 512).unwrap();
    file.read_at(&mut buffer, 0).unwrap();

    disk.misdo_next_write(WriteFault::Lost);
    file.write_at(&[9; 10], 0).unwrap();
    disk.misdo_next_write(WriteFault::Misdirected(100));
    file.write_at(&[9; 10], 0).unwrap();
    file.write_at(&[7; 1], 0).unwrap();
    let bytes = disk.contents("a").unwrap();
    assert_eq!((bytes[0], bytes[1], bytes[100]), (7, 0, 9));
}

#[test]
fn a_fork_is_another_disk() {
    let (disk, file) = disk_with("a", &[1]);
    let other = disk.fork();
    file.write_at(&[2], 0).unwrap();
    assert_eq!((disk.contents("a").unwrap(), other.contents("a").unwrap()), (vec![2], vec![1]));
}

/// What is on a disk that is about to fail can be examined on a fork.
#[test]
fn a_fork_has_no_injected_failures() {
    let (disk, file) = disk_with("a", &[1]);
    disk.fail_after(0);
    let other = disk.fork();
    assert!(file.write_at(&[2], 0).is_err());
    let mut bytes = [0];
    other.storage().open("a").unwrap().read_at(&mut bytes, 0).unwrap();
    assert_eq!(bytes, [1]);
}
