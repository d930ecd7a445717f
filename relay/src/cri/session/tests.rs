//! Tables of frames in and frames out: of the whole session here, of each of its parts in [`parts`].

mod parts;

use super::{
    PendingHook, Session,
    notation::{Wire, assert_table, read, sender, show_error, value},
};
use crate::cri::{
    frame,
    intercept::{After, Before, Call, CallOutcome, Interceptor, Status},
    observe::{Event, Interest, Kind, Observer},
    options::{Limit, ServerOptions},
    route::{Route, Upstreams},
    shared::ConnectionContext,
};
use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use proptest::{collection as several, prelude::*};
use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

fn shared(sockets: usize, interceptor: Option<Arc<dyn Interceptor>>) -> ConnectionContext {
    let image = match sockets {
        1 => "/run/runtime",
        _ => "/run/images",
    };
    let upstreams = Upstreams {
        runtime: Some("/run/runtime".into()),
        image: Some(image.into()),
    };
    ConnectionContext::new(upstreams, ServerOptions::default(), interceptor, Vec::new())
}

fn session() -> Session {
    Session::new(Arc::new(shared(2, None)))
}

/// Intercepts creations. The table says what it answers.
#[derive(Debug)]
struct Creations;

#[async_trait]
impl Interceptor for Creations {
    fn wants(&self, path: &str) -> bool {
        path.contains("Create")
    }

    async fn before(&self, _call: &Call, _request: &Bytes) -> Before {
        Before::Forward {
            request: None,
            after: None,
        }
    }
}

struct Answered {
    awaits_relay_end: bool,
}

#[async_trait]
impl After for Answered {
    async fn after(self: Box<Self>, _outcome: CallOutcome) {}

    fn awaits_relay_end(&self) -> bool {
        self.awaits_relay_end
    }
}

/// Writes down what an observer is told.
#[derive(Debug, Default)]
struct Log(Mutex<Vec<String>>);

impl Observer for Log {
    fn interest(&self, _path: &str) -> Interest {
        Interest::Bodies
    }

    fn observe(&self, call: &Arc<Call>, kind: Kind, event: Event) {
        let event = match event {
            Event::Request { body } => format!("request {body:?}"),
            Event::Rewritten { body } => format!("rewritten {body:?}"),
            Event::Reply { body } => format!("reply {body:?}"),
            Event::TooLong { octets, .. } => format!("too long: {octets}"),
            Event::End { failed: None, .. } => "end OK".to_owned(),
            Event::End {
                failed: Some(status),
                ..
            } => format!("end {status}"),
        };
        let line = format!("observer< {kind:?} {} {event}", call.method());
        self.0.lock().unwrap().push(line);
    }

    fn limit_reached(&self, limit: Limit) {
        let line = format!("observer< limit {}", limit.as_str());
        self.0.lock().unwrap().push(line);
    }
}

/// A session that is played line by line.
///
/// `client>`, `runtime>` and `image>` are frames that the relay receives, `client<` and so on those it
/// sends. `hook>` is a hook's answer, and `relay:` what befalls the relay itself.
struct Play {
    session: Session,
    observer: Arc<Log>,
    wire: Wire,
    awaits: [bool; 2],
}

impl Play {
    /// Of a line that says how many sockets there are, and whether there is a hook or an observer.
    fn start(line: &str) -> Self {
        let words: Vec<&str> = line.split_whitespace().collect();
        let sockets = value(&words, "sockets").expect("a case begins with its sockets");
        let hooks = words.contains(&"hooks");
        let mut shared = shared(sockets, hooks.then(|| Arc::new(Creations) as _));
        let observer = Arc::new(Log::default());
        if words.contains(&"observer") {
            shared.observers.push(Arc::clone(&observer) as _);
        }
        let options = &mut shared.options;
        options.max_message_bytes = 1 << 17;
        options.max_observed_bytes = 1 << 17;
        let bound = |key, bound: &mut usize| *bound = value(&words, key).unwrap_or(*bound);
        bound("message", &mut options.max_message_bytes);
        bound("held_octets", &mut options.max_held_bytes);
        bound("held_octets_of_all", &mut options.max_held_bytes_of_all);
        bound("free", &mut options.free_held_bytes);
        bound("kept_octets", &mut options.max_kept_bytes);
        bound("header_list", &mut options.max_header_list_bytes);
        bound("call_headers", &mut options.max_call_header_bytes);
        bound("continuations", &mut options.max_continuations);
        bound("unread", &mut options.max_unread_bytes);
        bound("unread_answers", &mut options.max_unread_answer_bytes);
        let bound = |key, bound: &mut u32| *bound = value(&words, key).unwrap_or(*bound);
        bound("streams", &mut options.max_concurrent_streams);
        bound("idle_frames", &mut options.max_idle_frames);
        bound("resets", &mut options.max_resets);
        Self {
            session: Session::new(Arc::new(shared)),
            observer,
            wire: Wire::default(),
            awaits: [false; 2],
        }
    }

