//! The registry and the text page.

use prometheus_client::{encoding::text::encode, metrics::info::Info, registry::Registry};
use resmgr_io::process::ProcessMetrics;
use std::sync::{Arc, Mutex, PoisonError};

/// What the names of cri-resmgr's own metrics begin with.
const PREFIX: &str = "cri_resmgr";

/// The process's metrics. Families register once at start-up; every scrape renders the page anew.
#[derive(Clone, Debug)]
pub struct Metrics {
    registry: Arc<Mutex<Registry>>,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new(Vec::new())
    }
}

impl Metrics {
    /// Metrics of the process and of its build, which these names and values describe.
    #[must_use]
    pub fn new(build: Vec<(&'static str, String)>) -> Self {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(ProcessMetrics::default()));
        let build = Info::new(build);
        registry.sub_registry_with_prefix(PREFIX).register(
            "build",
            "What the running cri-resmgr was built of",
            build,
        );
        Self {
            registry: Arc::new(Mutex::new(registry)),
        }
    }

    /// Adds families to the registry.
    pub fn register(&self, add: impl FnOnce(&mut Registry)) {
        let mut registry = self.registry.lock().unwrap_or_else(PoisonError::into_inner);
        add(registry.sub_registry_with_prefix(PREFIX));
    }

    /// The page in the OpenMetrics text format.
    ///
    /// # Errors
    /// Only when a collector fails to format its values.
    pub fn page(&self) -> Result<String, std::fmt::Error> {
        let mut page = String::with_capacity(16 * 1024);
        encode(
            &mut page,
            &self.registry.lock().unwrap_or_else(PoisonError::into_inner),
        )?;
        Ok(page)
    }
}
