//! The alerts and dashboards of `deploy/monitoring`: a real Prometheus loads the rules, scrapes a real relay before a
//! real runtime, and is asked what each panel asks.
#![expect(clippy::unwrap_used, reason = "a test program: helpers fail the test")]

use resmgr_tests::{
    Container, Cri, Relay, Runtime, apiserver::free_port, eventually, promtool, skip,
};
use serde_json::Value;
use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

const DASHBOARDS: [&str; 3] = ["fleet", "node", "workload"];

/// What the panels of a node must show once it runs a measured container for a while.
const SHOWN: [&str; 6] = [
    "cri_resmgr_placement_cpus",
    "cri_resmgr_placement_container_cpus",
    "cri_resmgr_scheduler_run_seconds_total",
    "cri_resmgr_scheduler_wait_seconds_total",
    "cri_resmgr_relay_calls_total",
    "cri_resmgr_telemetry_quality",
];

/// A server that is killed when the test ends.
struct Prometheus(Child);

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ended = self.0.kill();
        let _status = self.0.wait();
    }
}

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap()
        .to_owned()
}

fn monitoring(file: &str) -> PathBuf {
    repository().join("deploy/monitoring").join(file)
}

/// A program of the unpacked package; says so where it is missing.
fn program(what: &str, name: &str) -> Option<PathBuf> {
    let path = repository().join(".cache/prometheus").join(name);
    if path.exists() {
        return Some(path);
    }
    skip::skip(what, &format!("no {name}: cargo xtask setup fetches it"));
    None
}

fn run_promtool(program: &Path, arguments: &[&str]) -> Result<String, String> {
    let output = Command::new(program)
        .args(arguments)
        .current_dir(monitoring(""))
        .output()
        .unwrap();
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() {
        Ok(text(&output.stdout))
    } else {
        Err(text(&output.stdout) + &text(&output.stderr))
    }
}

/// Every expression of a dashboard, with its variables filled in as Grafana does for "all".
fn expressions(dashboard: &str) -> Vec<String> {
    let file = monitoring(&format!("dashboards/{dashboard}.json"));
    let json: Value = serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap();
    let panels = json["panels"].as_array().unwrap();
    let targets = panels
        .iter()
        .flat_map(|panel| panel["targets"].as_array().unwrap());
    targets
        .map(|target| {
            let expression = target["expr"].as_str().unwrap();
            expression
                .replace("instance=\"$instance\"", "instance=~\".*\"")
                .replace("$__rate_interval", "30s")
                .replace("[5m]", "[30s]")
                .replace("$instance", ".*")
                .replace("$namespace", ".*")
                .replace("$pod", ".*")
                .replace("$container", ".*")
        })
        .collect()
}

/// The names that begin with `cri_resmgr_` in a text.
fn metrics(text: &str) -> BTreeSet<&str> {
    text.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_')
        .filter(|word| word.starts_with("cri_resmgr_"))
        .collect()
}