    /// A line that ends with `times=N` is played so often before anything that is to be sent is read.
    fn line(&mut self, line: &str) -> Vec<String> {
        let (line, times) = line.split_once(" times=").unwrap_or((line, "1"));
        let mut out = Vec::new();
        for _ in 0..times.parse().unwrap() {
            self.play(line, &mut out);
        }
        self.outcome(&mut out);
        together(out)
    }

    fn play(&mut self, line: &str, out: &mut Vec<String>) {
        let words: Vec<&str> = line.split_whitespace().collect();
        match (words[0], sender(line)) {
            ("hook>", _) => self.hook(&words[1..], line),
            ("relay:", _) => self.relay(&words[1..]),
            (_, Some((None, frame))) => {
                if let Err(error) = self.session.take_from_client(&mut read(frame)) {
                    out.push(show_error(&error));
                    // As the pump does.
                    self.session.client_lost();
                    self.session.go_away(&error);
                }
            }
            ("runtime>" | "image>", Some((Some(route), frame))) => match words[1] {
                "connected" => self.session.connected(route),
                "lost:" => self.lost(route, &words[2..].join(" ")),
                _ => {
                    let taken = self.session.take_from_upstream(route, &mut read(frame));
                    if let Err(error) = taken {
                        out.push(show_error(&error));
                        self.lost(route, &error.text);
                    }
                }
            },
            _ => panic!("{line}"),
        }
    }

    fn lost(&mut self, route: Route, why: &str) {
        self.session.upstream_lost(route, why);
        self.wire.lost(route);
    }

    fn hook(&mut self, words: &[&str], line: &str) {
        let id = value(words, "stream").expect("a hook answers for a stream");
        let awaits_relay_end = words.contains(&"awaits_relay_end");
        let after = || Some(Box::new(Answered { awaits_relay_end }) as _);
        match words[1] {
            "forward" => self.session.decided(
                id,
                Before::Forward {
                    request: value::<String>(words, "message").map(Bytes::from),
                    after: after(),
                },
            ),
            "forward_only" => self.session.decided(
                id,
                Before::Forward {
                    request: None,
                    after: None,
                },
            ),
            "refuse" => self.session.decided(
                id,
                Before::Refuse(Status {
                    code: value(words, "code").unwrap_or(9),
                    message: "the hook refuses".to_owned(),
                }),
            ),
            "done" => self.session.committed(id),
            _ => panic!("{line}"),
        }
    }

    fn relay(&mut self, words: &[&str]) {
        match words[0] {
            "client_lost" => self.session.client_lost(),
            "drain" => self.session.drain("shutting down"),
            "close_intake" => self.session.close_intake(),
            "cut" => self.session.cut("shutting down"),
            "expire" => {
                let seconds = value(words, "after_s").expect("an expiry has a time");
                let now = Instant::now() + Duration::from_secs(seconds);
                for route in Route::ALL {
                    self.session.expire(route, now, "the runtime is away");
                }
            }
            _ => {} // the start of the case
        }
    }

