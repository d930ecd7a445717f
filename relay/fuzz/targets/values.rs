//! See `cri_resmgr::fuzz`.
#![no_main]

libfuzzer_sys::fuzz_target!(
    init: cri_resmgr_fuzz::sow("values"),
    |octets: &[u8]| cri_resmgr_fuzz::run("values", octets)
);
