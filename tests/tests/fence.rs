//! Services of the host beside exclusive CPUs (`--fence-host`). The cgroup that holds the test's pods is all that the relay sees
//! of the hierarchy: the machine's own `system.slice` is out of its reach.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test program: helpers fail the test"
)]

use resmgr_tests::{Container, Cri, Guest, Relay, Runtime, eventually, kernel, skip};
use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::{Child, Command},
    time::Duration,
};

/// Beyond it what should happen does not, however busy the machine is.
const PATIENCE: Duration = Duration::from_secs(60);

/// A service of the host, in `system.slice/chronyd.service` of the hierarchy that the relay sees.
struct Service {
    child: Child,
    root: PathBuf,
}

impl Service {
    fn start(parent: &str) -> Self {
        // Makes the cgroup of the test, and has it hand cpusets down.
        kernel::give_pods(parent, &kernel::online().unwrap()).unwrap();
        let root = Path::new("/sys/fs/cgroup").join(match kernel::unified() {
            true => parent.trim_start_matches('/').to_owned(),
            false => format!("cpuset{parent}"),
        });
        let mut cgroup = root.clone();
        for name in ["system.slice", "chronyd.service"] {
            cgroup.push(name);
            fs::create_dir(&cgroup).unwrap();
            for file in ["cpuset.cpus", "cpuset.mems"] {
                if !kernel::unified() {
                    fs::copy(root.join(file), cgroup.join(file)).unwrap();
                }
            }
        }
        let child = Command::new("sleep").arg("infinity").spawn().unwrap();
        let service = Self { child, root };
        let procs = cgroup.join("cgroup.procs");
        fs::write(procs, service.child.id().to_string()).unwrap();
        service
    }

    fn allowed(&self) -> BTreeSet<u32> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let mut lines = status.lines();
        let list = lines.find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
        cpus(list.unwrap().trim())
    }

    async fn settles(&self, wanted: &BTreeSet<u32>, relay: &Relay) {
        let settled = eventually(PATIENCE, async || self.allowed() == *wanted).await;
        assert!(
            settled,
            "the service may run on {:?}, not on {wanted:?}\n{}",
            self.allowed(),
            relay.log()
        );
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        drop(self.child.kill().and_then(|()| self.child.wait()));
    }
}

/// The kernel's list format.
fn cpus(list: &str) -> BTreeSet<u32> {
    list.split(',')
        .filter(|part| !part.is_empty())
        .flat_map(|part| {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            first.parse::<u32>().unwrap()..=last.parse::<u32>().unwrap()
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_makes_room_for_an_exclusive_container_and_has_its_cpus_back() {
    let what = "fence: on this machine";
    if let Some(why) = skip::no_relay() {
        return skip::skip(what, &why);
    }
    if cpus(&kernel::online().unwrap()).len() < 2 {
        return skip::skip(what, "needs two CPUs");
    }
    Box::pin(a_service_makes_room()).await;
}

#[test]
fn in_the_guest_a_service_makes_room_under_cgroup_v2() {
    let name = "in_the_guest_a_service_makes_room_under_cgroup_v2";
    if Guest::n4c16().runs(name, &[]).unwrap() {
        tokio::runtime::Runtime::new()
            .unwrap()
            .block_on(Box::pin(a_service_makes_room()));
    }
}

async fn a_service_makes_room() {
    let runtime = Runtime::start().unwrap();
    let parent = runtime.cgroup_parent();
    let service = Service::start(parent);
    let all = service.allowed();
    let start = |arguments: &[&str]| {
        let place = ["--policy", "static", "--reserved-resources", "cpu=1000m"];
        let arguments = [&place, arguments].concat();
        Relay::start_under(&runtime, "relay", &service.root, &arguments).unwrap()
    };
    let mut relay = start(&["--fence-host", "on"]);
    let mut cri = Cri::connect(&relay.socket(), parent).await.unwrap();
    let pod = cri.run_pod("mine", "", &[]).await.unwrap();
    let mine = Container::sleeping("mine").guaranteed(1);
    let id = cri.run(&pod, &mine).await;
    let id = id.unwrap_or_else(|error| panic!("{error:#}\n{}", relay.log()));
    let own = cpus(&kernel::allowed(parent, &id).unwrap());
    assert_eq!(own.len(), 1, "exclusive: {own:?}");
    let rest: BTreeSet<u32> = all.difference(&own).copied().collect();
    service.settles(&rest, &relay).await;
    let cpu = own.first().unwrap();
    let shown = format!("host services fenced off CPUs {cpu} (1 cgroup)");
    let state = eventually(PATIENCE, async || {
        relay.ask(&["state"]).unwrap().contains(&shown)
    });
    assert!(state.await, "{}", relay.ask(&["state"]).unwrap());

    // What a killed relay leaves is taken over, or undone: by restore, by a start without the option, by its own stop.
    relay.kill().unwrap();
    let relay = start(&["--fence-host", "on"]);
    service.settles(&rest, &relay).await;
    drop(relay);
    assert_eq!(service.allowed(), rest);
    let mut relay = start(&["--fence-host", "shadow"]);
    service.settles(&all, &relay).await;
    let would = "shadow, nothing is written: host cgroup system.slice is confined to CPUs";
    let told = eventually(PATIENCE, async || relay.log().contains(would)).await;
    assert!(told, "{}", relay.log());
    assert_eq!(service.allowed(), all);
    relay.kill().unwrap();
    let mut relay = start(&["--fence-host", "on"]);
    service.settles(&rest, &relay).await;
    relay.kill().unwrap();
    let restored = relay.restore_under(&runtime, &service.root).unwrap();
    let back = "host cgroup system.slice has its CPUs back";
    assert!(restored.contains(back), "{restored}");
    assert_eq!(service.allowed(), all);
    let mut relay = start(&["--fence-host", "on", "--restore-on-stop"]);
    service.settles(&rest, &relay).await;
    assert!(relay.stop().unwrap().success(), "{}", relay.log());
    assert_eq!(service.allowed(), all);
}
