//! Whether a request for a view may be answered: TokenReview, then SubjectAccessReview.
//!
//! The right is `get` on `nodes/resmgr`, a subresource that only this agent asks for, as the kubelet asks for `nodes/stats`.
//! Whatever goes wrong refuses.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use axum::http::HeaderMap;
use k8s_openapi::api::{
    authentication::v1::{TokenReview, TokenReviewSpec, UserInfo},
    authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec},
};
use kube::{Api, Client, api::PostParams};
use resmgr_proto::{VIEWS_TOKEN_HEADER, views_audience};
use tokio::sync::Semaphore;

/// For how long an answer of the API server holds: so long a right that is taken away is still there.
const HOLDS: Duration = Duration::from_secs(10);
/// Tokens whose answer is kept.
const TOKENS: usize = 64;
/// Requests that are reviewed at once; further ones wait. So tokens that are made up cost the API server no more than that.
const REVIEWS: usize = 4;
/// Octets of the longest token: those of service accounts have about one thousand.
const MAX_TOKEN_BYTES: usize = 8 << 10;

/// Why a request is not answered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum ViewRefusal {
    /// It has no token.
    #[error("the request has no token: {VIEWS_TOKEN_HEADER} is missing")]
    NoToken,
    /// The token is not valid, or not for this agent.
    #[error("the token is not valid for the audience {audience}{reason}")]
    Token { audience: String, reason: String },
    /// Its user may not read the views of this node.
    #[error(
        "nodes {node:?} is forbidden: User {user:?} cannot get resource \"nodes/resmgr\" in API group \"\" at the \
         cluster scope{reason}"
    )]
    Right {
        node: String,
        user: String,
        reason: String,
    },
    /// The API server has not said whether it may.
    #[error("the API server does not review the token: {reason}")]
    Review { reason: String },
}

/// A verdict on a user, and until when it holds.
type HeldVerdict = (Result<(), ViewRefusal>, Instant);

/// Asks the API server, and remembers its answers for a short while.
pub(crate) struct AccessReviews {
    client: Client,
    node: String,
    /// By token, of users that the API server knows; so tokens that are made up push none out.
    held: Mutex<HashMap<String, HeldVerdict>>,
    slots: Semaphore,
}

impl AccessReviews {
    /// For the views of this node.
    pub(crate) fn new(client: Client, node: String) -> Self {
        Self {
            client,
            node,
            held: Mutex::default(),
            slots: Semaphore::new(REVIEWS),
        }
    }

    /// Checks that the request has the token of a user with the right to read the views.
    pub(super) async fn check(&self, headers: &HeaderMap) -> Result<(), ViewRefusal> {
        let token = headers
            .get(VIEWS_TOKEN_HEADER)
            .ok_or(ViewRefusal::NoToken)?;
        let token = token.to_str().unwrap_or_default();
        if token.is_empty() || token.len() > MAX_TOKEN_BYTES {
            return Err(self.invalid(None));
        }
        if let Some(verdict) = self.held(token) {
            return verdict;
        }
        // The semaphore is never closed.
        let _slot = self.slots.acquire().await.map_err(unreviewed)?;
        let user = self.user(token).await?;
        let verdict = self.authorize(user).await;
        if !matches!(verdict, Err(ViewRefusal::Review { .. })) {
            self.hold(token, verdict.clone());
        }
        verdict
    }

    /// The user of a token that is made for this agent.
    async fn user(&self, token: &str) -> Result<UserInfo, ViewRefusal> {
        let audience = views_audience(&self.node);
        let review = TokenReview {
            spec: TokenReviewSpec {
                token: Some(token.to_owned()),
                audiences: Some(vec![audience.clone()]),
            },
            ..TokenReview::default()
        };
        let reviews = Api::<TokenReview>::all(self.client.clone());
        let review = reviews.create(&PostParams::default(), &review).await;
        let status = review.map_err(unreviewed)?.status.unwrap_or_default();
        // An API server that knows no audiences gives none.
        let fits = status.audiences.unwrap_or_default().contains(&audience);
        match status.user {
            Some(user) if status.authenticated == Some(true) && fits => Ok(user),
            _ => Err(self.invalid(status.error)),
        }
    }

    fn invalid(&self, reason: Option<String>) -> ViewRefusal {
        ViewRefusal::Token {
            audience: views_audience(&self.node),
            reason: after_colon(reason),
        }
    }

    async fn authorize(&self, user: UserInfo) -> Result<(), ViewRefusal> {
        let name = user.username.clone().unwrap_or_default();
        let review = SubjectAccessReview {
            spec: SubjectAccessReviewSpec {
                user: user.username,
                groups: user.groups,
                uid: user.uid,
                extra: user.extra,
                resource_attributes: Some(ResourceAttributes {
                    verb: Some("get".to_owned()),
                    resource: Some("nodes".to_owned()),
                    subresource: Some("resmgr".to_owned()),
                    name: Some(self.node.clone()),
                    ..ResourceAttributes::default()
                }),
                ..SubjectAccessReviewSpec::default()
            },
            ..SubjectAccessReview::default()
        };
        let reviews = Api::<SubjectAccessReview>::all(self.client.clone());
        let review = reviews.create(&PostParams::default(), &review).await;
        let status = review.map_err(unreviewed)?.status.unwrap_or_default();
        if status.allowed && status.denied != Some(true) {
            return Ok(());
        }
        Err(ViewRefusal::Right {
            node: self.node.clone(),
            user: name,
            reason: after_colon(status.reason),
        })
    }

    fn held(&self, token: &str) -> Option<Result<(), ViewRefusal>> {
        let held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let (verdict, until) = held.get(token)?;
        (Instant::now() < *until).then(|| verdict.clone())
    }

    fn hold(&self, token: &str, verdict: Result<(), ViewRefusal>) {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        held.retain(|_, (_, until)| now < *until);
        if held.len() < TOKENS {
            held.insert(token.to_owned(), (verdict, now + HOLDS));
        }
    }
}

fn unreviewed(error: impl std::fmt::Display) -> ViewRefusal {
    ViewRefusal::Review {
        reason: error.to_string(),
    }
}

fn after_colon(reason: Option<String>) -> String {
    let reason = reason.filter(|reason| !reason.is_empty());
    reason.map_or_else(String::new, |reason| format!(": {reason}"))
}

#[cfg(test)]
mod tests;
