//! See `cri_resmgr::fuzz`.
#![no_main]

libfuzzer_sys::fuzz_target!(
    init: cri_resmgr_fuzz::sow("overlay"),
    |octets: &[u8]| cri_resmgr_fuzz::run("overlay", octets)
);
