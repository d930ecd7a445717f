//! Frames as lines of text, for the tables of what goes in and what comes out.
//!
//! ```text
//! SETTINGS max_concurrent=100 initial_window=65535      PING 7               WINDOW_UPDATE stream=1 1000
//! SETTINGS ack                                       PING ack 7           RST_STREAM stream=1 CANCEL
//! HEADERS stream=1 end_stream :path=/a.b/C           DATA stream=1 octets=10
//! HEADERS stream=1 frames=2 :path=/a.b/C             DATA stream=1 end_stream message=hello
//! GOAWAY last=5 NO_ERROR text to the end             KIND 12 stream=1 flags=1 octets=4 of=255
//! PREFACE                                            OCTETS that are no frame
//! ```
//!
//! `client>`, `runtime>` and `image>` are frames that the relay receives, `client<` and so on those it sends.

use super::{error::ConnectionError, output::FrameOutput};
use crate::cri::{
    frame::{self, Head},
    hpack::{self, Decoder, Header},
    route::Route,
    tap::{as_message, only_message},
};
use bytes::{Buf, Bytes, BytesMut};

const SETTINGS: [(&str, u16); 6] = [
    ("header_table", 1),
    ("push", 2),
    ("max_concurrent", 3),
    ("initial_window", 4),
    ("max_frame", 5),
    ("max_header_list", 6),
];
const CODES: [(&str, u32); 9] = [
    ("NO_ERROR", frame::NO_ERROR),
    ("PROTOCOL_ERROR", frame::PROTOCOL_ERROR),
    ("FLOW_CONTROL_ERROR", frame::FLOW_CONTROL_ERROR),
    ("STREAM_CLOSED", frame::STREAM_CLOSED),
    ("FRAME_SIZE_ERROR", frame::FRAME_SIZE_ERROR),
    ("REFUSED_STREAM", frame::REFUSED_STREAM),
    ("CANCEL", frame::CANCEL),
    ("COMPRESSION_ERROR", frame::COMPRESSION_ERROR),
    ("ENHANCE_YOUR_CALM", frame::ENHANCE_YOUR_CALM),
];

fn code_name(code: u32) -> String {
    let name = CODES.iter().find(|(_, known)| *known == code);
    name.map_or_else(|| code.to_string(), |(name, _)| (*name).to_owned())
}

/// A connection error as text.
pub(super) fn show_error(error: &ConnectionError) -> String {
    let code = code_name(error.code);
    format!("relay: connection error {code} {}", error.text)
}

/// The sender of a frame, without a route the client, and the frame.
pub(super) fn sender(line: &str) -> Option<(Option<Route>, &str)> {
    let (sender, frame) = line.split_once("> ")?;
    let route = match sender {
        "client" => None,
        "runtime" => Some(Route::Runtime),
        "image" => Some(Route::Image),
        _ => return None,
    };
    Some((route, frame))
}

/// Reads what the relay sends to each side.
#[derive(Debug)]
pub(super) struct Wire {
    /// The compression tables of the client and of the sockets.
    headers: [Decoder; 3],
}

impl Default for Wire {
    fn default() -> Self {
        Self {
            headers: [(); 3].map(|()| Decoder::new(1 << 16)),
        }
    }
}

impl Wire {
    /// What is to be sent, as text.
    pub(super) fn sent(&mut self, out: &mut FrameOutput) -> Vec<String> {
        let [client, runtime, image] = &mut self.headers;
        let mut lines = Vec::new();
        let mut add = |name, octets: &mut BytesMut, headers| {
            let frames = write(octets, headers).into_iter();
            lines.extend(frames.map(|frame| format!("{name}< {frame}")));
        };
        add("client", &mut out.client, client);
        add("runtime", &mut out.upstream(Route::Runtime).octets, runtime);
        add("image", &mut out.upstream(Route::Image).octets, image);
        lines
    }

    /// The next connection to a socket has a table of its own.
    pub(super) fn lost(&mut self, route: Route) {
        self.headers[1 + route.index()] = Decoder::new(1 << 16);
    }
}

