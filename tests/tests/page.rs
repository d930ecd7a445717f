//! The status page in a real browser, on real data: what it shows, and that it says nothing to the console and asks
//! nothing of other hosts. Its pictures stay in the build's folder.
#![expect(clippy::unwrap_used, reason = "a test program: helpers fail the test")]

use resmgr_tests::{Container, Cri, Relay, Runtime, eventually, installed, skip};
use std::{
    fmt::Write as _,
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

/// How long the page may take to ask the daemon and to draw, in the browser's own time.
const BUDGET_MS: u32 = 6000;

/// `cri-resmgr status` of a relay socket: the page's address, for as long as this lives.
struct Page {
    server: Child,
    address: String,
}

impl Page {
    fn serve(socket: &Path) -> Option<Self> {
        let mut server = Command::new(resmgr_tests::built("cri-resmgr").unwrap())
            .arg("--relay-socket")
            .arg(socket)
            .arg("status")
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let mut told = BufReader::new(server.stdout.take().unwrap());
        told.read_line(&mut line).unwrap();
        let address = line
            .split_whitespace()
            .find(|word| word.starts_with("http://"));
        let Some(address) = address.map(str::to_owned) else {
            server.wait().unwrap(); // the daemon does not serve its views yet
            return None;
        };
        Some(Self { server, address })
    }

    async fn of(socket: &Path) -> Self {
        let mut page = None;
        let served = eventually(Duration::from_secs(60), async || {
            page = Self::serve(socket);
            page.is_some()
        })
        .await;
        assert!(served);
        page.unwrap()
    }

    /// Runs the browser on the page with more arguments: what it prints, and what the page said to the console.
    fn browse(&self, fragment: &str, arguments: &[&str]) -> (String, String) {
        let profile = tempfile::tempdir().unwrap();
        let output = Command::new("timeout")
            .args(["120", "chromium"])
            .args([
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--enable-logging=stderr",
            ])
            .arg("--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1")
            .arg(format!("--virtual-time-budget={BUDGET_MS}"))
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .args(arguments)
            .arg(format!("{}{fragment}", self.address))
            .output()
            .unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{errors}");
        let mut console = String::new();
        for line in errors.lines().filter(|line| line.contains("CONSOLE")) {
            writeln!(console, "{line}").unwrap();
        }
        (
            String::from_utf8_lossy(&output.stdout).into_owned(),
            console,
        )
    }

    /// The document as the script has made it.
    fn document(&self, fragment: &str) -> String {
        let (document, console) = self.browse(fragment, &["--dump-dom"]);
        assert_eq!(console, "", "the page says nothing to the console");
        document
    }

    /// A picture, kept for whoever wants to look; its size.
    fn picture(&self, name: &str, fragment: &str, arguments: &[&str]) -> u64 {
        let file = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("page-{name}.png"));
        let picture = format!("--screenshot={}", file.display());
        let (_, console) = self.browse(fragment, &[&[picture.as_str()], arguments].concat());
        assert_eq!(console, "", "the page says nothing to the console");
        std::fs::metadata(file).unwrap().len()
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        let _ended = self.server.kill();
        let _status = self.server.wait();
    }
}

fn cannot_run() -> Option<String> {
    let no_browser = || {
        installed("chromium")
            .is_none()
            .then(|| "chromium is not installed".into())
    };
    skip::no_relay().or_else(no_browser)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_shows_real_containers_and_explains_one_that_its_address_names() {
    if let Some(why) = cannot_run() {
        return skip::skip("page: real containers", &why);
    }
    let runtime = Runtime::start().unwrap();
    let options = [
        "--policy",
        "static",
        "--reserved-resources",
        "cpu=1000m",
        "--ebpf-telemetry",
    ];
    let relay = Relay::start(&runtime, &options).unwrap();
    let mut cri = Cri::connect(&relay.socket(), runtime.cgroup_parent())
        .await
        .unwrap();
    let web = cri.run_pod("web-1", "besteffort", &[]).await.unwrap();
    let busy = "while :; do :; done";
    Box::pin(cri.run(&web, &Container::script("web", busy)))
        .await
        .unwrap();
    let page = Page::of(&relay.socket()).await;

    let mut document = String::new();
    let shown = eventually(Duration::from_secs(60), async || {
        document = page.document("#default/web-1/web");
        document.contains("Because")
    })
    .await;
    assert!(shown, "{document}");
    for part in [
        "The daemon answers.",
        ">default/web-1/web<",
        "NUMA node 0",
        "<dd>static</dd>",
        "pool shared, CPUs",
    ] {
        assert!(document.contains(part), "{part}: {document}");
    }
    assert!(!document.contains("Telemetry is off"), "{document}");
    let malformed = page.document("#%");
    assert!(malformed.contains("The daemon answers."), "{malformed}");
    let sizes = [
        page.picture("light", "", &["--window-size=1200,1000"]),
        page.picture(
            "dark",
            "",
            &[
                "--window-size=1200,1000",
                "--blink-settings=preferredColorScheme=0",
            ],
        ),
        page.picture("narrow", "", &["--window-size=400,1200"]),
        page.picture(
            "explain",
            "#default/web-1/web",
            &["--window-size=1200,1000"],
        ),
    ];
    assert!(sizes.iter().all(|size| *size > 10_000), "{sizes:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_of_a_machine_of_512_cpus_draws_each_of_them() {
    if let Some(why) = cannot_run() {
        return skip::skip("page: 512 CPUs", &why);
    }
    let folder = tempfile::tempdir().unwrap();
    let machine = "pack:2 numa:4 l3:2 core:16 pu:2";
    let relay = Relay::start_before(
        &folder.path().join("no-runtime.sock"),
        folder.path(),
        &[
            "--policy",
            "static",
            "--reserved-resources",
            "cpu=1000m",
            "--topology",
            machine,
        ],
    )
    .unwrap();
    let page = Page::of(&relay.socket()).await;
    let document = page.document("");
    assert_eq!(document.matches("data-cpu=").count(), 512, "{document}");
    assert_eq!(document.matches(">NUMA node ").count(), 8);
    assert!(
        document.contains("The runtime has not said yet what runs"),
        "{document}"
    );
    assert!(page.picture("512", "", &["--window-size=1200,1600"]) > 10_000);
}
