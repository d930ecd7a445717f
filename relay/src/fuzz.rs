//! What is fuzzed: by libFuzzer (`cargo xtask fuzz`) and, briefly and always alike, by `tests/fuzz.rs`.
//!
//! Each target takes any octets and must neither panic, nor hang, nor keep much more than it was given.

use crate::{
    cli,
    config::{Config, Document, Machine, Raw, pools, resolve, resources},
    cri::{
        fuzz as cri,
        schema::{Side, message_type, paths},
    },
    dump::{Message, rule::DumpRules},
    values,
};
use resmgr_topology::Topology;
use std::{io, path::Path};

/// Something that reads what others write.
#[derive(Clone, Copy, Debug)]
pub struct FuzzTarget {
    /// Its name, as `cargo xtask fuzz` knows it.
    pub name: &'static str,
    /// Reads any octets.
    pub run: fn(&[u8]),
    /// Inputs that are well formed, to begin with.
    pub seeds: &'static [&'static [u8]],
}

/// Everything that is fuzzed.
pub const TARGETS: &[FuzzTarget] = &[
    FuzzTarget {
        name: "frames",
        run: cri::frames,
        seeds: &[
            // Connect; open a call and send its message; the runtime replies; it is lost.
            b"\x0c\x02\x04\x00\x00\x00\x02\x01\x04\x01\x01x\x00\x04\x00\x01\x01\x07\x00\x00\x00\x00\x02hi\
              \x08\x01\x04\x01\x01x\x00\x0c",
            // The same for a held call, in two pieces.
            b"\x0c\x02\x01\x04\x01\x01h\x00\x04\x00\x00\x01\x03\x00\x00\x00\x04\x00\x01\x01\x04\x00\x02hi\
              \x08\x00\x00\x01\x05\x00\x00\x00\x00\x00\x08\x01\x05\x01\x01h\x00",
            // Two sockets, windows, a ping and a goodbye.
            b"\x0c\x0d\x02\x01\x04\x03\x01y\x01\x02\x08\x00\x00\x04\x00\x00\xff\xff\x02\x06\x00\x00\x08pingping\
              \x09\x07\x00\x00\x08\x00\x00\x00\x01\x00\x00\x00\x00",
        ],
    },
    FuzzTarget {
        name: "hpack",
        run: cri::header_blocks,
        seeds: &[
            b"\x10\x0b\x82\x86\x84\x41\x8c\xf1\xe3\xc2\xe5\xf2\x3a",
            b"\x00\x0d\x40\x0acustom-key\x01v\x02\xbe\x3f\x01\xbe",
        ],
    },
    FuzzTarget {
        name: "messages",
        run: messages,
        seeds: &[
            b"\x0b\x0a\x03pod\x12\x16\x0a\x06\x0a\x04main\x12\x03\x0a\x01i\x1a\x02sh\x32\x06\x0a\x01A\x12\x01b",
            b"\x2a\x0a\x010\x12\x01n\x1a\x011\x22\x01v",
        ],
    },
    FuzzTarget {
        name: "overlay",
        run: cri::overlays,
        seeds: &[
            b"\x030-1\x0a\x03pod\x12\x0f\x1a\x02sh\x22\x01c\x7a\x06\x0a\x04\x08\x01\x32\x00",
            b"\x000\x0a\x02id\x12\x04\x10\x07\x32\x00",
        ],
    },
    FuzzTarget {
        name: "dump_spec",
        run: dump_spec,
        seeds: &[
            b"reset,full:.*",
            b"off:.*, name:(Run|Stop)PodSandbox,full:Cre{1\\,2}ate,count:*,on",
        ],
    },
    FuzzTarget {
        name: "option_file",
        run: option_file,
        seeds: &[
            b"policy = static\nreserved-resources = cpu=1000m\n# comment\nrestore-on-stop\n",
            b"logger\n  debug = *\ndump=reset,full:.*\ndump-format = json\ndrain-timeout=5s\n",
        ],
    },
    FuzzTarget {
        name: "config_document",
        run: config_document,
        seeds: &[
            b"kind: ConfigMap\ndata:\n  policy: |\n    Active: static\n    ReservedResources:\n      CPU: 1000m\n",
            b"policy.stp: |\n  pools:\n    exclusive:\n      cpuLists:\n      - Cpuset: 2-3\ndump: |\n  Config: full:.*\n",
        ],
    },
    FuzzTarget {
        name: "pools_file",
        run: pools_file,
        seeds: &[
            b"pools:\n  exclusive:\n    exclusive: true\n    cpuLists:\n    - Cpuset: 2,3\n      containers: []\n",
            b"labelNode: false\ntaintNode: false\npools:\n  shared:\n    exclusive: false\n    cpuLists:\n    - Cpuset: 0-1\n",
        ],
    },
    FuzzTarget {
        name: "values",
        run: any_value,
        seeds: &[b"cpu=1500m,memory=1Gi", b"0-3,8", b"1h2m3s"],
    },
];

