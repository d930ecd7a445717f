//! What the fuzz targets share.

use cri_resmgr::fuzz::{FuzzTarget, TARGETS};

fn target(name: &str) -> &'static FuzzTarget {
    let found = TARGETS.iter().find(|target| target.name == name);
    found.expect("every program here is named after a target")
}

/// Runs the target called `name`.
pub fn run(name: &str, octets: &[u8]) {
    (target(name).run)(octets);
}

/// Writes the target's seeds into the folder `RESMGR_FUZZ_SEEDS`, if that is set.
pub fn sow(name: &str) {
    let Some(folder) = std::env::var_os("RESMGR_FUZZ_SEEDS").map(std::path::PathBuf::from) else {
        return;
    };
    for (number, seed) in target(name).seeds.iter().enumerate() {
        let file = folder.join(format!("seed{number}"));
        std::fs::write(file, seed).expect("the folder of the seeds can be written to");
    }
}
