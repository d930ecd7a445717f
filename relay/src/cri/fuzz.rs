//! What of the relay is fuzzed: any octets in; no panic, no hang, no growth beyond what came in.

use crate::cri::{
    frame,
    hpack::{self, Decoder, Encoder},
    intercept::{After, Before, Call, CallOutcome, Interceptor, Status},
    observe::{Event, Interest, Kind, Observer},
    options::ServerOptions,
    overlay::{CreateOverlay, ResourceOverlay, UpdateOverlay},
    route::{Route, Upstreams},
    session::{PendingHook, Session},
    shared::ConnectionContext,
};
use async_trait::async_trait;
use bytes::{BufMut, Bytes, BytesMut};
use prost::Message;
use std::{sync::Arc, time::Instant};

/// Octets handed out piece by piece; zeros and nothing when there are no more.
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn octet(&mut self) -> u8 {
        self.take(1).first().copied().unwrap_or(0)
    }

    fn take(&mut self, n: usize) -> &'a [u8] {
        let (part, rest) = self.0.split_at(n.min(self.0.len()));
        self.0 = rest;
        part
    }

    fn part(&mut self) -> &'a [u8] {
        let n = usize::from(self.octet());
        self.take(n)
    }
}

/// Holds every call whose path has an `h`, and rewrites every other request.
#[derive(Debug)]
struct FuzzHooks;

#[async_trait]
impl Interceptor for FuzzHooks {
    fn wants(&self, path: &str) -> bool {
        path.contains('h')
    }

    async fn before(&self, _call: &Call, _request: &Bytes) -> Before {
        Before::Forward {
            request: None,
            after: None,
        }
    }
}

struct Nothing;

#[async_trait]
impl After for Nothing {
    async fn after(self: Box<Self>, _outcome: CallOutcome) {}
}

#[derive(Debug)]
struct Onlooker;

impl Observer for Onlooker {
    fn interest(&self, _path: &str) -> Interest {
        Interest::Bodies
    }

    fn observe(&self, _call: &Arc<Call>, _kind: Kind, _event: Event) {}
}

/// Bounds that a script can meet.
fn options() -> ServerOptions {
    ServerOptions {
        max_held_bytes: 1 << 10,
        free_held_bytes: 1 << 9,
        max_kept_bytes: 1 << 10,
        max_header_list_bytes: 1 << 10,
        max_call_header_bytes: 1 << 11,
        max_continuations: 4,
        max_concurrent_streams: 8,
        max_unread_bytes: 1 << 10,
        max_unread_answer_bytes: 1 << 11,
        max_idle_frames: 100,
        max_resets: 20,
        ..ServerOptions::default()
    }
}

/// Octets that may be kept of any script, for peers that read nothing: the sum of these bounds, and what one frame
/// may add to each.
const MOST_KEPT: usize = 1 << 15;

const ROUTES: [Route; 2] = [Route::Runtime, Route::Image];

fn session() -> Session {
    let upstreams = Upstreams {
        runtime: Some("/run/runtime".into()),
        image: Some("/run/images".into()),
    };
    Session::new(Arc::new(ConnectionContext::new(
        upstreams,
        options(),
        Some(Arc::new(FuzzHooks)),
        vec![Arc::new(Onlooker)],
    )))
}

/// One client's connections, driven by a script: frames of either side, well cut or not, connections
/// that come and go, hooks that answer.
pub fn frames(script: &[u8]) {
    let mut session = session();
    let mut input = Input(script);
    let mut from_client = BytesMut::from(&frame::PREFACE[..]);
    frame::put_settings(&mut from_client, std::iter::empty());
    let mut from_upstream = [BytesMut::new(), BytesMut::new()];
    let mut connected = [false; 2];
    let mut goodbyes = 0;
    while !input.0.is_empty() {
        let operation = input.octet();
        let line = usize::from(operation & 1);
        match operation >> 1 & 7 {
            0 => from_client.extend_from_slice(input.part()),
            1 | 2 => put_frame(&mut input, &mut from_client),
            3 => from_upstream[line].extend_from_slice(input.part()),
            4 | 5 => put_frame(&mut input, &mut from_upstream[line]),
            6 if connected[line] => {
                session.upstream_lost(ROUTES[line], "lost");
                from_upstream[line].clear();
                connected[line] = false;
            }
            6 => {
                session.connected(ROUTES[line]);
                frame::put_settings(&mut from_upstream[line], std::iter::empty());
                connected[line] = true;
            }
            _ => match input.octet() % 4 {
                3 => session.expire(ROUTES[line], Instant::now(), "away"),
                // The relay says goodbye a few times; a script, as often as it likes.
                _ if goodbyes == 4 => {}
                goodbye => {
                    goodbyes += 1;
                    match goodbye {
                        0 => session.drain("the end"),
                        1 => session.close_intake(),
                        _ => session.cut("the end"),
                    }
                }
            },
        }
        if session.take_from_client(&mut from_client).is_err() {
            return session.client_lost();
        }
        for line in 0..2 {
            if !connected[line] {
                from_upstream[line].clear();
            } else if let Err(error) =
                session.take_from_upstream(ROUTES[line], &mut from_upstream[line])
            {
                session.upstream_lost(ROUTES[line], &error.text);
                connected[line] = false;
            }
        }
        answer(&mut session, operation);
        let kept = session.octets_kept();
        assert!(kept <= MOST_KEPT, "{kept} octets are kept");
    }
}