    /// All that the last line brought about.
    fn outcome(&mut self, out: &mut Vec<String>) {
        if !self.session.takes_from_client() {
            out.push("relay: takes nothing from the client".to_owned());
        }
        for route in self.session.shared.upstreams.routes() {
            if !self.session.takes_from_upstream(*route) {
                out.push(format!("relay: takes nothing from the {}", route.name()));
            }
        }
        out.append(&mut self.wire.sent(&mut self.session.out));
        for hook in std::mem::take(&mut self.session.hooks) {
            out.push(match hook {
                PendingHook::Before(id, call, body) => {
                    format!("hook< before stream={id} {} {body:?}", call.method())
                }
                PendingHook::After(Some(id), _, outcome) => {
                    format!("hook< after stream={id} {outcome:?}")
                }
                PendingHook::After(None, _, outcome) => format!("hook< after {outcome:?}"),
            });
        }
        out.append(&mut self.observer.0.lock().unwrap());
        for (route, name) in Route::ALL.into_iter().zip(["runtime", "image"]) {
            let awaits = self.session.awaits_connect(route);
            let before = std::mem::replace(&mut self.awaits[route.index()], awaits);
            if awaits && !before {
                out.push(format!("relay: connects to the {name}"));
            }
        }
        if self.session.finished() {
            out.push("relay: finished".to_owned());
        }
    }
}

/// Lines that repeat the one before as one line.
fn together(lines: Vec<String>) -> Vec<String> {
    let equal = lines.chunk_by(|line, next| line == next);
    let lines = equal.map(|lines| match lines.len() {
        1 => lines[0].clone(),
        times => format!("{} times={times}", lines[0]),
    });
    lines.collect()
}

fn assert_session_table(file: &str) {
    assert_table(file, || {
        let mut play: Option<Play> = None;
        move |line: &str| play.get_or_insert_with(|| Play::start(line)).line(line)
    });
}

#[test]
fn settings_of_the_client_and_of_two_sockets() {
    assert_session_table("session_settings.txt");
}

#[test]
fn windows_both_ways() {
    assert_session_table("session_windows.txt");
}

#[test]
fn pings() {
    assert_session_table("session_pings.txt");
}

#[test]
fn streams_that_are_opened_closed_and_reset_in_each_order() {
    assert_session_table("session_streams.txt");
}

#[test]
fn connections_that_are_lost_and_goodbyes() {
    assert_session_table("session_connections.txt");
}

#[test]
fn intercepted_calls() {
    assert_session_table("session_intercepted.txt");
}

#[test]
fn mistakes_of_the_client_and_of_the_runtime() {
    assert_session_table("session_mistakes.txt");
}

#[test]
fn bounds() {
    assert_session_table("session_bounds.txt");
}

/// Frames that are well cut but otherwise anything, on few streams so that they meet.
fn frames() -> impl Strategy<Value = Vec<u8>> {
    let payload = several::vec(any::<u8>(), 0..24);
    several::vec((0_u8..12, any::<u8>(), 0_u32..6, payload), 0..24).prop_map(|list| {
        let mut out = BytesMut::new();
        for (kind, flags, stream, payload) in list {
            frame::put_head(&mut out, payload.len(), kind, flags, stream);
            out.extend_from_slice(&payload);
        }
        out.to_vec()
    })
}

proptest! {
    #[test]
    fn no_frames_from_either_side_make_it_panic(
        client in frames(),
        runtime in frames(),
        images in frames(),
        connected in any::<[bool; 2]>(),
    ) {
        let mut session = session();
        for (route, connected) in [Route::Runtime, Route::Image].into_iter().zip(connected) {
            if connected {
                session.connected(route);
            }
        }
        let mut input = BytesMut::from(&frame::PREFACE[..]);
        frame::put_settings(&mut input, std::iter::empty());
        input.extend_from_slice(&client);
        drop(session.take_from_client(&mut input));
        for (route, frames) in [(Route::Runtime, runtime), (Route::Image, images)] {
            let mut input = BytesMut::new();
            frame::put_settings(&mut input, std::iter::empty());
            input.extend_from_slice(&frames);
            drop(session.take_from_upstream(route, &mut input));
        }
        let late = Instant::now() + session.shared.options.connect_limit;
        session.expire(Route::Runtime, late, "away");
        session.drain("the end");
        session.upstream_lost(Route::Runtime, "the end");
        session.cut("the end");
        prop_assert!(session.finished());
    }

    #[test]
    fn no_octets_make_it_panic(client in several::vec(any::<u8>(), 0..200)) {
        let mut input = BytesMut::from(&frame::PREFACE[..]);
        input.extend_from_slice(&client);
        drop(session().take_from_client(&mut input));
    }
}

#[test]
fn a_client_of_another_protocol_is_refused() {
    let mut input = BytesMut::from("GET / HTTP/1.1\r\n");
    let error = session().take_from_client(&mut input).unwrap_err();
    assert_eq!(error.text, "not an HTTP/2 client");
}
