//! One placement on the largest machine we mean to serve: 8 packages, 512 cores, 1024 CPUs.

use criterion::{Criterion, criterion_group, criterion_main};
use resmgr_topology::{CpuId, CpuSet, Preference, Topology, allocate};
use std::hint::black_box;

fn placement(bench: &mut Criterion) {
    let machine =
        Topology::synthetic("pack:8 numa:2 l3:4 core:8 pu:2").expect("a legal description");
    let whole = machine.all();
    // Every third CPU is gone: no core pattern repeats, few cores are whole.
    let fragmented: CpuSet = whole.iter().filter(|cpu| cpu.0 % 3 != 0).collect();
    let cost = |cpu: CpuId| u64::from(cpu.0 % 7);
    let held: CpuSet = [CpuId(400)].into_iter().collect();
    let near = Preference {
        near: Some(&held),
        cost: Some(&cost),
    };
    let plain = Preference::default();
    for (name, from, count, preference) in [
        ("one of a whole machine", &whole, 1, &plain),
        ("13 of a whole machine", &whole, 13, &plain),
        ("13 of a fragmented machine", &fragmented, 13, &plain),
        ("300 of a fragmented machine", &fragmented, 300, &plain),
        ("13 near others, by cost", &fragmented, 13, &near),
    ] {
        bench.bench_function(name, |bench| {
            bench.iter(|| allocate(black_box(&machine), black_box(from), count, preference));
        });
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(50);
    targets = placement
}
criterion_main!(benches);