fn code(name: &str) -> u32 {
    let code = CODES.iter().find(|(known, _)| *known == name);
    code.unwrap_or_else(|| panic!("{name} is no error code")).1
}

/// The value of `key=value` among `words`.
pub(super) fn value<T: std::str::FromStr>(words: &[&str], key: &str) -> Option<T> {
    let text = words
        .iter()
        .find_map(|word| word.strip_prefix(key)?.strip_prefix('='))?;
    let value = text.parse().ok();
    Some(value.unwrap_or_else(|| panic!("{key}={text} cannot be read")))
}

/// The octets of a frame that is written as text.
pub(super) fn read(line: &str) -> BytesMut {
    let mut out = BytesMut::new();
    let words: Vec<&str> = line.split_whitespace().collect();
    let (kind, words) = words.split_first().expect("a line names a frame");
    let has = |flag: &str| words.contains(&flag);
    let stream = value(words, "stream").unwrap_or(0);
    let end = has("end_stream");
    let flags = if end { frame::END_STREAM } else { 0 };
    let number = || words.last().and_then(|word| word.parse::<u64>().ok());
    match *kind {
        "PREFACE" => out.extend_from_slice(frame::PREFACE),
        "OCTETS" => out.extend_from_slice(&line.as_bytes()["OCTETS ".len()..]),
        "SETTINGS" if has("ack") => frame::put_head(&mut out, 0, frame::SETTINGS, frame::ACK, 0),
        "SETTINGS" => {
            let list = SETTINGS
                .iter()
                .filter_map(|(name, key)| Some((*key, value(words, name)?)));
            frame::put_settings(&mut out, list);
        }
        "PING" => {
            let flags = if has("ack") { frame::ACK } else { 0 };
            let number = number().expect("a PING has a number");
            frame::put_ping(&mut out, flags, number.to_be_bytes());
        }
        "WINDOW_UPDATE" => {
            let octets = number().expect("a WINDOW_UPDATE has a number");
            frame::put_window_update(&mut out, stream, usize::try_from(octets).unwrap());
        }
        "RST_STREAM" => frame::put_reset(&mut out, stream, code(words[words.len() - 1])),
        "GOAWAY" => {
            let last = value(words, "last").expect("a GOAWAY has a last stream");
            frame::put_goaway(&mut out, last, code(words[1]), &words[2..].join(" "));
        }
        "DATA" => {
            let payload = match value::<usize>(words, "octets") {
                Some(octets) => Bytes::from(vec![0xff; octets]),
                None => {
                    let body: String = value(words, "message").unwrap_or_default();
                    as_message(body.as_bytes()).unwrap()
                }
            };
            frame::put_head(&mut out, payload.len(), frame::DATA, flags, stream);
            out.extend_from_slice(&payload);
        }
        "HEADERS" => {
            let fields = words.iter().filter_map(|word| {
                let (name, value) = word.rsplit_once('=')?;
                let known = ["stream", "frames", "open"].contains(&name);
                (!known).then(|| Header {
                    name: Bytes::copy_from_slice(name.as_bytes()),
                    value: Bytes::copy_from_slice(value.as_bytes()),
                    sensitive: false,
                })
            });
            let mut block = BytesMut::new();
            hpack::encode(&fields.collect::<Vec<_>>(), &mut block);
            let frames = value(words, "frames").unwrap_or(1);
            let part = block.len().div_ceil(frames).max(1);
            frame::put_block(&mut out, stream, &block, end, part);
            if value::<u8>(words, "open").is_some() {
                // Its END_HEADERS is missing.
                out[4] &= !frame::END_HEADERS;
            }
        }
        "KIND" => {
            let octets = value(words, "octets").unwrap_or(0);
            let flags = value(words, "flags").unwrap_or(0);
            frame::put_head(&mut out, octets, words[0].parse().unwrap(), flags, stream);
            out.resize(frame::HEAD + octets, value(words, "of").unwrap_or(0));
        }
        kind => panic!("{kind} is no frame"),
    }
    out
}

