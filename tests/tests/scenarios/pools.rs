//! `static-pools`: pools `exclusive` (socket 0: `0,1` and `2,3`; socket 1: `8,9`), `shared` (`4-6,7`) and
//! `infra` (`10-15`).

use super::stage::{Stage, best_effort, burstable, guaranteed};

const POOLS: &str = "pools:
  exclusive:
    exclusive: true
    cpuLists:
    - {Socket: 0, Cpuset: \"0,1\"}
    - {Socket: 0, Cpuset: \"2,3\"}
    - {Socket: 1, Cpuset: \"8,9\"}
  shared:
    cpuLists: [{Socket: 0, Cpuset: \"4-6,7\"}]
  infra:
    cpuLists: [{Socket: 1, Cpuset: \"10-15\"}]
";

async fn relay(stage: &mut Stage) {
    let file = stage.runtime.folder().join("pools.yaml");
    std::fs::write(&file, POOLS).unwrap();
    let file = file.display().to_string();
    let arguments = [
        "--policy",
        "static-pools",
        "--static-pools-conf-file",
        &file,
    ];
    stage.relay(&arguments).await;
}

/// One core on socket 1, two on socket 0; then all three by three pods, with a socket and without.
pub(crate) async fn exclusive_lists_by_number_and_socket(stage: &mut Stage) {
    relay(stage).await;
    let one = best_effort("one").pool("exclusive").cores(1);
    let one = stage.run(&one.env("STP_SOCKET_ID", "1")).await;
    stage.on(&one, "8-9").await;
    let two = best_effort("two").pool("exclusive").cores(2);
    let two = stage.run(&two.env("STP_SOCKET_ID", "0")).await;
    stage.on(&two, "0-3").await;
    for id in [one, two] {
        stage.end(&id).await;
    }
    for sockets in [[None; 3], [Some("1"), Some("0"), Some("0")]] {
        let wanted = match sockets {
            [None, ..] => ["0-1", "2-3", "8-9"],
            _ => ["8-9", "0-1", "2-3"],
        };
        let mut ids = Vec::new();
        for (socket, wanted) in sockets.into_iter().zip(wanted) {
            let mut who = guaranteed(wanted, 1).pool("exclusive").cores(1);
            if let Some(socket) = socket {
                who = who.env("STP_SOCKET_ID", socket);
            }
            let id = stage.run(&who).await;
            stage.on(&id, wanted).await;
            ids.push(id);
        }
        for id in ids {
            stage.end(&id).await;
        }
    }
}

/// Whatever they request, pods without a word about pools share one; `infra` knows no socket.
pub(crate) async fn the_rest_is_in_the_shared_pool(stage: &mut Stage) {
    relay(stage).await;
    for who in [
        guaranteed("large", 4),
        burstable("some", 2500),
        best_effort("none"),
    ] {
        let id = stage.run(&who).await;
        stage.on(&id, "4-7").await;
    }
    let infra = best_effort("infra").pool("infra").env("STP_SOCKET_ID", "0");
    let infra = stage.run(&infra).await;
    stage.on(&infra, "10-15").await;
}

/// The image has no `cmk`: its words are read, not run.
pub(crate) async fn cmk_isolate_in_every_place(stage: &mut Stage) {
    relay(stage).await;
    let sleep = ["/bin/sleep", "1000000"];
    let line = "cmk isolate --conf-dir=/etc/cmk --pool=exclusive --socket-id=1";
    let words: Vec<&str> = line.split(' ').chain(sleep).collect();
    let shell = "cmk isolate --pool=infra /bin/sleep 1000000";
    let shell_as = ["/bin/sh", "-c", "/bin/sleep 1000000"];
    let cases = [
        (best_effort("command").command(&words).cores(1), "8-9"),
        (
            best_effort("shell").command(&["/bin/sh", "-c", shell]),
            "10-15",
        ),
        (
            best_effort("shell-args")
                .command(&["/bin/sh", "-c"])
                .args(&[shell]),
            "10-15",
        ),
        (
            best_effort("args").command(&["/opt/bin/cmk"]).args(&[
                "isolate",
                "--pool=infra",
                "--",
                "/bin/sleep",
                "1000000",
            ]),
            "10-15",
        ),
        (
            best_effort("only-args").command(&[]).args(&[
                "cmk",
                "isolate",
                "--pool",
                "infra",
                "/bin/sleep",
                "1000000",
            ]),
            "10-15",
        ),
    ];
    for (who, wanted) in cases {
        let id = stage.run(&who).await;
        stage.on(&id, wanted).await;
        stage
            .tells(&id, "cmdline", |runs| runs == sleep || runs == shell_as)
            .await;
    }
}

/// `--no-affinity`: it pins itself, and is told where.
pub(crate) async fn no_affinity_is_told_its_cpus_and_not_pinned(stage: &mut Stage) {
    relay(stage).await;
    let line = "cmk isolate --pool=exclusive --no-affinity /bin/sleep 1000000";
    let words: Vec<&str> = line.split(' ').collect();
    let who = guaranteed("free", 1).command(&words).cores(1);
    let id = stage.run(&who).await;
    stage.on(&id, "0-15").await;
    let wanted = [
        "CMK_CPUS_ASSIGNED=0,1",
        "CMK_CPUS_SHARED=4,5,6,7",
        "CMK_CPUS_INFRA=10,11,12,13,14,15",
    ];
    let all = |env: &[String]| wanted.iter().all(|one| env.iter().any(|has| has == one));
    stage.tells(&id, "environ", all).await;
    // Its list is taken all the same.
    let next = stage
        .run(&guaranteed("next", 1).pool("exclusive").cores(1))
        .await;
    stage.on(&next, "2-3").await;
    let given = "CMK_CPUS_ASSIGNED=2,3";
    stage
        .tells(&next, "environ", |env| env.iter().any(|has| has == given))
        .await;
}

/// What the kubelet shows in the pod's events.
pub(crate) async fn refusals_say_why(stage: &mut Stage) {
    relay(stage).await;
    let asks = |name: &str| best_effort(name).pool("exclusive");
    let none_free = "not enough free cpu lists in pool \"exclusive\"";
    let zero = "exclusive pool specified but the number of exclusive CPUs requested is 0";
    for (who, why) in [
        (
            best_effort("nowhere").pool("nowhere"),
            "non-existent pool \"nowhere\"",
        ),
        (asks("two").cores(1).env("STP_SOCKET_ID", "2"), none_free),
        (asks("three").cores(3).env("STP_SOCKET_ID", "0"), none_free),
        (asks("both").cores(2).env("STP_SOCKET_ID", "1"), none_free),
        (asks("omitted"), zero),
        (asks("zero").cores(0), zero),
    ] {
        let name = who.container.name.clone();
        let error = stage.refused(&who).await;
        let said = error.contains("static-pools: ") && error.contains(why);
        assert!(said, "{name}: {error}");
    }
    // Nothing was lost by it.
    let all = stage.run(&asks("all").cores(3)).await;
    stage.on(&all, "0-3,8-9").await;
}
