use super::*;
use resmgr_policy::{
    Change, Decision, Placement, PodRef, QosClass, Request, Requirements,
    trace::{self, Line, TraceEvent},
};
use resmgr_topology::MilliCpu;
use std::os::unix::fs::PermissionsExt as _;

const LIMIT: Duration = Duration::from_secs(30);

fn machine() -> Arc<Topology> {
    Arc::new(Topology::synthetic("pack:2 core:2").unwrap())
}

fn asks(id: &str, milli: u32) -> Request {
    Request {
        id: ContainerId(id.into()),
        pod: PodRef {
            sandbox: id.into(),
            uid: id.into(),
            name: id.into(),
            namespace: "default".into(),
        },
        name: id.into(),
        qos: QosClass::Burstable,
        requirements: Requirements {
            cpu_request: MilliCpu(milli),
            ..Requirements::default()
        },
        init: false,
        annotations: std::collections::BTreeMap::new(),
        env: Vec::new(),
        command: Vec::new(),
        args: Vec::new(),
    }
}

/// What is placed after these requests in turn.
fn state(before: &State, requests: &[Request]) -> Arc<State> {
    let mut state = before.clone();
    for request in requests {
        state.apply(&Decision {
            changes: vec![Change {
                id: request.id.clone(),
                request: Some(Arc::new(request.clone())),
                placement: Placement::default(),
                explanation: None,
            }],
            ..Decision::default()
        });
    }
    Arc::new(state)
}

fn none() -> BTreeSet<ContainerId> {
    BTreeSet::new()
}

/// `+id`, `-id`, `machine`, `measured`, in order.
fn told(path: &Path) -> Vec<String> {
    let lines = trace::parse(&std::fs::read_to_string(path).unwrap()).unwrap();
    let word = |line: &Line| match &line.event {
        TraceEvent::Topology { .. } => "machine".to_owned(),
        TraceEvent::Create { request, .. } => format!("+{}", request.id),
        TraceEvent::Exit { id } => format!("-{id}"),
        TraceEvent::Measured { .. } => "measured".to_owned(),
    };
    lines.iter().map(word).collect()
}

#[test]
fn what_comes_and_goes_is_recorded_in_the_order_it_was_placed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("trace");
    std::fs::write(&path, "of an earlier run").unwrap();
    let (machine, empty) = (machine(), State::default());
    let recorder = Recorder::start(&path, &machine).unwrap();
    // The runtime's ids say nothing of the order.
    let two = state(&empty, &[asks("z", 500), asks("a", 500)]);
    recorder.placed(&two, &machine, none());
    recorder.measured(&Arc::default());
    let mut remaining = State::clone(&two);
    remaining.containers.remove(&ContainerId("z".into()));
    recorder.placed(&Arc::new(remaining), &machine, none());
    recorder.stop(LIMIT);
    assert_eq!(told(&path), ["machine", "+z", "+a", "measured", "-z"]);
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn a_reservation_is_recorded_once_it_has_become_a_container() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("trace");
    let (machine, empty) = (machine(), State::default());
    let recorder = Recorder::start(&path, &machine).unwrap();
    let reserved = state(&empty, &[asks("provisional", 500), asks("refused", 500)]);
    let both = reserved.containers.keys().cloned().collect();
    recorder.placed(&reserved, &machine, both);
    // The later one is created first; it was placed second all the same.
    let later = state(&reserved, &[asks("late", 500)]);
    recorder.placed(
        &later,
        &machine,
        reserved.containers.keys().cloned().collect(),
    );
    let mut created = State::clone(&later);
    created.containers.remove(&ContainerId("refused".into()));
    let mut container = created
        .containers
        .remove(&ContainerId("provisional".into()))
        .unwrap();
    Arc::make_mut(&mut container.request).id = ContainerId("real".into());
    created
        .containers
        .insert(container.request.id.clone(), container);
    recorder.placed(&Arc::new(created), &machine, none());
    recorder.stop(LIMIT);
    assert_eq!(told(&path), ["machine", "+real", "+late"]);
}

#[test]
fn a_container_that_asks_for_something_else_is_placed_anew() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("trace");
    let (machine, empty) = (machine(), State::default());
    let recorder = Recorder::start(&path, &machine).unwrap();
    let small = state(&empty, &[asks("a", 500)]);
    recorder.placed(&small, &machine, none());
    recorder.placed(&state(&small, &[asks("a", 900)]), &machine, none());
    recorder.stop(LIMIT);
    assert_eq!(told(&path), ["machine", "+a", "-a", "+a"]);
}

#[test]
fn a_file_begun_anew_can_be_replayed_by_itself() {
    let folder = tempfile::tempdir().unwrap();
    let (path, old) = (folder.path().join("trace"), folder.path().join("trace.1"));
    let (machine, empty) = (machine(), State::default());
    let recorder = Recorder::start(&path, &machine).unwrap();
    let two = state(&empty, &[asks("z", 500), asks("a", 500)]);
    recorder.placed(&two, &machine, none());
    // The file was not moved: nothing is lost.
    recorder.reopen();
    std::fs::rename(&path, &old).unwrap();
    recorder.reopen();
    recorder.placed(&state(&two, &[asks("b", 500)]), &machine, none());
    recorder.stop(LIMIT);
    assert_eq!(told(&old), ["machine", "+z", "+a"]);
    assert_eq!(told(&path), ["machine", "+z", "+a", "+b"]);
}

#[test]
fn a_caller_that_reports_never_waits_and_what_did_not_fit_is_counted() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("pipe");
    nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
    // Opened for reading and never read: the writer is stuck once the pipe is full.
    let reader = std::fs::File::options()
        .read(true)
        .write(true)
        .open(&path)
        .unwrap();
    let recorder = Recorder::start(&path, &machine()).unwrap();
    for _ in 0..8 * QUEUE {
        recorder.measured(&Arc::default());
    }
    assert!(recorder.dropped() > 0);
    drop(reader);
    assert!(std::fs::remove_file(&path).is_ok());
    // With no reader left, the writer's call fails and it goes on.
    recorder.stop(LIMIT);
}

#[test]
fn a_file_that_cannot_be_opened_is_named() {
    let error = Recorder::start(Path::new("/proc/no/such"), &machine()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "cannot open the file to record to, /proc/no/such"
    );
}
