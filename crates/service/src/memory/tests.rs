//! The byte budget, and what the system grants.

use std::fs;
use std::path::Path;

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;

#[test]
fn permits_add_up_and_give_everything_back() {
    let budget = Budget::new(100);
    let mut first = budget.try_acquire(60).unwrap();
    assert!(budget.try_acquire(41).is_none());
    let second = budget.try_acquire(40).unwrap();
    assert!(!first.grow(1));
    assert_eq!((first.bytes(), budget.used()), (60, 100));
    first.shrink_to(10);
    first.shrink_to(50);
    assert_eq!((first.bytes(), budget.used()), (10, 50));
    assert!(first.grow(50));
    drop(second);
    drop(first);
    assert_eq!(budget.used(), 0);
}

#[test]
fn what_others_hold_is_told_from_what_is_not_there_at_all() {
    let budget = Budget::new(100);
    let others = budget.try_acquire(60).unwrap();
    let mut permit = budget.try_acquire(10).unwrap();
    assert!(!permit.grow(80) && permit.could_grow(80) && permit.could_grow(90));
    assert!(!permit.could_grow(91) && !permit.could_grow(usize::MAX));
    drop(others);
    assert!(permit.grow(90));
    assert_eq!((permit.bytes(), permit.limit(), permit.could_grow(0)), (100, 100, true));
}

#[test]
fn what_no_permit_takes_at_once_is_said_to_be_out_of_reach_however_large_the_budget_is() {
    let most = u32::MAX as usize;
    let budget = Budget::new(4 * most);
    let mut permit = budget.try_acquire(1).unwrap();
    assert!(!permit.could_grow(most + 1) && !permit.grow(most + 1));
    assert!(permit.could_grow(most) && permit.grow(most));
}

#[test]
fn permits_split_and_merge_without_changing_the_sum() {
    let budget = Budget::new(100);
    let mut first = budget.try_acquire(60).unwrap();
    let second = first.split(25).unwrap();
    assert!(first.split(36).is_none());
    assert_eq!((first.bytes(), second.bytes(), budget.used()), (35, 25, 60));
    first.merge(second);
    assert_eq!((first.bytes(), budget.used()), (60, 60));
    drop(first);
    assert_eq!(budget.used(), 0);
}

#[tokio::test(start_paused = true)]
async fn waiters_are_served_in_order_or_told_that_it_took_too_long() {
    let budget = Budget::new(100);
    let held = budget.try_acquire(100).unwrap();
    let patience = Duration::from_secs(5);
    let error = budget.acquire(1, patience).await.unwrap_err();
    assert_eq!(error, AcquireError::Deadline { asked: 1, waited: patience });
    assert_eq!(error.reason(), "memory_full");
    let large = tokio::spawn({
        let budget = budget.clone();
        async move { budget.acquire(90, patience).await }
    });
    tokio::task::yield_now().await;
    drop(held);
    assert!(budget.try_acquire(50).is_none(), "the bytes are promised to the one who waits");
    assert_eq!(large.await.unwrap().unwrap().bytes(), 90);
    assert_eq!(budget.used(), 0);
}

