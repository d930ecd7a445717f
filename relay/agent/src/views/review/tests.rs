use super::*;
use axum::http::{HeaderValue, Request, Response, StatusCode};
use kube::client::Body;
use serde_json::{Value, json};
use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

/// Reviews against an API server that always gives these statuses, and how often it was asked.
fn reviews(token: Option<Value>, access: Option<Value>) -> (AccessReviews, Arc<AtomicUsize>) {
    let asked = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&asked);
    let server = tower::service_fn(move |request: Request<Body>| {
        counted.fetch_add(1, Ordering::Relaxed);
        let status = match request.uri().path() {
            "/apis/authentication.k8s.io/v1/tokenreviews" => token.clone(),
            _ => access.clone(),
        };
        let (code, text) = match status {
            Some(status) => (StatusCode::CREATED, json!({ "spec": {}, "status": status })),
            None => (StatusCode::INTERNAL_SERVER_ERROR, json!({})),
        };
        let mut response = Response::new(Body::from(text.to_string().into_bytes()));
        *response.status_mut() = code;
        async { Ok::<_, Infallible>(response) }
    });
    let client = Client::new(server, "default");
    (AccessReviews::new(client, "n1".to_owned()), asked)
}

fn with_token(token: &str) -> HeaderMap {
    let token = HeaderValue::from_str(token).unwrap();
    [(VIEWS_TOKEN_HEADER.parse().unwrap(), token)]
        .into_iter()
        .collect()
}

fn known() -> Value {
    json!({
        "authenticated": true,
        "audiences": ["cri-resmgr-agent/n1"],
        "user": { "username": "jane", "groups": ["viewers"] },
    })
}

#[tokio::test]
async fn only_a_user_that_is_known_here_and_allowed_passes() {
    let with = |key: &str, value: Value| {
        let mut known = known();
        known[key] = value;
        known
    };
    let audience = "the token is not valid for the audience cri-resmgr-agent/n1";
    let right = "nodes \"n1\" is forbidden: User \"jane\" cannot get resource \"nodes/resmgr\"";
    let review = "the API server does not review the token";
    let allowed = || Some(json!({ "allowed": true }));
    for (token, access, words) in [
        (Some(known()), allowed(), ""),
        (
            Some(with("authenticated", json!(false))),
            allowed(),
            audience,
        ),
        // An API server that knows no audiences, and a token for the API server.
        (Some(with("audiences", json!(null))), allowed(), audience),
        (Some(with("audiences", json!(["api"]))), allowed(), audience),
        (Some(with("user", json!(null))), allowed(), audience),
        (
            Some(json!({ "error": "it has expired" })),
            allowed(),
            ": it has expired",
        ),
        (None, allowed(), review),
        (Some(known()), Some(json!({ "allowed": false })), right),
        (
            Some(known()),
            Some(json!({ "allowed": true, "denied": true })),
            right,
        ),
        (Some(known()), None, review),
    ] {
        let shown = format!("{token:?} {access:?}");
        let (reviews, _) = reviews(token, access);
        let checked = reviews.check(&with_token("t")).await;
        let told = checked.as_ref().err().map(ToString::to_string);
        let told = told.unwrap_or_default();
        assert_eq!(checked.is_ok(), words.is_empty(), "{shown}: {told}");
        assert!(told.contains(words), "{shown}: {told}");
    }
}

#[tokio::test]
async fn a_request_without_a_token_or_with_none_that_can_be_is_not_reviewed() {
    let (reviews, asked) = reviews(Some(known()), Some(json!({ "allowed": true })));
    let refused = reviews.check(&HeaderMap::new()).await;
    assert_eq!(refused, Err(ViewRefusal::NoToken));
    for token in ["", &"x".repeat(MAX_TOKEN_BYTES + 1)] {
        let refused = reviews.check(&with_token(token)).await;
        assert!(
            matches!(refused, Err(ViewRefusal::Token { .. })),
            "{refused:?}"
        );
    }
    assert_eq!(asked.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn verdicts_are_held_of_known_users_only_and_of_so_many_tokens() {
    for allowed in [true, false] {
        let (reviews, asked) = reviews(Some(known()), Some(json!({ "allowed": allowed })));
        for _ in 0..3 {
            assert_eq!(reviews.check(&with_token("t")).await.is_ok(), allowed);
        }
        assert_eq!(asked.load(Ordering::Relaxed), 2, "one review of each kind");
        for number in 0..2 * TOKENS {
            drop(reviews.check(&with_token(&number.to_string())).await);
        }
        assert_eq!(reviews.held.lock().unwrap().len(), TOKENS);
    }
    let failures = [
        (Some(json!({})), None, 1),
        (Some(known()), None, 2),
        (None, None, 1),
    ];
    for (token, access, requests) in failures {
        let (reviews, asked) = reviews(token, access);
        for _ in 0..2 {
            reviews.check(&with_token("t")).await.unwrap_err();
        }
        assert_eq!(asked.load(Ordering::Relaxed), 2 * requests);
        assert!(reviews.held.lock().unwrap().is_empty());
    }
}
