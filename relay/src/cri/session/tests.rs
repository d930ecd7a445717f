use super::{
    notation::{assert_table, code_name, read, value, write},
    *,
};
use crate::cri::{
    intercept::Interceptor,
    observe::{Event, Interest, Kind, Observer},
    options::Options,
    outage::Outages,
    route::Upstreams,
};
use async_trait::async_trait;
use proptest::{collection as several, prelude::*};
use std::{
    sync::{Mutex, atomic::AtomicU64},
    time::Duration,
};

const ROUTES: [(Route, &str); 2] = [(Route::Runtime, "runtime"), (Route::Image, "image")];

fn shared(sockets: usize, interceptor: Option<Arc<dyn Interceptor>>) -> Shared {
    Shared {
        upstreams: Upstreams {
            runtime: Some("/run/runtime".into()),
            image: Some(
                if sockets == 1 {
                    "/run/runtime"
                } else {
                    "/run/images"
                }
                .into(),
            ),
        },
        options: Options::default(),
        interceptor,
        observers: Vec::new(),
        seq: AtomicU64::new(1),
        outages: Outages::default(),
    }
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

struct Answered;

#[async_trait]
impl After for Answered {
    async fn after(self: Box<Self>, _outcome: Outcome) {}
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
}

/// A session that is played line by line.
///
/// `client>`, `runtime>` and `image>` are frames that the relay receives, `client<` and so on those it
/// sends. `hook>` is a hook's answer, and `relay:` what befalls the relay itself.
struct Play {
    session: Session,
    observer: Arc<Log>,
    /// The tables of the client and of the two sockets for what the relay sends them.
    headers: [Decoder; 3],
    waits: [bool; 2],
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
        shared.options.max_message_bytes = 1 << 17;
        Self {
            session: Session::new(Arc::new(shared)),
            observer,
            headers: [(); 3].map(|()| Decoder::new(1 << 16)),
            waits: [false; 2],
        }
    }

    fn line(&mut self, line: &str) -> Vec<String> {
        let mut out = Vec::new();
        let (subject, rest) = line.split_once([' ']).unwrap_or((line, ""));
        let words: Vec<&str> = rest.split_whitespace().collect();
        match subject {
            "client>" => {
                if let Err(fault) = self.session.take_from_client(&mut read(rest)) {
                    out.push(show(&fault));
                    // As the pump does.
                    self.session.client_lost();
                    self.session
                        .go_away(frame::MAX_STREAM, fault.code, &fault.text);
                }
            }
            "hook>" => self.hook(&words, rest),
            "relay:" => self.relay(&words),
            subject => {
                let (route, _) = ROUTES
                    .into_iter()
                    .find(|(_, name)| subject.strip_suffix('>') == Some(name))
                    .unwrap_or_else(|| panic!("{line}"));
                match words[0] {
                    "connected" => self.session.connected(route),
                    "lost:" => self.lost(route, &words[1..].join(" ")),
                    _ => {
                        let taken = self.session.take_from_upstream(route, &mut read(rest));
                        if let Err(fault) = taken {
                            out.push(show(&fault));
                            self.lost(route, &fault.text);
                        }
                    }
                }
            }
        }
        self.outcome(&mut out);
        out
    }

    fn lost(&mut self, route: Route, why: &str) {
        self.session.upstream_lost(route, why);
        // The next connection has a table of its own.
        self.headers[1 + route.index()] = Decoder::new(1 << 16);
    }

    fn hook(&mut self, words: &[&str], line: &str) {
        let id = value(words, "stream").expect("a hook answers for a stream");
        let after = || Some(Box::new(Answered) as _);
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
                for (route, _) in ROUTES {
                    self.session.expire(route, now, "the runtime is away");
                }
            }
            _ => {} // the start of the case
        }
    }

    /// All that the last line brought about.
    fn outcome(&mut self, out: &mut Vec<String>) {
        let [client, upstreams @ ..] = &mut self.headers;
        let frames = write(&mut self.session.to_client, client);
        out.extend(frames.iter().map(|frame| format!("client< {frame}")));
        for ((route, name), headers) in ROUTES.into_iter().zip(upstreams) {
            let frames = write(self.session.upstream_out(route), headers);
            out.extend(frames.iter().map(|frame| format!("{name}< {frame}")));
        }
        for todo in std::mem::take(&mut self.session.todo) {
            out.push(match todo {
                Todo::Before(id, call, body) => {
                    format!("hook< before stream={id} {} {body:?}", call.method())
                }
                Todo::After(Some(id), _, outcome) => {
                    format!("hook< after stream={id} {outcome:?}")
                }
                Todo::After(None, _, outcome) => format!("hook< after {outcome:?}"),
            });
        }
        out.append(&mut self.observer.0.lock().unwrap());
        for (route, name) in ROUTES {
            let waits = self.session.waits_for(route);
            if std::mem::replace(&mut self.waits[route.index()], waits) != waits && waits {
                out.push(format!("relay: connects to the {name}"));
            }
        }
        if self.session.finished() {
            out.push("relay: finished".to_owned());
        }
    }
}

fn show(fault: &Fault) -> String {
    format!("relay: fault {} {}", code_name(fault.code), fault.text)
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
        input.extend_from_slice(&client);
        drop(session.take_from_client(&mut input));
        drop(session.take_from_upstream(Route::Runtime, &mut BytesMut::from(&runtime[..])));
        drop(session.take_from_upstream(Route::Image, &mut BytesMut::from(&images[..])));
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
    let fault = session().take_from_client(&mut input).unwrap_err();
    assert_eq!(fault.text, "not an HTTP/2 client");
}
