//! See `cri_resmgr::fuzz`.
#![no_main]

libfuzzer_sys::fuzz_target!(
    init: cri_resmgr_fuzz::sow("config_document"),
    |octets: &[u8]| cri_resmgr_fuzz::run("config_document", octets)
);