/// Takes whole frames off `octets` and writes them as text; `headers` is the table of their reader.
fn write(octets: &mut BytesMut, headers: &mut Decoder) -> Vec<String> {
    let mut lines = Vec::new();
    if octets.starts_with(frame::PREFACE) {
        octets.advance(frame::PREFACE.len());
        lines.push("PREFACE".to_owned());
    }
    while !octets.is_empty() {
        let head = Head::read(octets).expect("whole frames come out");
        let payload = octets
            .split_to(frame::HEAD + head.len)
            .freeze()
            .slice(frame::HEAD..);
        let mut line = write_frame(head, &payload);
        if head.kind == frame::HEADERS {
            let (mut block, mut frames, mut last) = (BytesMut::from(&payload[..]), 1, head);
            while !last.has(frame::END_HEADERS) {
                last = Head::read(octets).expect("a header block ends");
                assert_eq!((last.kind, last.stream), (frame::CONTINUATION, head.stream));
                octets.advance(frame::HEAD);
                block.extend_from_slice(&octets.split_to(last.len));
                frames += 1;
            }
            if frames > 1 {
                line += &format!(" frames={frames}");
            }
            for field in headers.decode(&block.freeze()).expect("a block is valid") {
                let [name, value] =
                    [&field.name, &field.value].map(|text| String::from_utf8_lossy(text));
                line += &format!(" {name}={value}");
            }
        }
        lines.push(line);
    }
    lines
}

fn write_frame(head: Head, payload: &Bytes) -> String {
    let word = |at: usize| u32::from_be_bytes(payload[at..at + 4].try_into().unwrap());
    let ack = if head.has(frame::ACK) { " ack" } else { "" };
    let stream = match head.stream {
        0 => String::new(),
        stream => format!(" stream={stream}"),
    };
    let end = match head.kind {
        frame::DATA | frame::HEADERS if head.has(frame::END_STREAM) => " end_stream",
        _ => "",
    };
    match head.kind {
        frame::SETTINGS => {
            let list = frame::settings(payload).map(|(key, value)| {
                let name = SETTINGS.iter().find(|(_, known)| *known == key);
                format!(" {}={value}", name.map_or("?", |(name, _)| name))
            });
            format!("SETTINGS{ack}{}", list.collect::<String>())
        }
        frame::PING => format!(
            "PING{ack} {}",
            u64::from_be_bytes(payload[..].try_into().unwrap())
        ),
        frame::WINDOW_UPDATE => format!("WINDOW_UPDATE{stream} {}", word(0)),
        frame::RST_STREAM => format!("RST_STREAM{stream} {}", code_name(word(0))),
        frame::GOAWAY => {
            let text = String::from_utf8_lossy(&payload[8..]);
            format!("GOAWAY last={} {} {text}", word(0), code_name(word(4)))
                .trim_end()
                .to_owned()
        }
        frame::DATA => match only_message(payload) {
            Some(body) => {
                let body = String::from_utf8_lossy(&body);
                format!("DATA{stream}{end} message={body}")
            }
            None => format!("DATA{stream}{end} octets={}", head.len),
        },
        frame::HEADERS => format!("HEADERS{stream}{end}"),
        kind => format!("KIND {kind}{stream} octets={}", head.len),
    }
}

/// Plays every case of the table in `file` and compares what comes out with what stands there.
///
/// A case has a heading of one line that begins with `#`. A line is played by the function that `start` returns for its
/// case; what that function returns is written, indented, behind the line.
pub(super) fn assert_table<P: FnMut(&str) -> Vec<String>>(file: &str, start: impl Fn() -> P) {
    let file = format!("src/cri/session/tables/{file}");
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(&file);
    let table = std::fs::read_to_string(path).unwrap();
    let (mut played, mut play) = (String::new(), start());
    for line in table.lines() {
        if line.starts_with("  ") {
            continue;
        }
        played += &format!("{line}\n");
        if line.starts_with('#') {
            play = start();
        } else if !line.is_empty() {
            for out in play(line) {
                played += &format!("  {}\n", out.trim_end());
            }
        }
    }
    crate::golden::assert_golden(&played, &file);
}