/// As text: what is no UTF-8 never gets to these readers.
fn text(octets: &[u8]) -> Option<&str> {
    std::str::from_utf8(octets).ok()
}

/// A message body of any method.
fn messages(octets: &[u8]) {
    let (first, body) = octets.split_first().unwrap_or((&0, &[]));
    let Some(path) = paths().nth(usize::from(*first) % paths().len()) else {
        return;
    };
    for side in [Side::Request, Side::Reply] {
        if let Some(message_type) = message_type(&path, side) {
            drop(serde_json::to_value(Message::new(
                message_type,
                body,
                false,
            )));
        }
    }
}

fn dump_spec(octets: &[u8]) {
    let Some(spec) = text(octets) else { return };
    let mut rules = DumpRules::default();
    if let Err(error) = rules.add(spec) {
        assert!(error.column <= spec.chars().count() + 1, "{error}");
    }
    let _target = rules.target("CreateContainer");
}

fn no_cgroup(_path: &Path) -> io::Result<String> {
    Ok("0-3".to_owned())
}

fn machine(topology: &Topology) -> Machine<'_> {
    Machine {
        topology,
        cgroup_cpus: &no_cgroup,
    }
}

fn topology() -> Topology {
    Topology::synthetic("pack:2 numa:1 core:2 pu:2").expect("the description is legal")
}

fn option_file(octets: &[u8]) {
    let Some(file) = text(octets) else { return };
    let argv = ["cri-resmgr", "--config", "file"].map(Into::into);
    let read = |path: &Path| match path.to_str() {
        Some("file") => Ok(file.to_owned()),
        _ => Err(io::ErrorKind::NotFound.into()),
    };
    if let Ok(invocation) = cli::parse_with(argv, &read) {
        drop(resolve(&invocation.raw, machine(&topology())));
    }
}

fn start(topology: &Topology) -> Option<Config> {
    resolve(&Raw::default(), machine(topology)).ok()
}

fn config_document(octets: &[u8]) {
    let Some(file) = text(octets) else { return };
    let topology = topology();
    let Ok(document) = Document::from_file(file, "file") else {
        return;
    };
    if let Some(start) = start(&topology) {
        drop(crate::config::overlay(
            &start,
            &document,
            "node",
            machine(&topology),
        ));
    }
}

fn pools_file(octets: &[u8]) {
    let Some(file) = text(octets) else { return };
    drop(pools::from_yaml(file, Path::new("file"), &topology()));
}

fn any_value(octets: &[u8]) {
    let Some(value) = text(octets) else { return };
    drop(values::boolean(value));
    drop(values::duration(value));
    drop(values::address(value));
    drop(values::socket(value));
    drop(resources::cpu(value));
    drop(value.parse::<resmgr_policy::Quantity>());
    drop(value.parse::<resmgr_topology::CpuSet>());
}