fn put_frame(input: &mut Input<'_>, out: &mut BytesMut) {
    let (kind, flags, stream) = (input.octet() % 12, input.octet(), input.octet() % 16);
    let payload = match kind {
        // Readable header blocks: otherwise few streams would ever be opened.
        frame::HEADERS if flags & frame::PADDED == 0 => {
            let mut block = BytesMut::new();
            let path = String::from_utf8_lossy(input.part()).into_owned();
            let image = ["/runtime.v1.RuntimeService/", "/runtime.v1.ImageService/"];
            let service = image[usize::from(input.octet() & 1)];
            let list = [
                hpack::Header::new(":path", format!("{service}{path}")),
                hpack::Header::new(":status", "200"),
                hpack::Header::new("grpc-timeout", "1S"),
                hpack::Header::new("grpc-status", "0"),
            ];
            let priority = [0; 5];
            if flags & frame::PRIORITY != 0 {
                block.put_slice(&priority);
            }
            hpack::encode(&list, &mut block);
            block.freeze()
        }
        _ => Bytes::copy_from_slice(input.part()),
    };
    frame::put_head(out, payload.len(), kind, flags, u32::from(stream));
    out.put_slice(&payload);
}

/// FuzzHooks answer; refusals and rewrites in turn.
fn answer(session: &mut Session, operation: u8) {
    for hook in std::mem::take(&mut session.hooks) {
        match hook {
            PendingHook::Before(id, _, request) => {
                let before = if operation & 0x80 == 0 {
                    Before::Forward {
                        request: (operation & 0x40 == 0).then_some(request),
                        after: Some(Box::new(Nothing)),
                    }
                } else {
                    Before::Refuse(Status {
                        code: 9,
                        message: "no".to_owned(),
                    })
                };
                session.decided(id, before);
            }
            PendingHook::After(Some(id), ..) => session.committed(id),
            PendingHook::After(None, ..) => {}
        }
    }
}

/// Header blocks of one connection: each is an error or fields that come back when written again, with and
/// without a table.
pub fn header_blocks(script: &[u8]) {
    let mut input = Input(script);
    let mut decoder = Decoder::new(1 << 14);
    decoder.announce(usize::from(input.octet()) << 4);
    let (mut encoder, mut peer) = (Encoder::default(), Decoder::new(1 << 14));
    while !input.0.is_empty() {
        let Ok(list) = decoder.decode(&Bytes::copy_from_slice(input.part())) else {
            return;
        };
        let mut block = BytesMut::new();
        hpack::encode(&list, &mut block);
        let again = Decoder::new(1 << 14).decode(&block.freeze());
        assert_eq!(again.as_ref(), Ok(&list));
        let mut block = BytesMut::new();
        encoder.encode(&list, &mut block);
        assert_eq!(peer.decode(&block.freeze()).as_ref(), Ok(&list));
    }
}

/// Overlays on any body: what was readable still is, with what was asked for.
pub fn overlays(script: &[u8]) {
    let mut input = Input(script);
    let cpus = String::from_utf8_lossy(input.part()).into_owned();
    let original = Bytes::copy_from_slice(input.0);
    let resources = ResourceOverlay {
        cpuset_cpus: Some(cpus.clone()),
        cpu_quota: Some(-1),
        ..ResourceOverlay::default()
    };
    let update = UpdateOverlay {
        resources: resources.clone(),
    };
    let applied = update.apply(&original);
    assert!(applied.starts_with(&original));
    if let Ok(before) = k8s_cri::v1::UpdateContainerResourcesRequest::decode(original.clone()) {
        let after = k8s_cri::v1::UpdateContainerResourcesRequest::decode(applied);
        let mut expected = before;
        let linux = expected.linux.get_or_insert_default();
        linux.cpuset_cpus.clone_from(&cpus);
        linux.cpu_quota = -1;
        assert_eq!(after, Ok(expected));
    }
    for command in [None, Some(vec![cpus.clone()])] {
        let overlay = CreateOverlay {
            resources: resources.clone(),
            command: command.clone(),
            ..CreateOverlay::default()
        };
        let Ok(applied) = overlay.apply(&original) else {
            continue;
        };
        assert!(applied.len() <= original.len() + 3 * cpus.len() + 64);
        let Ok(before) = k8s_cri::v1::CreateContainerRequest::decode(original.clone()) else {
            continue;
        };
        let after = k8s_cri::v1::CreateContainerRequest::decode(applied);
        let mut expected = before;
        let config = expected.config.get_or_insert_default();
        if let Some(command) = command {
            config.command = command;
            config.args.clear();
        }
        let linux = config.linux.get_or_insert_default();
        let linux = linux.resources.get_or_insert_default();
        linux.cpuset_cpus.clone_from(&cpus);
        linux.cpu_quota = -1;
        assert_eq!(after, Ok(expected));
    }
}
