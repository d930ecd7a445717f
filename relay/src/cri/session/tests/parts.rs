//! Tables of frames in and frames out of each part of a session.

use crate::cri::{
    frame::{self, Head},
    held::{HeldBudget, HeldUse},
    options::ServerOptions,
    route::Route,
    session::{
        error::ConnectionError,
        flow::FlowControl,
        headers::HeaderBlocks,
        next_frame,
        notation::{Wire, assert_table, read, sender, show_error, value},
        number,
        output::FrameOutput,
        pings::Pings,
        settings::SettingsExchange,
        streams::{Stream, Streams},
        unsent::Unsent,
    },
    shared::ConnectionContext,
};
use bytes::{Bytes, BytesMut};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};

/// What a part sends, and what else it says.
fn outcome<T>(
    wire: &mut Wire,
    out: &mut FrameOutput,
    result: Result<T, ConnectionError>,
    say: impl FnOnce(T) -> Option<String>,
) -> Vec<String> {
    let mut lines = wire.sent(out);
    lines.extend(result.map_or_else(|error| Some(show_error(&error)), say));
    lines
}

fn budget() -> Arc<HeldBudget> {
    let shared = ConnectionContext::for_tests(ServerOptions::default());
    HeldBudget::new(&Arc::new(shared), HeldUse::Requests)
}

fn frame(line: &str) -> (Head, Bytes) {
    let frame = next_frame(&mut read(line), 1 << 24).unwrap();
    frame.expect("a line is a whole frame")
}

/// A line that ends with `times=N` is played so often; what the last time brings is shown.
fn repeated(line: &str) -> (Option<Route>, &str, usize) {
    let (route, line) = sender(line).expect("a line has a sender");
    let (line, times) = line.split_once(" times=").unwrap_or((line, "1"));
    (route, line, times.parse().unwrap())
}

fn stream(route: Route, send_window: i64, recv_window: i64) -> Stream {
    Stream {
        received: Instant::now(),
        deadline: None,
        route,
        endless: false,
        client_done: false,
        replied: false,
        send_window,
        recv_window,
        opened: true,
        unsent: Unsent::default(),
        header_octets: 0,
        intercepted: None,
        tap: None,
    }
}

#[test]
fn settings() {
    assert_table("settings.txt", || {
        let (mut out, mut wire) = (FrameOutput::default(), Wire::default());
        let mut settings = SettingsExchange::new(&ServerOptions::default(), &mut out);
        drop(wire.sent(&mut out));
        move |line| {
            let (route, line, times) = repeated(line);
            let mut change = Ok(None);
            for _ in 0..times {
                drop(wire.sent(&mut out));
                change = match (route, line) {
                    (Some(route), "connected") => {
                        settings.connected(route, &mut out);
                        out.upstream(route).connected = true;
                        Ok(None)
                    }
                    (Some(route), "lost") => {
                        *out.upstream(route) = Default::default();
                        settings.upstream_lost(route, &mut out);
                        Ok(None)
                    }
                    (Some(route), line) => {
                        let (head, octets) = frame(line);
                        let payload = &octets[frame::HEAD..];
                        settings.receive_from_upstream(route, head, payload, &mut out)
                    }
                    (None, line) => {
                        let (head, octets) = frame(line);
                        let payload = &octets[frame::HEAD..];
                        let received = settings.receive_from_client(head, payload, &mut out);
                        received.map(|()| None)
                    }
                };
            }
            outcome(&mut wire, &mut out, change, |change| {
                let change = change.filter(|change| (change.send, change.recv) != (0, 0))?;
                let (send, recv) = (change.send, change.recv);
                Some(format!(
                    "windows of open streams: send {send:+}, recv {recv:+}"
                ))
            })
        }
    });
}

#[test]
fn pings() {
    assert_table("pings.txt", || {
        let (mut out, mut wire) = (FrameOutput::default(), Wire::default());
        let mut pings = Pings::default();
        move |line| {
            let (route, line, times) = repeated(line);
            let mut taken = Ok(());
            for _ in 0..times {
                drop(wire.sent(&mut out));
                taken = match (route, line) {
                    (Some(route), "connected") => {
                        out.upstream(route).connected = true;
                        Ok(())
                    }
                    (Some(route), "lost") => {
                        *out.upstream(route) = Default::default();
                        pings.upstream_lost(route, &mut out);
                        Ok(())
                    }
                    (route, line) => {
                        let (head, octets) = frame(line);
                        let payload = &octets[frame::HEAD..];
                        match route {
                            Some(route) => {
                                pings.receive_from_upstream(route, head, payload, &mut out)
                            }
                            None => {
                                let mut routes = Route::ALL.into_iter();
                                let route = routes.find(|route| out.is_connected(*route));
                                pings.receive_from_client(head, payload, route, &mut out)
                            }
                        }
                    }
                };
            }
            outcome(&mut wire, &mut out, taken, |()| None)
        }
    });
}

