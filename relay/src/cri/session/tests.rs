use super::*;
use crate::cri::{options::Options, outage::Outages, route::Upstreams};
use proptest::{collection as several, prelude::*};

fn session() -> Session {
    Session::new(Arc::new(Shared {
        upstreams: Upstreams {
            runtime: Some("/run/runtime".into()),
            image: Some("/run/images".into()),
        },
        options: Options::default(),
        interceptor: None,
        observers: Vec::new(),
        seq: std::sync::atomic::AtomicU64::new(1),
        outages: Outages::default(),
    }))
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
