use crate::{
    cri::{
        decode::{Side, all_paths, show},
        shape::{Form, Shape, shape},
    },
    dump::yaml::{Into, Yaml, hide::Hide},
};
use k8s_cri::v1;
use proptest::prelude::*;
use prost::{
    Message as _,
    encoding::{WireType, encode_key, encode_varint},
};

/// Every message that has a shape.
fn shapes() -> Vec<(String, Side, &'static Shape)> {
    let both = all_paths()
        .into_iter()
        .flat_map(|path| [(path.clone(), Side::Request), (path, Side::Reply)]);
    both.filter_map(|(path, side)| Some((path.clone(), side, shape(&path, side)?)))
        .collect()
}

fn straight(shape: &Shape, body: &[u8], secrets: bool) -> Option<String> {
    let mut yaml = Yaml::default();
    yaml.read(shape, body, secrets)?;
    assert_eq!(yaml.container(), None);
    let newlines = memchr::memchr_iter(b'\n', &yaml.text).map(|end| end + 1);
    assert_eq!(yaml.ends, newlines.collect::<Vec<_>>());
    Some(String::from_utf8(yaml.text).unwrap())
}

fn decoded(path: &str, side: Side, body: &[u8], secrets: bool) -> Option<String> {
    let mut yaml = Yaml::default();
    let into = Into {
        yaml: &mut yaml,
        secrets,
    };
    show(path, side, body, into)?;
    Some(String::from_utf8(yaml.text).unwrap())
}

/// Choices that a message is made by.
struct Dice<'a>(std::slice::Iter<'a, u8>);

impl Dice<'_> {
    /// Below `sides`; 0 when there are no more.
    fn roll(&mut self, sides: usize) -> usize {
        usize::from(*self.0.next().unwrap_or(&0)) % sides
    }

    fn text(&mut self) -> &'static [u8] {
        const TEXTS: [&str; 12] = [
            "",
            "a",
            "on",
            "io.kubernetes.pod.uid",
            "TOKEN",
            "key",
            "2",
            "a\nb",
            "\u{fc}\u{7f}",
            "x: y",
            "/p",
            "-",
        ];
        TEXTS[self.roll(TEXTS.len())].as_bytes()
    }

    fn number(&mut self) -> u64 {
        const NUMBERS: [u64; 8] = [
            0,
            1,
            2,
            127,
            1 << 31,
            1 << 32,
            u64::MAX,
            1_732_000_000_123_456_789,
        ];
        NUMBERS[self.roll(NUMBERS.len())]
    }
}

fn put(out: &mut Vec<u8>, number: u8, octets: &[u8]) {
    encode_key(number.into(), WireType::LengthDelimited, out);
    encode_varint(octets.len() as u64, out);
    out.extend_from_slice(octets);
}

/// A message of this shape; with `odd` ones it may have fields that no encoder writes like this.
fn message(shape: &Shape, dice: &mut Dice<'_>, odd: bool) -> Vec<u8> {
    let mut out = Vec::new();
    for _ in 0..dice.roll(9) {
        let field = &shape.fields()[dice.roll(shape.fields().len())];
        match field.form {
            Form::Text | Form::Texts => put(&mut out, field.number, dice.text()),
            Form::Message(shape) | Form::Messages(shape) => {
                let octets = message(shape, dice, odd);
                put(&mut out, field.number, &octets);
            }
            Form::Map => {
                let mut entry = Vec::new();
                for number in [1, 2] {
                    if dice.roll(8) < 7 {
                        put(&mut entry, number, dice.text());
                    }
                }
                put(&mut out, field.number, &entry);
            }
            Form::Bool | Form::Int32 | Form::Int64 | Form::Uint32 | Form::Uint64 => {
                encode_key(field.number.into(), WireType::Varint, &mut out);
                encode_varint(dice.number(), &mut out);
            }
        }
        if odd {
            match dice.roll(40) {
                1 => put(&mut out, 31, b"unknown"),
                2 => put(&mut out, field.number, b"\xff"),
                3 => out.extend_from_slice(&[field.number << 3, 1]),
                4 => out.extend_from_slice(&[field.number << 3 | 5, 1, 2, 3, 4]),
                5 => out.extend_from_slice(&[0xff; 11]),
                6 => out.truncate(out.len() - 1),
                7 => put(
                    &mut out,
                    field.number,
                    &[0x0a, 1, b'n', 0x0a, 1, b'm', 0x18, 1],
                ),
                _ => {}
            }
        }
    }
    out
}