#[test]
fn each_alert_fires_for_its_cause_and_not_without_it() {
    let Some(promtool_path) = program("monitoring: alerts", "promtool") else {
        return;
    };
    run_promtool(&promtool_path, &["check", "rules", "rules.yaml"]).unwrap();
    run_promtool(&promtool_path, &["test", "rules", "rules.test.yaml"]).unwrap();
    let rules = std::fs::read_to_string(monitoring("rules.yaml")).unwrap();
    let tests = std::fs::read_to_string(monitoring("rules.test.yaml")).unwrap();
    for line in rules.lines() {
        if let Some(alert) = line.trim().strip_prefix("- alert: ") {
            let tried = format!("alertname: {alert}\n        exp_alerts:\n          - ");
            assert!(tests.contains(&tried), "no test in which {alert} fires");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn panels_and_alerts_find_their_metrics_in_a_real_prometheus() {
    let what = "monitoring: dashboards";
    let (Some(server), Some(promtool_path)) =
        (program(what, "prometheus"), program(what, "promtool"))
    else {
        return;
    };
    if let Some(why) = skip::no_relay() {
        return skip::skip(what, &why);
    }
    let runtime = Runtime::start().unwrap();
    let address = format!("127.0.0.1:{}", free_port().unwrap());
    let relay = Relay::start(
        &runtime,
        &[
            "--policy",
            "static",
            "--reserved-resources",
            "cpu=500m",
            "--ebpf-telemetry",
            "--metrics-address",
            &address,
        ],
    )
    .unwrap();
    let mut cri = Cri::connect(&relay.socket(), runtime.cgroup_parent())
        .await
        .unwrap();
    let pod = cri.run_pod("spin", "besteffort", &[]).await.unwrap();
    cri.run(&pod, &Container::script("spin", "while :; do :; done"))
        .await
        .unwrap();
    // The relay listens before the program is loaded.
    let mut view = String::new();
    let measuring = eventually(Duration::from_secs(90), async || {
        view = relay.ask(&["top", "--once", "--json"]).unwrap_or_default();
        view.contains("\"spin\"")
    });
    assert!(measuring.await, "{view}\n{}", relay.log());
    let exact = view.contains("\"quality\": \"exact\"");
    if !exact {
        skip::skip(
            "monitoring: panels of the scheduler show data",
            "telemetry is not exact here",
        );
    }

    let folder = tempfile::tempdir().unwrap();
    let configuration = folder.path().join("prometheus.yaml");
    let rules = monitoring("rules.yaml").display().to_string();
    let text = format!(
        "global: {{scrape_interval: 1s, evaluation_interval: 1s}}\nrule_files: [{rules}]\nscrape_configs:\n\
         - job_name: cri-resmgr\n  static_configs: [{{targets: ['{address}']}}]\n"
    );
    std::fs::write(&configuration, text).unwrap();
    let listen = format!("127.0.0.1:{}", free_port().unwrap());
    let log = std::fs::File::create(folder.path().join("log")).unwrap();
    let _prometheus = Prometheus(
        Command::new(server)
            .arg(format!("--config.file={}", configuration.display()))
            .arg(format!(
                "--storage.tsdb.path={}",
                folder.path().join("data").display()
            ))
            .arg(format!("--web.listen-address={listen}"))
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap(),
    );
    let url = format!("http://{listen}");
    let ask = |expression: &str| {
        run_promtool(
            &promtool_path,
            &["query", "instant", "-o", "json", &url, expression],
        )
    };
    // A rate needs two samples.
    let measured = "rate(cri_resmgr_scheduler_run_seconds_total{container=\"spin\"}[30s]) > 0";
    let scraped = if exact {
        measured
    } else {
        "cri_resmgr_placement_cpus > 0"
    };
    let found = eventually(Duration::from_secs(120), async || {
        ask(scraped).is_ok_and(|series| series.trim().len() > "[]".len())
    });
    assert!(
        found.await,
        "{:?}\n{}\n{}",
        ask(scraped),
        std::fs::read_to_string(folder.path().join("log")).unwrap(),
        relay.log()
    );

    let mut asked = std::fs::read_to_string(monitoring("rules.yaml")).unwrap();
    for dashboard in DASHBOARDS {
        for expression in expressions(dashboard) {
            let answer = ask(&expression).unwrap();
            let shown = SHOWN.iter().any(|metric| expression.contains(metric));
            let unlikely = [
                "outside",
                "package",
                "throttled",
                "< 2",
                "exclusive",
                "code!=",
            ];
            if exact && shown && !unlikely.iter().any(|word| expression.contains(word)) {
                assert!(
                    answer.trim().len() > "[]".len(),
                    "{dashboard}: {expression}"
                );
            }
            asked.push_str(&expression);
            asked.push('\n');
        }
    }
    // A name that the page does not have would give an empty answer for ever.
    // What the program costs is measured some seconds after it was loaded.
    let mut missing = Vec::new();
    let complete = eventually(Duration::from_secs(90), async || {
        let page = relay_page(&address).await;
        missing = metrics(&asked)
            .into_iter()
            .filter(|metric| {
                let family = metric.strip_suffix("_bucket").unwrap_or(metric);
                !page.contains(&format!("# TYPE {family} "))
            })
            .map(str::to_owned)
            .collect();
        missing.is_empty()
    });
    let complete = complete.await || !exact;
    assert!(complete, "the page has no {missing:?}");

    let page = relay_page(&address).await;
    let (_head, page) = page.split_once("\r\n\r\n").unwrap();
    let complaints = promtool::complaints(&promtool_path, page).unwrap();
    assert!(complaints.is_empty(), "{complaints}\n{page}");
}

/// The page as a scraper reads it.
async fn relay_page(address: &str) -> String {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let request = format!("GET /metrics HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut page = String::new();
    stream.read_to_string(&mut page).await.unwrap();
    page
}
