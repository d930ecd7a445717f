//! Compares texts with files beside the tests; `UPDATE_GOLDEN=1` writes them anew.

/// Compares `text` with a file, given relative to this package.
pub(crate) fn assert_golden(text: &str, file: &str) {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, text).unwrap();
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        text == expected,
        "{file} differs; UPDATE_GOLDEN=1 writes it anew. Now it would be:\n{text}"
    );
}
