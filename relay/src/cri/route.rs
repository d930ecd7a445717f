//! Which socket of the runtime a call goes to.

use std::path::{Path, PathBuf};

/// The sockets that calls go on to; `None` is a service turned off.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upstreams {
    /// For everything that is not the image service.
    pub runtime: Option<PathBuf>,
    /// For `*.ImageService`.
    pub image: Option<PathBuf>,
}

/// Which of the two a call is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Route {
    Runtime,
    Image,
}

impl Route {
    pub(super) const ALL: [Self; 2] = [Self::Runtime, Self::Image];

    pub(super) fn of(path: &[u8]) -> Self {
        let service = path.strip_prefix(b"/").unwrap_or(path);
        let service = service.split(|c| *c == b'/').next().unwrap_or_default();
        if service.ends_with(b".ImageService") {
            Self::Image
        } else {
            Self::Runtime
        }
    }

    /// Where things that each route has one of are kept.
    pub(super) fn index(self) -> usize {
        match self {
            Self::Runtime => 0,
            Self::Image => 1,
        }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Runtime => "runtime service",
            Self::Image => "image service",
        }
    }
}

impl Upstreams {
    pub(super) fn path(&self, route: Route) -> Option<&Path> {
        match route {
            Route::Runtime => self.runtime.as_deref(),
            Route::Image => self.image.as_deref(),
        }
    }

    /// The route whose socket serves `route`: one connection serves both when their sockets are the
    /// same. `None` when the service is turned off.
    pub(super) fn serving(&self, route: Route) -> Option<Route> {
        self.path(route)?;
        if self.runtime == self.image {
            Some(Route::Runtime)
        } else {
            Some(route)
        }
    }

    /// The routes that have a connection of their own.
    pub(super) fn routes(&self) -> &'static [Route] {
        match (&self.runtime, &self.image) {
            (Some(runtime), Some(image)) if runtime != image => &[Route::Runtime, Route::Image],
            (Some(_), _) => &[Route::Runtime],
            (None, Some(_)) => &[Route::Image],
            (None, None) => &[],
        }
    }
}