#[test]
fn flow() {
    assert_table("flow.txt", || {
        let (mut out, mut wire) = (FrameOutput::default(), Wire::default());
        let mut flow = FlowControl::new(&Route::ALL, 1 << 20);
        let budget = budget();
        let mut streams = Streams::default();
        let mut windows = flow.show();
        move |line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            let id = value(&words, "stream").unwrap_or(0);
            let mut taken = Ok(());
            match (words[0], words[1], sender(line)) {
                ("relay:", "opens", _) => {
                    let route = match words[2] {
                        "runtime" => Route::Runtime,
                        _ => Route::Image,
                    };
                    let send = value(&words, "send_window").unwrap();
                    let recv = value(&words, "recv_window").unwrap();
                    streams.insert(id, stream(route, send, recv));
                }
                ("relay:", "drops", _) => {
                    let stream = streams.remove(id).expect("the stream is open");
                    flow.drop_request(id, &stream, &mut out);
                    flow.drop_reply(id, &mut out);
                }
                (_, "connected", Some((Some(route), _))) => {
                    out.upstream(route).connected = true;
                    flow.open_calls(route, &mut streams, &mut out);
                    flow.grant_upstreams(&mut out);
                }
                (_, "lost", Some((Some(route), _))) => {
                    for id in streams.select(|stream| stream.route == route) {
                        streams.remove(id);
                    }
                    *out.upstream(route) = Default::default();
                    flow.upstream_lost(route, &mut out);
                }
                (_, "DATA", Some((None, line))) => {
                    let (head, octets) = frame(line);
                    taken = flow.receive_from_client(head.len);
                    let stream = streams.get_mut(id).expect("the stream is open");
                    stream.receive_from_client(head.len);
                    let content = &octets[frame::HEAD..];
                    let sent =
                        flow.send_to_upstream(id, stream, &octets, content, &budget, &mut out);
                    sent.expect("the budget is large");
                }
                (_, "DATA", Some((Some(route), line))) => {
                    let (head, octets) = frame(line);
                    taken = flow.receive_from_upstream(route, head.len);
                    flow.send_to_client(id, &octets, &mut out);
                }
                (_, "WINDOW_UPDATE", Some((None, line))) => {
                    let (_, octets) = frame(line);
                    taken = flow.window_update_from_client(number(&octets), &mut out);
                }
                (_, "WINDOW_UPDATE", Some((Some(route), line))) => {
                    let (_, octets) = frame(line);
                    if let Some(stream) = streams.on_route(id, route) {
                        stream.send_window += i64::from(number(&octets));
                        flow.send_unsent(id, stream, &mut out);
                    } else {
                        taken = flow.window_update_from_upstream(route, number(&octets));
                    }
                    flow.resume_upstream(route, &mut streams, &mut out);
                    if let Some(stream) = streams.get_mut(id) {
                        stream.grant_client(id, &mut out);
                    } else {
                        flow.grant_client(&mut out);
                    }
                }
                _ => panic!("{line}"),
            }
            let mut lines = outcome(&mut wire, &mut out, taken, |()| None);
            let now = flow.show();
            if now != windows {
                lines.push(now.clone());
                windows = now;
            }
            lines
        }
    });
}

#[test]
fn streams() {
    assert_table("streams.txt", || {
        let (mut out, mut wire) = (FrameOutput::default(), Wire::default());
        let mut streams = Streams::default();
        let start = Instant::now();
        move |line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            let id = value(&words, "stream").unwrap_or(0);
            let mut says = None;
            match (words[0], words[1]) {
                ("client>", "opens") => {
                    let idle = streams.is_idle(id);
                    let accepted = idle && streams.accept(id);
                    if accepted {
                        let mut stream = stream(Route::Runtime, 0, 0);
                        stream.received = start;
                        let deadline = value(&words, "deadline_s").map(Duration::from_secs);
                        stream.deadline = deadline.map(|deadline| start + deadline);
                        streams.insert(id, stream);
                    }
                    says = Some(match (idle, accepted) {
                        (false, _) => "not idle",
                        (_, false) => "not served",
                        _ => "open",
                    });
                }
                ("relay:", "closes") => drop(streams.remove(id)),
                ("relay:", "announce_end") => streams.announce_end("shutdown", &mut out),
                ("relay:", "close_intake") => streams.close_intake(&mut out),
                ("runtime>", "lost") => streams.close_announced_intake(&mut out),
                ("runtime>", "GOAWAY") => {
                    let last = value(&words, "last").unwrap();
                    streams.pass_on_goaway(last, frame::NO_ERROR, "maintenance", &mut out);
                }
                ("relay:", "due") => {
                    let after = Duration::from_secs(value(&words, "after_s").unwrap());
                    let due = streams.due(Route::Runtime, start + after, &ServerOptions::default());
                    return vec![format!("relay: due {due:?}")];
                }
                _ => panic!("{line}"),
            }
            let mut lines = wire.sent(&mut out);
            lines.extend(says.map(|says| format!("relay: stream {id} is {says}")));
            if streams.finished() {
                lines.push("relay: finished".to_owned());
            }
            lines
        }
    });
}

#[test]
fn headers() {
    assert_table("headers.txt", || {
        let mut headers = HeaderBlocks::new(&ServerOptions {
            max_header_list_bytes: 100,
            max_continuations: 10,
            ..ServerOptions::default()
        });
        move |line| {
            let (_, line) = sender(line).expect("a line has a sender");
            let mut input: BytesMut = read(line);
            let mut lines = Vec::new();
            while let Some((head, octets)) = next_frame(&mut input, 1 << 14).unwrap() {
                let received = headers.check_order(head).and_then(|()| match head.kind {
                    frame::HEADERS | frame::CONTINUATION => headers.receive(head, &octets),
                    _ => Ok(None),
                });
                match received {
                    Ok(None) => {}
                    Ok(Some(received)) => {
                        let fields = received.list.iter().map(|field| {
                            let [name, value] = [&field.name, &field.value]
                                .map(|text| String::from_utf8_lossy(text));
                            format!(" {name}={value}")
                        });
                        let end = if received.end_stream {
                            " end_stream"
                        } else {
                            ""
                        };
                        let (id, fields) = (received.stream, fields.collect::<String>());
                        lines.push(format!("relay: block of stream {id}{end}{fields}"));
                    }
                    Err(error) => {
                        lines.push(show_error(&error));
                        break;
                    }
                }
            }
            lines
        }
    });
}
