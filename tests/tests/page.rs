//! The status page in a real browser, on real data: what it shows, and that it says nothing to the console and asks
//! nothing of other hosts. Its pictures stay in the build's folder.
#![expect(clippy::unwrap_used, reason = "a test program: helpers fail the test")]

use hyper_util::rt::TokioIo;
use resmgr_proto::v1::{SetConfigRequest, config_client::ConfigClient};
use resmgr_tests::{Container, Cri, Relay, Runtime, eventually, installed, skip};
use serde_json::{Value, json};
use std::{
    fs::File,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    time::Duration,
};
use tokio::net::UnixStream;
use tonic::transport::{Endpoint, Uri};

/// How long the page may take to show something.
const SOON: Duration = Duration::from_secs(60);

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
}

impl Drop for Page {
    fn drop(&mut self) {
        let _ended = self.server.kill();
        let _status = self.server.wait();
    }
}

/// Chromium without a window, driven over a pipe: messages in JSON, each ended by NUL (the DevTools protocol,
/// `--remote-debugging-pipe`).
struct Browser {
    process: Child,
    commands: ChildStdin,
    answers: BufReader<ChildStdout>,
    sent: u64,
    /// The tab.
    session: Option<String>,
    /// What the tab said to the console.
    console: Vec<String>,
    _profile: tempfile::TempDir,
}

impl Browser {
    /// A browser that reaches no host but this, with a page of this address.
    fn open(address: &str) -> Self {
        let profile = tempfile::tempdir().unwrap();
        let mut process = Command::new("timeout")
            .args(["300", "sh", "-c"])
            // The pipe of the protocol is file descriptors 3 and 4.
            .arg("exec chromium \"$@\" 3<&0 4>&1 0</dev/null 1>&2")
            .args(["sh", "--headless", "--no-sandbox", "--disable-gpu"])
            .arg("--remote-debugging-pipe")
            .arg("--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1")
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut browser = Self {
            commands: process.stdin.take().unwrap(),
            answers: BufReader::new(process.stdout.take().unwrap()),
            process,
            sent: 0,
            session: None,
            console: Vec::new(),
            _profile: profile,
        };
        let tab = browser.call("Target.createTarget", &json!({"url": "about:blank"}));
        let asked = json!({"targetId": tab["targetId"], "flatten": true});
        let session = browser.call("Target.attachToTarget", &asked)["sessionId"].clone();
        browser.session = session.as_str().map(str::to_owned);
        browser.call("Log.enable", &json!({}));
        browser.call("Runtime.enable", &json!({}));
        browser.resize(1200, 1000);
        browser.call("Page.navigate", &json!({"url": address}));
        browser
    }

    fn call(&mut self, method: &str, parameters: &Value) -> Value {
        self.sent += 1;
        let mut message = json!({"id": self.sent, "method": method, "params": parameters});
        if let Some(session) = &self.session {
            message["sessionId"] = session.as_str().into();
        }
        write!(self.commands, "{message}\0").unwrap();
        loop {
            let mut answer = Vec::new();
            self.answers.read_until(0, &mut answer).unwrap();
            assert_eq!(answer.pop(), Some(0), "the browser lives");
            let answer: Value = serde_json::from_slice(&answer).unwrap();
            if answer["id"] == self.sent {
                assert_eq!(answer["error"], Value::Null, "{method}");
                return answer["result"].clone();
            }
            let events = [
                "Log.entryAdded",
                "Runtime.consoleAPICalled",
                "Runtime.exceptionThrown",
            ];
            if events.iter().any(|event| answer["method"] == *event) {
                self.console.push(answer["params"].to_string());
            }
        }
    }

    /// The value of an expression in the page's script.
    fn evaluate(&mut self, expression: &str) -> Value {
        let asked = json!({"expression": expression, "returnByValue": true});
        let answer = self.call("Runtime.evaluate", &asked);
        assert_eq!(answer["exceptionDetails"], Value::Null, "{expression}");
        answer["result"]["value"].clone()
    }

    /// The document as the script has made it.
    fn document(&mut self) -> String {
        let document = self.evaluate("document.documentElement?.outerHTML ?? ''");
        document.as_str().unwrap().to_owned()
    }

    /// Waits until the document has all of these texts; gives it.
    async fn shows(&mut self, texts: &[&str]) -> String {
        let mut document = String::new();
        let shown = eventually(SOON, async || {
            document = self.document();
            texts.iter().all(|text| document.contains(text))
        })
        .await;
        let missing = texts.iter().find(|text| !document.contains(**text));
        assert!(shown, "{missing:?}: {document}");
        document
    }

    /// How often the page has asked for the state, rather than being told of it.
    fn polls(&mut self) -> u64 {
        let count = "performance.getEntriesByName(location.origin + '/api/v1/state').length";
        self.evaluate(count).as_u64().unwrap()
    }

    fn resize(&mut self, width: u32, height: u32) {
        let size =
            json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": false});
        self.call("Emulation.setDeviceMetricsOverride", &size);
    }

    /// A picture, kept for a look at it.
    fn picture(&mut self, name: &str) {
        let shot = self.call("Page.captureScreenshot", &json!({}));
        let encoded = shot["data"].as_str().unwrap();
        assert!(encoded.len() > 10_000, "{name}: {}", encoded.len());
        let file = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("page-{name}.png"));
        let mut decoder = Command::new("base64")
            .arg("-d")
            .stdin(Stdio::piped())
            .stdout(File::create(file).unwrap())
            .spawn()
            .unwrap();
        let mut input = decoder.stdin.take().unwrap();
        input.write_all(encoded.as_bytes()).unwrap();
        drop(input);
        assert!(decoder.wait().unwrap().success());
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // The end of its pipe ends the browser; `timeout` is killed where that fails.
        let _ended = self.process.kill();
        let _status = self.process.wait();
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

