//! A note on the container itself: the `cmk isolate` that was taken out of its command line.
//!
//! Laid over the create request as an annotation, it comes back with the container's status: one who has
//! lost the ledger still knows which pool it belongs to. It holds the options alone, nothing secret.

use std::collections::HashMap;

/// The annotation's key.
const KEY: &str = "cri-resource-manager.intel.com/cmk-isolate";

/// The annotation for a container whose command line begins with these words no longer.
pub(super) fn annotation(isolate: &[String]) -> Option<(String, String)> {
    if isolate.is_empty() {
        return None;
    }
    let value = serde_json::to_string(isolate).ok()?;
    Some((KEY.to_owned(), value))
}

/// The words, of a container's annotations. What cannot be read is no mark.
pub(super) fn find(annotations: &HashMap<String, String>) -> Option<Vec<String>> {
    let text = annotations.get(KEY)?;
    serde_json::from_str(text)
        .inspect_err(|error| {
            tracing::warn!(%error, text, "the annotation {KEY} of a container cannot be read");
        })
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_taken_out_of_a_command_line_are_found_again_and_nonsense_is_none() {
        let words = ["cmk", "isolate", "--pool=p"].map(str::to_owned).to_vec();
        let annotations = HashMap::from([annotation(&words).unwrap()]);
        assert_eq!(find(&annotations), Some(words));
        assert_eq!(annotation(&[]), None);
        let nonsense = HashMap::from([(KEY.to_owned(), "{".to_owned())]);
        assert_eq!(find(&nonsense), None);
        assert_eq!(find(&HashMap::new()), None);
    }
}
