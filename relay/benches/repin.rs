//! Re-pinning 500 containers after a change of the shared pool, on the machine's own cgroup v1 cpusets.
//!
//! The same through the runtime's UpdateContainerResources is measured by the end-to-end tests.

use cri_resmgr::enforce::{CgroupSettings, Cgroups, Hierarchy, Place};
use criterion::{Criterion, criterion_group, criterion_main};
use std::{fs, path::Path};

const CONTAINERS: usize = 500;

fn fill(directory: &Path) -> std::io::Result<()> {
    fs::create_dir(directory)?;
    let parent = directory.parent().unwrap_or(directory);
    for file in ["cpuset.cpus", "cpuset.mems"] {
        fs::write(directory.join(file), fs::read(parent.join(file))?)?;
    }
    Ok(())
}

fn repin(criterion: &mut Criterion) {
    let Ok(Hierarchy::V1 { cpuset, .. }) = Hierarchy::detect(None) else {
        criterion.bench_function("skipped: no cgroup v1 cpusets", |bencher| {
            bencher.iter(|| ())
        });
        return;
    };
    let root = cpuset.join(format!("cri-resmgr-bench-{}", std::process::id()));
    if fill(&root).is_err() {
        criterion.bench_function("skipped: cgroups are not writable", |bencher| {
            bencher.iter(|| ())
        });
        return;
    }
    let ids: Vec<_> = (0..CONTAINERS)
        .map(|number| format!("container-{number}"))
        .collect();
    let made = ids.iter().all(|id| fill(&root.join(id)).is_ok());
    let cgroups = Cgroups::new(Hierarchy::V1 {
        cpuset: root.clone(),
        cpu: None,
    });
    if made {
        let wanted = ["0", "1"].map(|list| CgroupSettings {
            cpus: list.parse().unwrap_or_default(),
            ..CgroupSettings::default()
        });
        let mut round = 0;
        criterion.bench_function("re-pin 500 containers, read back", |bencher| {
            bencher.iter(|| {
                round += 1;
                let wanted = wanted.get(round % 2);
                for id in &ids {
                    let place = Place { id, parent: "" };
                    let written = wanted.map(|wanted| cgroups.write(&place, wanted));
                    assert!(matches!(written, Some(Ok(()))), "{written:?}");
                }
            });
        });
        criterion.bench_function("compare 500 containers with the kernel", |bencher| {
            bencher.iter(|| {
                for id in &ids {
                    let place = Place { id, parent: "" };
                    assert!(cgroups.read(&place).is_ok());
                }
            });
        });
    }
    for id in &ids {
        drop(fs::remove_dir(root.join(id))); // what is left is empty
    }
    drop(fs::remove_dir(root));
}

criterion_group!(benches, repin);
criterion_main!(benches);
