//! See `cri_resmgr::fuzz`.
#![no_main]

libfuzzer_sys::fuzz_target!(
    init: cri_resmgr_fuzz::sow("option_file"),
    |octets: &[u8]| cri_resmgr_fuzz::run("option_file", octets)
);