#[tokio::test(start_paused = true)]
async fn more_than_the_whole_budget_is_refused_without_waiting() {
    let budget = Budget::new(100);
    let before = tokio::time::Instant::now();
    let error = budget.acquire(101, Duration::from_hours(1)).await.unwrap_err();
    assert_eq!(error, AcquireError::TooLarge { asked: 101, limit: 100 });
    assert_eq!(tokio::time::Instant::now(), before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn tasks_that_fight_for_bytes_never_hold_more_than_the_limit() {
    let budget = Budget::new(1_000);
    let tasks: Vec<_> = (0..8_usize)
        .map(|who| {
            let budget = budget.clone();
            tokio::spawn(async move {
                for round in 0..300_usize {
                    let asked = (who * 97 + round * 31) % 500;
                    let mut permit = budget.acquire(asked, Duration::from_mins(1)).await.unwrap();
                    let grown = permit.grow(round % 200);
                    assert!(budget.used() <= 1_000);
                    assert_eq!(permit.bytes(), asked + if grown { round % 200 } else { 0 });
                    tokio::task::yield_now().await;
                    permit.shrink_to(asked / 2);
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(budget.used(), 0);
}

#[derive(Debug, Clone)]
enum Step {
    Acquire(usize),
    Grow(usize, usize),
    Shrink(usize, usize),
    Drop(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0_usize..120).prop_map(Step::Acquire),
        (any::<usize>(), 0_usize..80).prop_map(|(which, bytes)| Step::Grow(which, bytes)),
        (any::<usize>(), 0_usize..80).prop_map(|(which, bytes)| Step::Shrink(which, bytes)),
        any::<usize>().prop_map(Step::Drop),
    ]
}

proptest! {
    #[test]
    fn the_budget_equals_the_sum_of_its_permits_and_never_exceeds_its_limit(
        limit in 0_usize..200,
        steps in prop::collection::vec(step(), 0..60),
    ) {
        let budget = Budget::new(limit);
        let mut permits: Vec<Permit> = Vec::new();
        for step in steps {
            let used = budget.used();
            let count = permits.len().max(1);
            match step {
                Step::Acquire(bytes) => match budget.try_acquire(bytes) {
                    Some(permit) => permits.push(permit),
                    None => prop_assert!(used + bytes > limit),
                },
                Step::Grow(which, bytes) => if let Some(permit) = permits.get_mut(which % count) {
                    prop_assert_eq!(permit.grow(bytes), used + bytes <= limit);
                },
                Step::Shrink(which, bytes) => if let Some(permit) = permits.get_mut(which % count) {
                    let before = permit.bytes();
                    permit.shrink_to(bytes);
                    prop_assert_eq!(permit.bytes(), before.min(bytes));
                },
                Step::Drop(which) => if !permits.is_empty() {
                    drop(permits.swap_remove(which % count));
                },
            }
            prop_assert_eq!(budget.used(), permits.iter().map(Permit::bytes).sum::<usize>());
            prop_assert!(budget.used() <= limit);
        }
        permits.clear();
        prop_assert_eq!(budget.used(), 0);
    }
}

fn put(root: &Path, file: &str, content: &str) {
    let path = root.join(file);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, content).unwrap();
}

const V2_MOUNT: &str = "30 24 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw\n";
const V1_MOUNT: &str = "36 30 0:31 / /sys/fs/cgroup/memory rw,nosuid shared:9 - cgroup cgroup rw,memory\n\
                        37 30 0:32 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu,cpuacct\n";
const MEMORY: &str = "MemTotal:       16384 kB\nMemFree:         1 kB\n";

#[test]
fn the_tightest_group_above_the_own_one_counts_in_version_2() {
    let root = TempDir::new().unwrap();
    put(root.path(), "proc/self/mountinfo", V2_MOUNT);
    put(root.path(), "proc/self/cgroup", "0::/kubepods/burstable/pod1/box\n");
    put(root.path(), "proc/meminfo", MEMORY);
    put(root.path(), "sys/fs/cgroup/kubepods/burstable/pod1/box/memory.max", "max\n");
    put(root.path(), "sys/fs/cgroup/kubepods/burstable/pod1/memory.max", "1048576\n");
    put(root.path(), "sys/fs/cgroup/kubepods/memory.max", "8388608\n");
    assert_eq!(limit::detect_under(root.path()), Some(Detected { bytes: 1_048_576, source: Source::CgroupV2 }));
}

#[test]
fn in_a_container_the_mount_point_itself_is_the_own_group() {
    for own in ["0::/\n", "0::/../../kubepods/pod1/box\n", "0::/kubepods/pod1/box\n"] {
        let root = TempDir::new().unwrap();
        put(root.path(), "proc/self/mountinfo", V2_MOUNT);
        put(root.path(), "proc/self/cgroup", own);
        put(root.path(), "proc/meminfo", MEMORY);
        put(root.path(), "sys/fs/cgroup/memory.max", "2097152\n");
        let found = limit::detect_under(root.path());
        assert_eq!(found, Some(Detected { bytes: 2_097_152, source: Source::CgroupV2 }), "{own}");
    }
}

#[test]
fn version_1_is_read_and_its_unlimited_number_is_the_machines_memory() {
    let root = TempDir::new().unwrap();
    put(root.path(), "proc/self/mountinfo", V1_MOUNT);
    put(root.path(), "proc/self/cgroup", "5:cpu,cpuacct:/x\n4:memory:/docker/abc\n0::/\n");
    put(root.path(), "proc/meminfo", MEMORY);
    let file = "sys/fs/cgroup/memory/docker/abc/memory.limit_in_bytes";
    put(root.path(), file, "4194304\n");
    assert_eq!(limit::detect_under(root.path()), Some(Detected { bytes: 4_194_304, source: Source::CgroupV1 }));
    put(root.path(), file, "9223372036854771712\n");
    let physical = Some(Detected { bytes: 16_777_216, source: Source::PhysicalMemory });
    assert_eq!(limit::detect_under(root.path()), physical);
}

#[test]
fn a_part_of_a_hierarchy_that_is_mounted_is_found_below_its_mount_point() {
    let root = TempDir::new().unwrap();
    let mount = V1_MOUNT.replace("0:31 / ", "0:31 /docker/abc ");
    put(root.path(), "proc/self/mountinfo", &mount);
    put(root.path(), "proc/self/cgroup", "4:memory:/docker/abc/inner\n");
    put(root.path(), "sys/fs/cgroup/memory/inner/memory.limit_in_bytes", "4096\n");
    put(root.path(), "sys/fs/cgroup/memory/memory.limit_in_bytes", "8192\n");
    assert_eq!(limit::detect_under(root.path()), Some(Detected { bytes: 4096, source: Source::CgroupV1 }));
}

#[test]
fn without_a_group_the_machines_memory_counts_and_without_both_nothing_is_known() {
    let root = TempDir::new().unwrap();
    assert_eq!(limit::detect_under(root.path()), None);
    put(root.path(), "proc/meminfo", MEMORY);
    let physical = Some(Detected { bytes: 16_777_216, source: Source::PhysicalMemory });
    assert_eq!(limit::detect_under(root.path()), physical);
}

#[test]
fn files_with_odd_content_grant_nothing_and_never_panic() {
    for odd in ["", "\n", "max", "-1", "0", "x:y", ":::", " - cgroup2", "1 2 3 - cgroup2 a b", "\0"] {
        let root = TempDir::new().unwrap();
        for file in ["proc/self/mountinfo", "proc/self/cgroup", "proc/meminfo", "sys/fs/cgroup/memory.max"] {
            put(root.path(), file, odd);
        }
        assert_eq!(limit::detect_under(root.path()), None);
    }
}

#[test]
fn this_machine_tells_a_limit() {
    assert!(detect().unwrap().bytes > 1 << 24);
}

#[test]
fn the_configuration_says_which_key_is_wrong_and_what_would_be_right() {
    let granted = Detected { bytes: 100 * MIB, source: Source::CgroupV2 };
    let resolve = |config: MemoryConfig| config.resolve(Some(&granted)).map_err(|error| error.to_string());
    assert_eq!(resolve(MemoryConfig::default()), Ok(80 * MIB));
    assert_eq!(resolve(MemoryConfig { limit_mib: Some(64), ..MemoryConfig::default() }), Ok(64 * MIB));
    let above = resolve(MemoryConfig { limit_mib: Some(101), ..MemoryConfig::default() });
    assert_eq!(
        above,
        Err("memory.limit_mib: 101: expected at most 100, which the cgroup (memory.max) grants".to_owned())
    );
    let zero = resolve(MemoryConfig { limit_mib: Some(0), ..MemoryConfig::default() });
    assert!(zero.unwrap_err().starts_with("memory.limit_mib: 0: "));
    let percentage = resolve(MemoryConfig { limit_percentage: 101, ..MemoryConfig::default() });
    assert_eq!(percentage, Err("memory.limit_percentage: 101: expected 1 to 100".to_owned()));
    assert_eq!(MemoryConfig::default().resolve(None), Err(MemoryError::Unknown));
    assert_eq!(MemoryConfig { limit_mib: Some(1), ..MemoryConfig::default() }.resolve(None), Ok(MIB));
}

#[test]
fn the_budget_is_a_metric() {
    let (budget, registry) = (Budget::new(100), Registry::new());
    budget.register_metrics(&registry);
    let _permit = budget.try_acquire(30).unwrap();
    let page = registry.encode();
    assert!(page.contains("\nmirador_memory_request_bytes 30.0\n"), "{page}");
    assert!(page.contains("\nmirador_memory_request_limit_bytes 100.0\n"), "{page}");
}