proptest! {
    #[test]
    fn what_is_read_from_the_wire_is_what_its_decoded_form_shows(
        choices in proptest::collection::vec(any::<u8>(), 0..400),
        odd in any::<bool>(),
        secrets in any::<bool>(),
    ) {
        for (path, side, shape) in shapes() {
            let body = message(shape, &mut Dice(choices.iter()), odd);
            if let Some(shown) = straight(shape, &body, secrets) {
                prop_assert_eq!(Some(shown), decoded(&path, side, &body, secrets), "{}", path);
            }
        }
    }

    #[test]
    fn lists_as_they_are_written_are_read_from_the_wire(
        choices in proptest::collection::vec(any::<u8>(), 0..400), secrets in any::<bool>(),
    ) {
        const PATH: &str = "/runtime.v1.RuntimeService/ListContainers";
        let shape = shape(PATH, Side::Reply).unwrap();
        let body = message(shape, &mut Dice(choices.iter()), false);
        let list = v1::ListContainersResponse::decode(body.as_slice()).unwrap();
        let body = list.encode_to_vec();
        let expected = decoded(PATH, Side::Reply, &body, secrets);
        prop_assert_eq!(straight(shape, &body, secrets), expected);
    }

    #[test]
    fn any_octets_are_read_as_they_decode_or_not_at_all(
        body in proptest::collection::vec(any::<u8>(), 0..40),
    ) {
        for (path, side, shape) in shapes() {
            if let Some(shown) = straight(shape, &body, false) {
                prop_assert_eq!(Some(shown), decoded(&path, side, &body, false), "{}", path);
            }
        }
    }
}

#[test]
fn a_container_with_every_field_is_read_from_the_wire() {
    let text = |text: &str| text.to_owned();
    let container = v1::Container {
        id: text("c"),
        pod_sandbox_id: text("p"),
        metadata: Some(v1::ContainerMetadata {
            name: text("db"),
            attempt: 2,
        }),
        image: Some(v1::ImageSpec {
            image: text("i"),
            annotations: [(text("a"), text("secret"))].into(),
            user_specified_image: text("u"),
            runtime_handler: text("h"),
        }),
        image_ref: text("sha256:1"),
        state: 1,
        created_at: -5,
        labels: [(text("b"), text("")), (text("a"), text("1"))].into(),
        annotations: [
            (text("io.kubernetes.container.hash"), text("1")),
            (text("other"), text("secret")),
            (text("empty"), text("")),
        ]
        .into(),
        image_id: text("id"),
    };
    let containers = vec![container, v1::Container::default()];
    let body = v1::ListContainersResponse { containers }.encode_to_vec();
    let path = "/runtime.v1.RuntimeService/ListContainers";
    let shape = shape(path, Side::Reply).unwrap();
    assert_eq!(
        straight(shape, &body, false).unwrap(),
        "containers:\n- annotations:\n    empty: \"\"\n    io.kubernetes.container.hash: \"1\"\n    \
         other: \"(hidden)\"\n  created_at: -5\n  id: c\n  image:\n    annotations:\n      a: \"(hidden)\"\n    \
         image: i\n    runtime_handler: h\n    user_specified_image: u\n  image_id: id\n  \
         image_ref: \"sha256:1\"\n  labels:\n    a: \"1\"\n    b: \"\"\n  metadata:\n    attempt: 2\n    \
         name: db\n  pod_sandbox_id: p\n  state: 1\n- {}\n"
    );
    for secrets in [false, true] {
        let expected = decoded(path, Side::Reply, &body, secrets);
        assert_eq!(straight(shape, &body, secrets), expected);
    }
}

/// Fields whose names tell that they hold secrets are maps here: the only form that hides.
#[test]
fn no_shape_has_a_field_that_would_have_to_be_hidden_in_another_way() {
    fn judge(shape: &Shape) {
        for field in shape.fields() {
            match (field.form, Hide::Search.field(field.name)) {
                (_, Hide::Search) | (Form::Map, Hide::Entries(_)) => {}
                other => panic!("{field:?}: {other:?}"),
            }
            if let Form::Message(below) | Form::Messages(below) = field.form {
                judge(below);
            }
        }
    }
    for (path, _, shape) in shapes() {
        judge(shape);
        let about = |name| shape.fields().iter().any(|field| field.name == name);
        assert!(
            !about("container_id") && !about("status"),
            "{path}: says who it is about"
        );
    }
}