    // A link that is no percent-encoding explains nothing and breaks nothing.
    let mut browser = Browser::open(&format!("{}#%", page.address));
    let document = browser
        .shows(&[
            "The daemon answers.",
            ">default/web-1/web<",
            "NUMA node 0",
            "<dd>static</dd>",
            ">reserved-resources</th>",
            "of the container explained last",
        ])
        .await;
    assert!(!document.contains("Telemetry is off"), "{document}");
    // Numbers need two readings.
    browser.shows(&["% in use"]).await;
    browser.picture("light");
    let dark = json!({"features": [{"name": "prefers-color-scheme", "value": "dark"}]});
    browser.call("Emulation.setEmulatedMedia", &dark);
    browser.picture("dark");
    browser.call("Emulation.setEmulatedMedia", &json!({"features": []}));
    browser.resize(400, 1200);
    browser.picture("narrow");
    browser.resize(1200, 1000);
    browser.evaluate("document.getElementById('containers-title').scrollIntoView()");
    browser.picture("containers");
    browser.evaluate("document.getElementById('config-title').scrollIntoView()");
    browser.picture("configuration");

    // What changes is told to the page, which asks for nothing.
    let later = cri.run_pod("web-2", "besteffort", &[]).await.unwrap();
    Box::pin(cri.run(&later, &Container::script("later", "sleep 1000")))
        .await
        .unwrap();
    browser.shows(&[">default/web-2/later<"]).await;
    assert_eq!(browser.polls(), 0);

    // A sample is taken every 10 s; in the first the container is new.
    let sampled = eventually(SOON, async || {
        browser.evaluate("moments.length > 1") == true
    })
    .await;
    assert!(sampled);
    let slide = "document.getElementById('past').value = moments.length - 1; \
                 document.getElementById('past').dispatchEvent(new Event('input'))";
    browser.evaluate(slide);
    browser
        .shows(&["as it was at ", ">default/web-1/web<", "% in use"])
        .await;
    let used = "past.containers.find((container) => container.container === 'web').used_mcpu";
    assert!(browser.evaluate(used).as_u64().unwrap() > 0);
    browser.evaluate("scrollTo(0, 0)");
    browser.picture("past");
    browser.evaluate("document.getElementById('now').click()");
    browser.shows(&[">now</output>"]).await;

    browser.evaluate("document.getElementById('pause').click()");
    browser.shows(&["Paused"]).await;
    assert_eq!(browser.evaluate("stream === null"), true);
    assert_eq!(
        browser.console, [""; 0],
        "the page says nothing to the console"
    );

    let mut browser = Browser::open(&format!("{}#default/web-1/web", page.address));
    browser.shows(&["Because", "pool shared, CPUs"]).await;
    browser.picture("explain");
    assert_eq!(
        browser.console, [""; 0],
        "the page says nothing to the console"
    );
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
    let mut browser = Browser::open(&page.address);
    browser.resize(1200, 1600);
    let document = browser
        .shows(&[
            "The daemon answers.",
            "The runtime has not said yet what runs",
        ])
        .await;
    assert_eq!(document.matches("data-cpu=").count(), 512, "{document}");
    assert_eq!(document.matches(">NUMA node ").count(), 8);
    browser.picture("512");

    push(relay.folder().join("config.sock"), "Activ: none").await;
    let document = browser.shows(&["A configuration was refused"]).await;
    assert!(document.contains("did you mean"), "{document}");
    browser.picture("refused");
    assert_eq!(browser.polls(), 0);

    drop(relay);
    browser.shows(&["The daemon does not answer."]).await;
    browser.picture("away");
}

/// Pushes a policy that is refused.
async fn push(socket: PathBuf, policy: &str) {
    let connect = tower::service_fn(move |_: Uri| {
        let socket = socket.clone();
        async move { UnixStream::connect(socket).await.map(TokioIo::new) }
    });
    let channel = Endpoint::from_static("http://localhost").connect_with_connector_lazy(connect);
    let request = SetConfigRequest {
        node_name: "node".into(),
        config: [("policy".to_owned(), policy.to_owned())].into(),
        ..SetConfigRequest::default()
    };
    let reply = ConfigClient::new(channel)
        .set_config(request)
        .await
        .unwrap();
    assert_ne!(reply.into_inner().error, "");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_that_is_told_of_nothing_asks() {
    if let Some(why) = cannot_run() {
        return skip::skip("page: polling", &why);
    }
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("no-runtime.sock");
    let relay = Relay::start_before(
        &socket,
        folder.path(),
        &["--topology", "pack:1 core:4 pu:2"],
    );
    let relay = relay.unwrap();
    let page = Page::of(&relay.socket()).await;
    let host = page
        .address
        .trim_start_matches("http://")
        .trim_end_matches('/');
    let mut listeners = Vec::new();
    for _ in 0..16 {
        let mut listener = TcpStream::connect(host).unwrap();
        write!(
            listener,
            "GET /api/v1/events HTTP/1.1\r\nHost: {host}\r\n\r\n"
        )
        .unwrap();
        let mut status = [0; 12];
        listener.read_exact(&mut status).unwrap();
        assert_eq!(&status, b"HTTP/1.1 200");
        listeners.push(listener);
    }
    let mut browser = Browser::open(&page.address);
    browser
        .shows(&["The daemon answers.", "<dd>null</dd>"])
        .await;
    assert!(browser.polls() > 0);
}
