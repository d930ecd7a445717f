// The status page: hears of /api/v1/events what changes, or asks, and draws. Texts of the daemon become text nodes only, never markup.
"use strict";

const POLL_MS = 2000;
// The daemon gives a sign of life every 5 s.
const SILENCE_MS = 12000;
// When events were refused, they are asked for again after this time.
const FOLLOW_AGAIN_MS = 30000;
// The topology changes with hot-plug and with the configuration (reserved CPUs), both seldom.
const TOPOLOGY_MS = 10000;
const ANSWER_LIMIT_MS = 10000;
// The daemon takes a sample of the last hour every 10 s.
const HISTORY_MS = 10000;
const MAX_ROWS = 200;
const MAX_NAMES = 20;
// From this number of CPUs on their boxes are smaller.
const LARGE = 128;
// Waiting that fills a CPU's box.
const FULL_WAIT_MS_PER_S = 100;

const PAUSED = "Paused: what is shown is not renewed.";

const find = (id) => document.getElementById(id);

// ---- the last answers, and what is derived from them
let topology = null;
let topologyText = "";
let topologyAt = -Infinity;
let measured = null;
// As of now.
let newest = { state: null, rates: null };
// Moments of the last hour, seconds since 1970; the sample that is shown, null for now.
let moments = [];
let momentsAt = -Infinity;
let past = null;
// What is shown: as of now, or of the sample.
let state = null;
let config = null;
let explainedLink = "";
let rates = null;
let placed = null;
let rows = new Map();
let cells = new Map();
let paused = false;
let stream = null;
let heardAt = -Infinity;
let followAt = -Infinity;
let drawing = 0;
let polling = false;
let answeredAt = null;
let chosenId = "";
let shownCpu = null;

/** An element with attributes (class, role, …) and children (elements or texts). */
function make(tag, attributes, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

/** Sets a text where it differs: an unchanged node is neither laid out nor announced anew. */
function setText(element, text) {
  if (element.textContent !== text) {
    element.textContent = text;
  }
}

/** CPU numbers of a list as the kernel writes it: "0-3,8". */
function parseCpus(list) {
  const cpus = [];
  for (const part of list.split(",").filter((part) => part !== "")) {
    const [first, last] = part.split("-").map(Number);
    for (let cpu = first; cpu <= (last ?? first); cpu += 1) {
      cpus.push(cpu);
    }
  }
  return cpus;
}

const nameOf = (container) =>
  [container.namespace, container.pod, container.container].filter((part) => part !== "").join("/") || container.id;

const decimal = (value, digits) =>
  value.toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits });

const counted = (count, noun) => `${count.toLocaleString("en")} ${noun}${count === 1 ? "" : "s"}`;

const timeOf = (text) => new Date(text).toLocaleString();

// ---- hearing and asking

async function ask(path) {
  const response = await fetch(path, { signal: AbortSignal.timeout(ANSWER_LIMIT_MS), cache: "no-store" });
  if (!response.ok) {
    throw new Error((await response.text()) || `HTTP status ${response.status}`);
  }
  return response;
}

/** Takes in a part of what is shown, as JSON. */
function take(name, text) {
  if (name === "topology") {
    topologyAt = performance.now();
    if (text !== topologyText) {
      topology = JSON.parse(text);
      topologyText = text;
      drawMap();
    }
    return;
  }
  const view = JSON.parse(text);
  if (name === "top") {
    newest.rates = ratesBetween(measured, view);
    measured = view;
  } else if (name === "config") {
    config = view;
  } else {
    newest.state = view;
  }
}

/** Notes that the daemon lives, and draws what it said. */
function answered() {
  answeredAt = new Date();
  setText(find("connection"), paused ? PAUSED : "The daemon answers.");
  setText(find("updated"), `Updated ${answeredAt.toLocaleTimeString()}.`);
  document.body.classList.remove("stale");
  // Events that come together are drawn once.
  clearTimeout(drawing);
  drawing = setTimeout(() => {
    draw();
    explainLinked();
  }, 0);
  if (performance.now() - momentsAt >= HISTORY_MS) {
    momentsAt = performance.now();
    askMoments();
  }
}

/** Listens to the daemon, which tells what has changed. */
function follow() {
  stream = new EventSource("/api/v1/events");
  heardAt = performance.now();
  const hear = (event) => {
    heardAt = performance.now();
    if (event.type !== "alive") {
      take(event.type, event.data);
    }
    answered();
  };
  for (const name of ["topology", "config", "top", "state", "alive"]) {
    stream.addEventListener(name, hear);
  }
  stream.addEventListener("error", () => {
    // Closed: the daemon has too many listeners. Else it is away, or has ended the connection at its age.
    const wait = stream.readyState === EventSource.CLOSED ? FOLLOW_AGAIN_MS : POLL_MS;
    unfollow();
    followAt = performance.now() + wait;
    poll();
  });
}

function unfollow() {
  stream?.close();
  stream = null;
}

/** Sees every POLL_MS to it that the page hears of the daemon, or else asks. */
function keepUp() {
  // A page that is not looked at costs the node nothing.
  if (paused || document.hidden) {
    unfollow();
    return;
  }
  const now = performance.now();
  if (stream !== null && now - heardAt < SILENCE_MS) {
    return;
  }
  if (stream === null && now >= followAt) {
    follow();
    return;
  }
  unfollow();
  poll();
}

async function poll() {
  if (polling) {
    return;
  }
  polling = true;
  try {
    const names = ["config", "top", "state"];
    if (performance.now() - topologyAt >= TOPOLOGY_MS) {
      names.unshift("topology");
    }
    const texts = await Promise.all(names.map(async (name) => (await ask(`/api/v1/${name}`)).text()));
    if (!paused) {
      names.forEach((name, index) => take(name, texts[index]));
      answered();
    }
  } catch (error) {
    setText(find("connection"), "The daemon does not answer.");
    const last = answeredAt === null ? "" : ` What is shown is from ${answeredAt.toLocaleTimeString()}, and may be out of date.`;
    setText(find("updated"), `${error.message}.${last}`);
    document.body.classList.add("stale");
    followAt = performance.now() + POLL_MS;
  }
  polling = false;
}

// ---- the last hour

async function askMoments() {
  try {
    moments = (await (await ask("/api/v1/history")).json()).samples;
  } catch {
    return; // That the daemon does not answer is seen where its state is asked for.
  }
  find("moment").hidden = moments.length === 0;
  const slider = find("past");
  // The moment that is shown keeps its place: one that was forgotten meanwhile is the oldest.
  const at = past === null ? moments.length : Math.max(0, moments.indexOf(past.at_unix_s));
  slider.max = String(moments.length);
  slider.value = String(at);
  noteMoment();
}

async function chooseMoment() {
  const at = moments[Number(find("past").value)];
  if (at === undefined) {
    past = null;
  } else {
    try {
      const sample = await (await ask(`/api/v1/history/${at}`)).json();
      if (moments[Number(find("past").value)] !== at) {
        return; // The slider has moved on.
      }
      sample.containers.sort((a, b) => (nameOf(a) < nameOf(b) ? -1 : 1));
      past = sample;
    } catch (error) {
      setText(find("past-note"), `No sample of ${clockOf(at)}: ${error.message}`);
      return;
    }
  }
  noteMoment();
  draw();
}

const clockOf = (seconds) => new Date(seconds * 1000).toLocaleTimeString();

function noteMoment() {
  let text = "now";
  if (past !== null) {
    const rest = past.left_out > 0 ? `; ${counted(past.left_out, "container")} that ran and waited less not kept` : "";
    text = `as it was at ${clockOf(past.at_unix_s)}${rest}`;
  }
  setText(find("past-note"), text);
  find("past").setAttribute("aria-valuetext", text);
  find("now").hidden = past === null;
  document.body.classList.toggle("past", past !== null);
}

/** The rates of a sample, in the form of those between two answers. */
function ratesOf(sample) {
  const scaled = (values, unit) => new Map(Object.entries(values).map(([cpu, value]) => [Number(cpu), value / unit]));
  const ofContainer = (container) => [container.id, { use: container.used_mcpu / 1000, wait: container.wait_us_per_s / 1000 }];
  return {
    use: scaled(sample.busy_milli, 1000),
    wait: scaled(sample.wait_us_per_s, 1000),
    ran: new Map(),
    containers: new Map(sample.containers.map(ofContainer)),
  };
}

/** Chooses what is shown. */
function present() {
  const before = state?.containers;
  if (past === null) {
    ({ state, rates } = newest);
  } else {
    state = { ...newest.state, containers: past.containers };
    rates = ratesOf(past);
  }
  if (state !== null && state.containers !== before) {
    placed = placementByCpu(state.containers);
  }
}

// ---- numbers

/** What happened between two answers of /api/v1/top, per second; null without two. */
function ratesBetween(before, after) {
  if (before === null || after === null) {
    return null;
  }
  if (after.at_ns <= before.at_ns) {
    // No new sample since the last answer; a clock that went back is another boot.
    return after.at_ns === before.at_ns ? newest.rates : null;
  }
  const over = after.at_ns - before.at_ns;
  const less = (now, then) => Math.max(0, now - (then ?? 0));
  const sum = (values) => Object.values(values).reduce((total, value) => total + value, 0);
  const earlier = new Map(before.containers.map((container) => [container.id, container]));
  const result = { use: new Map(), wait: new Map(), ran: new Map(), containers: new Map() };
  for (const [cpu, busy] of Object.entries(after.busy_ns)) {
    if (before.busy_ns[cpu] !== undefined) {
      result.use.set(Number(cpu), Math.min(1, less(busy, before.busy_ns[cpu]) / over));
    }
  }
  for (const container of after.containers) {
    const then = earlier.get(container.id);
    if (then === undefined) {
      continue; // Its numbers count from its first measurement, which may be long ago.
    }
    const byCpu = [];
    let run = 0;
    for (const [cpu, ns] of Object.entries(container.run_ns)) {
      const ran = less(ns, then.run_ns[cpu]);
      if (ran > 0) {
        byCpu.push([Number(cpu), ran]);
        run += ran;
      }
    }
    const waited = less(container.contention_ns, then.contention_ns);
    for (const [cpu, ran] of byCpu) {
      // The wait is known by container; it is shared out by where the container ran.
      result.wait.set(cpu, (result.wait.get(cpu) ?? 0) + ((waited * ran) / run / over) * 1000);
      if (!result.ran.has(cpu)) {
        result.ran.set(cpu, []);
      }
      result.ran.get(cpu).push([container, ran / over]);
    }
    const perSecond = (now, before) => (less(now, before) / over) * 1000;
    result.containers.set(container.id, {
      use: run / over,
      wait: (waited / over) * 1000,
      throttled: perSecond(container.throttled_ns, then.throttled_ns),
      outside: perSecond(container.outside_ns, then.outside_ns),
      foreign: perSecond(sum(container.foreign_ns), sum(then.foreign_ns)),
      migrations: (less(sum(container.migrations), sum(then.migrations)) / over) * 1e9,
    });
  }
  return result;
}

/** Which containers the policy wants on which CPU: owners, and groups of containers with one list. */
function placementByCpu(containers) {
  const owners = new Map();
  const groups = new Map();
  for (const container of containers) {
    for (const cpu of parseCpus(container.exclusive)) {
      owners.set(cpu, [...(owners.get(cpu) ?? []), container]);
    }
    const key = `${container.cpus}|${container.exclusive}`;
    if (!groups.has(key)) {
      const own = new Set(parseCpus(container.exclusive));
      const cpus = new Set(parseCpus(container.cpus).filter((cpu) => !own.has(cpu)));
      groups.set(key, { cpus, containers: [] });
    }
    groups.get(key).containers.push(container);
  }
  const sharing = new Map();
  for (const group of groups.values()) {
    for (const cpu of group.cpus) {
      sharing.set(cpu, (sharing.get(cpu) ?? 0) + group.containers.length);
    }
  }
  return { owners, groups: [...groups.values()], sharing };
}

const sharersOf = (cpu) => placed.groups.filter((group) => group.cpus.has(cpu)).flatMap((group) => group.containers);

// ---- the machine

/** Groups CPUs by a member, in the order of first sight. */
function groupBy(cpus, member) {
  const groups = new Map();
  for (const cpu of cpus) {
    if (!groups.has(cpu[member])) {
      groups.set(cpu[member], []);
    }
    groups.get(cpu[member]).push(cpu);
  }
  return groups;
}

function gibibytes(bytes) {
  return bytes === 0 ? "" : `, ${decimal(bytes / 2 ** 30, 1)} GiB`;
}

/** Draws the boxes anew; only when the topology has changed. */
function drawMap() {
  const focused = cells.size > 0 && find("map").contains(document.activeElement) ? shownCpu : null;
  const nodes = new Map(topology.nodes.map((node) => [node.id, node]));
  const hybrid = topology.cpus.some((cpu) => cpu.kind === "efficiency");
  const sets = Object.fromEntries(
    ["online", "withheld", "isolated", "reserved"].map((name) => [name, new Set(parseCpus(topology[name] ?? ""))]),
  );
  cells = new Map();
  const levels = [
    ["package", (id) => `Package ${id}`],
    ["node", (id) => `NUMA node ${id}${gibibytes(nodes.get(id)?.memory_bytes ?? 0)}`],
    ["llc", (id) => `LLC ${id}`],
    ["core", (_id, cpus) => (hybrid ? (cpus[0].kind === "efficiency" ? "E" : "P") : "")],
  ];
  const boxes = (cpus, depth) => {
    if (depth === levels.length) {
      return cpus.map((cpu) => cell(cpu, sets));
    }
    const [level, title] = levels[depth];
    return [...groupBy(cpus, level)].map(([id, members]) => {
      const kind = level === "core" && hybrid ? ` ${members[0].kind}` : "";
      const text = title(id, members);
      const box = make("div", { class: `level ${level}${kind}` });
      if (text !== "") {
        box.append(make("div", { class: "title" }, text));
      }
      box.append(make("div", { class: "parts" }, ...boxes(members, depth + 1)));
      return box;
    });
  };
  const map = find("map");
  map.replaceChildren(...boxes(topology.cpus, 0));
  const memory = topology.nodes.filter((node) => node.cpus === "");
  for (const node of memory) {
    const title = `NUMA node ${node.id}, no CPUs${gibibytes(node.memory_bytes)}`;
    map.append(make("div", { class: "level package" }, make("div", { class: "title" }, title)));
  }
  map.classList.toggle("large", topology.cpus.length >= LARGE);
  const first = cells.get(shownCpu) ?? cells.values().next().value;
  if (first !== undefined) {
    first.element.tabIndex = 0;
  }
  if (focused !== null) {
    cells.get(focused)?.element.focus();
  }
}

function cell(cpu, sets) {
  const mark = make("i", {});
  const element = make("button", { type: "button", tabindex: "-1", "data-cpu": String(cpu.id) }, make("b", {}, String(cpu.id)), mark);
  const withheld = sets.withheld.has(cpu.id);
  const offline = !withheld && !sets.online.has(cpu.id);
  const isolated = sets.isolated.has(cpu.id);
  const reserved = sets.reserved.has(cpu.id);
  cells.set(cpu.id, { cpu, element, mark, offline, withheld, isolated, reserved, classes: "", level: "", label: "" });
  return element;
}

/** The fill of a CPU's box in per cent, and in words; null when it is not measured. */
function fillOf(id, heat) {
  if (rates === null || heat === "none") {
    return null;
  }
  if (heat === "use") {
    const use = rates.use.get(id);
    return use === undefined ? null : [use * 100, `${decimal(use * 100, 0)} % in use`];
  }
  const wait = rates.wait.get(id) ?? 0;
  return [Math.min(100, (wait / FULL_WAIT_MS_PER_S) * 100), `waiting ${decimal(wait, 1)} ms/s`];
}

function updateMap() {
  const heat = document.querySelector("input[name=heat]:checked").value;
  const chosen = state.containers.find((container) => container.id === chosenId);
  const ofChosen = new Set(parseCpus(chosen?.cpus ?? ""));
  for (const [id, box] of cells) {
    const owners = placed.owners.get(id) ?? [];
    const sharing = placed.sharing.get(id) ?? 0;
    const fill = box.offline ? null : fillOf(id, heat);
    const facts = [];
    const marks = [];
    const classes = ["cpu"];
    const note = (condition, name, mark, fact) => {
      if (condition) {
        classes.push(name);
        marks.push(mark);
        facts.push(fact);
      }
    };
    note(box.offline, "offline", "off", "offline");
    note(box.withheld, "withheld", "w", "withheld by the cgroup of all pods");
    note(owners.length > 0, "exclusive", "e", `exclusive to ${owners.map(nameOf).join(" and ")}`);
    note(box.reserved, "reserved", "r", "reserved");
    note(box.isolated, "isolated", "i", "isolated");
    note(ofChosen.has(id), "chosen", "*", "of the container explained last");
    if (sharing > 0) {
      marks.push(String(sharing));
      facts.push(`shared by ${counted(sharing, "container")}`);
    }
    if (fill !== null) {
      facts.push(fill[1]);
    }
    const className = classes.join(" ");
    if (box.classes !== className) {
      box.element.className = className;
      box.classes = className;
    }
    setText(box.mark, marks.join(" "));
    const level = fill === null ? "0%" : `${fill[0].toFixed(0)}%`;
    if (box.level !== level) {
      box.element.style.setProperty("--level", level);
      box.level = level;
    }
    const label = [`CPU ${id}`, ...facts].join(", ");
    if (box.label !== label) {
      box.element.setAttribute("aria-label", label);
      box.label = label;
    }
  }
  setText(find("heat-note"), heatNote(heat));
  for (const input of document.querySelectorAll("input[name=heat]")) {
    input.disabled = measured === null && input.value !== "none";
  }
}

function heatNote(heat) {
  if (measured === null || heat === "none") {
    return measured === null ? "Telemetry is off: nothing is measured." : "";
  }
  if (rates === null) {
    return "Measuring: the first numbers need two readings.";
  }
  if (heat === "use") {
    return rates.use.size === 0 ? "Time in use is not measured by CPU now." : "A full box: in use all the time.";
  }
  return `A full box: ${FULL_WAIT_MS_PER_S} ms/s. Estimated: a container's run-queue wait, shared out over the CPUs where it ran.`;
}

function showCpu(id) {
  const box = cells.get(id);
  if (box === undefined || placed === null) {
    return;
  }
  shownCpu = id;
  const { cpu } = box;
  const facts = [`package ${cpu.package}`, `NUMA node ${cpu.node}`, `LLC ${cpu.llc}`, `core ${cpu.core}`];
  if (topology.cpus.some((known) => known.kind === "efficiency")) {
    facts.push(cpu.kind === "efficiency" ? "E-core" : "P-core");
  }
  const conditions = ["offline", "withheld", "reserved", "isolated"];
  facts.push(...conditions.filter((condition) => box[condition]));
  for (const heat of rates === null ? [] : ["use", "wait"]) {
    const fill = fillOf(id, heat);
    if (fill !== null) {
      facts.push(fill[1]);
    }
  }
  const lines = [make("p", {}, `${facts.join(", ")}.`)];
  const owners = placed.owners.get(id) ?? [];
  const sharers = sharersOf(id);
  if (owners.length > 0) {
    lines.push(names("Wanted: exclusive to", owners));
  }
  if (sharers.length > 0) {
    lines.push(names(`Wanted: shared by ${counted(sharers.length, "container")}:`, sharers));
  }
  if (owners.length === 0 && sharers.length === 0) {
    lines.push(make("p", {}, "Wanted: no container."));
  }
  const wanted = new Set([...owners, ...sharers].map((container) => container.id));
  const ran = [...(rates?.ran.get(id) ?? [])].sort((a, b) => b[1] - a[1]);
  if (ran.length > 0) {
    const most = ran.slice(0, 5).map(([container, share]) => {
      const pinned = state.containers.some((known) => known.id === container.id && known.cpus !== "");
      const stray = pinned && !wanted.has(container.id) ? ", not wanted here" : "";
      return `${nameOf(container)} (${decimal(share * 100, 1)} %${stray})`;
    });
    const rest = ran.length > 5 ? `, and ${ran.length - 5} more` : "";
    lines.push(make("p", {}, `Measured here: ${most.join(", ")}${rest}.`));
  }
  setText(find("cpu-title"), `CPU ${id}`);
  find("cpu").replaceChildren(...lines);
}

function names(title, containers) {
  const line = make("p", {}, `${title} `);
  for (const container of containers.slice(0, MAX_NAMES)) {
    line.append(explainButton(container));
  }
  if (containers.length > MAX_NAMES) {
    line.append(`and ${containers.length - MAX_NAMES} more.`);
  }
  return line;
}

function explainButton(container) {
  const button = make("button", { type: "button" }, nameOf(container));
  button.addEventListener("click", () => explain(container));
  return button;
}

// ---- notices, facts, pools

function updateNotices() {
  const texts = [];
  const refused = config.pushed.refused;
  if (refused?.outstanding) {
    texts.push(`A configuration was refused (${refused.source}, ${timeOf(refused.at)}):\n${refused.why}`);
  }
  if (state.policy === "null") {
    texts.push("The policy is null: cri-resmgr passes every call through and places no container.");
  } else if (!state.synced) {
    texts.push("The runtime has not said yet what runs: containers are missing here.");
  } else if (state.containers.length === 0) {
    texts.push("There are no containers.");
  }
  const unplaced = state.containers.filter((container) => container.unplaced !== undefined).length;
  if (unplaced > 0) {
    texts.push(`${counted(unplaced, "container")} without a placement by the policy.`);
  }
  if (measured === null) {
    texts.push("Telemetry is off: start cri-resmgr with --ebpf-telemetry to measure.");
  } else if (measured.quality !== "exact") {
    texts.push(`Telemetry is ${measured.quality}${measured.reason === undefined ? "" : `: ${measured.reason}`}`);
  }
  const notes = topology.notes ?? [];
  texts.push(...notes.map((note) => `Topology: ${note}`));
  const notices = find("notices");
  const shown = [...notices.children].map((notice) => notice.textContent);
  if (shown.join("\n") !== texts.join("\n")) {
    notices.replaceChildren(...texts.map((text) => make("p", { class: "notice" }, text)));
  }
}

function updateFacts() {
  const facts = [
    ["Policy", state.policy],
    ["Online CPUs", state.online],
    ["Offline", topology.offline],
    ["Withheld", topology.withheld ?? ""],
    ["Reserved", topology.reserved],
    ["Isolated", topology.isolated],
    ["Containers", newest.state.containers.length.toLocaleString("en")],
    ["Telemetry", measured === null ? "off" : measured.quality],
    ["Topology from", topology.origin],
  ].filter(([_name, value]) => value !== "");
  const signature = JSON.stringify(facts);
  const list = find("facts");
  if (list.dataset.shown !== signature) {
    list.dataset.shown = signature;
    list.replaceChildren(...facts.map(([name, value]) => make("div", {}, make("dt", {}, name), make("dd", {}, value))));
  }
}

function updatePools() {
  const signature = JSON.stringify(state.pools);
  const body = find("pools");
  if (body.dataset.shown !== signature) {
    body.dataset.shown = signature;
    body.replaceChildren(
      ...state.pools.map((pool) =>
        make(
          "tr",
          {},
          make("th", { scope: "row" }, pool.name),
          make("td", { class: "list" }, pool.cpus || "–"),
          make("td", { class: "number" }, pool.containers.toLocaleString("en")),
          make("td", { class: "list" }, pool.free.join(" ") || "–"),
        ),
      ),
    );
    find("pools-section").hidden = state.pools.length === 0;
  }
}

function updateConfig() {
  const signature = JSON.stringify(config);
  const body = find("options");
  if (body.dataset.shown === signature) {
    return;
  }
  body.dataset.shown = signature;
  body.replaceChildren(
    ...config.options.map((option) =>
      make(
        "tr",
        {},
        make("th", { scope: "row" }, option.name),
        make("td", { class: "text" }, option.value || "–"),
        make("td", {}, option.origin),
      ),
    ),
  );
  const { generation, applied, refused } = config.pushed;
  const lines = [];
  if (applied === undefined) {
    lines.push("Nothing was pushed: the options alone are in force. Those that are not as by default:");
  } else {
    lines.push(`Configuration ${generation} is in force: ${applied.source}, pushed at ${timeOf(applied.at)}.`);
  }
  if (refused !== undefined && !refused.outstanding) {
    lines.push(`Refused before that, at ${timeOf(refused.at)} (${refused.source}):\n${refused.why}`);
  }
  find("pushed").replaceChildren(...lines.map((line) => make("p", { class: "lines" }, line)));
}

// ---- the table

/** Containers of the placement, and those that are measured only (policy null). */
function allContainers() {
  const known = new Set(state.containers.map((container) => container.id));
  const measuredNow = past === null ? (measured?.containers ?? []) : [];
  const unknown = measuredNow.filter((container) => !known.has(container.id));
  return [...state.containers, ...unknown];
}

function updateTable() {
  const words = find("filter").value.toLowerCase().split(/\s+/).filter((word) => word !== "");
  const order = find("order").value;
  const all = allContainers();
  let matching = all;
  if (words.length > 0) {
    matching = all.filter((container) => {
      const text = `${nameOf(container)} ${container.pool ?? ""} ${container.id}`.toLowerCase();
      return words.every((word) => text.includes(word));
    });
  }
  if (order !== "name") {
    const rate = (container) => rates?.containers.get(container.id)?.[order] ?? -1;
    matching = [...matching].sort((a, b) => rate(b) - rate(a));
  }
  const shown = matching.slice(0, MAX_ROWS);
  const body = find("containers");
  const kept = new Map();
  shown.forEach((container, index) => {
    const row = rows.get(container.id) ?? newRow(container);
    kept.set(container.id, row);
    updateRow(row, container);
    // A row in its place is left there: moving it would take the focus from its button.
    if (body.children[index] !== row.element) {
      body.insertBefore(row.element, body.children[index] ?? null);
    }
  });
  while (body.children.length > shown.length) {
    body.lastElementChild.remove();
  }
  rows = kept;
  const filtered = words.length > 0 ? `, ${matching.length.toLocaleString("en")} match` : "";
  const limited = shown.length < matching.length ? `; the first ${shown.length} are shown: filter to see others` : "";
  setText(find("count"), `${counted(all.length, "container")}${filtered}${limited}.`);
}

function newRow(container) {
  const button = explainButton(container);
  const kinds = ["word", "number", "list", "list", "word", ...Array(6).fill("number")];
  const cellsOfRow = kinds.map((kind) => make("td", { class: kind }));
  return { element: make("tr", {}, make("th", { scope: "row" }, button), ...cellsOfRow), cells: cellsOfRow };
}

function updateRow(row, container) {
  const rate = rates?.containers.get(container.id);
  const number = (member, digits) => (rate?.[member] === undefined ? "–" : decimal(rate[member], digits));
  const unplaced = container.unplaced === undefined ? container.cpus || "–" : `unplaced: ${container.unplaced}`;
  const texts = [
    container.qos || "–",
    container.request_mcpu === undefined ? "–" : `${container.request_mcpu}m`,
    unplaced,
    container.exclusive || "–",
    container.pool || "–",
    number("use", 2),
    number("wait", 1),
    number("throttled", 1),
    number("outside", 1),
    number("foreign", 1),
    number("migrations", 0),
  ];
  texts.forEach((text, column) => setText(row.cells[column], text));
}

// ---- explain

async function explain(container) {
  chosenId = container.id;
  updateMap();
  const body = find("explanation");
  find("explain-title").textContent = nameOf(container);
  body.replaceChildren(make("p", {}, "Asking the daemon."));
  if (!find("explain").open) {
    find("explain").showModal();
  }
  let parts;
  try {
    parts = explanation(await (await ask(`/api/v1/explain/${encodeURIComponent(container.id)}`)).json());
  } catch (error) {
    parts = [make("p", { class: "notice", role: "alert" }, `No explanation: ${error.message}`)];
  }
  // Another container may have been asked for meanwhile.
  if (chosenId === container.id) {
    body.replaceChildren(...parts);
  }
}

/** Explains the container that the address of the page names behind #, once. */
function explainLinked() {
  if (newest.state === null || location.hash === "" || location.hash === explainedLink) {
    return;
  }
  let link = location.hash.slice(1);
  try {
    link = decodeURIComponent(link);
  } catch {
    // No percent-encoding: it is taken as it stands.
  }
  const container = newest.state.containers.find((known) => known.id === link || nameOf(known) === link);
  if (container !== undefined) {
    explainedLink = location.hash;
    explain(container);
  }
}

function explanation(view) {
  const { container } = view;
  const parts = [
    make("p", {}, `Wanted CPUs ${container.cpus || "none"}${container.mems === "" ? "" : `, memory nodes ${container.mems}`}. QoS class ${container.qos}.`),
    make("p", {}, `Request ${container.request_mcpu}m${container.request_source === "" ? "" : `: ${container.request_source}`}.`),
  ];
  if (container.unplaced !== undefined) {
    parts.push(make("p", { class: "notice" }, `Unplaced: ${container.unplaced}`));
  }
  if (view.measurements !== "") {
    parts.push(make("p", {}, `Now ${view.measurements}`));
  }
  if (view.measured !== undefined) {
    parts.push(...view.measured.lines.map((line) => make("p", {}, line)));
  }
  parts.push(make("p", {}, `Id ${container.id}`));
  if (view.decisions.length === 0) {
    parts.push(make("p", {}, "No decision concerned it."));
  }
  for (const decision of [...view.decisions].reverse()) {
    parts.push(make("h3", {}, `${decision.at} ${decision.summary}`));
    for (const [title, texts] of [["Because", decision.reasons], ["Choices, best first", decision.candidates]]) {
      if (texts.length > 0) {
        parts.push(make("p", {}, title), make("ul", {}, ...texts.map((text) => make("li", {}, text))));
      }
    }
  }
  return parts;
}

// ---- all of it

function draw() {
  present();
  if (state === null || topology === null || config === null) {
    return;
  }
  updateNotices();
  updateFacts();
  updateMap();
  updatePools();
  updateConfig();
  updateTable();
  // A button that has the focus must not vanish.
  if (shownCpu !== null && !find("cpu").contains(document.activeElement)) {
    showCpu(shownCpu);
  }
}

function cellOf(event) {
  return event.target instanceof Element ? event.target.closest("button[data-cpu]") : null;
}

function takeCell(event) {
  const element = cellOf(event);
  if (element !== null) {
    showCpu(Number(element.dataset.cpu));
  }
}

find("map").addEventListener("pointerover", takeCell);
find("map").addEventListener("focusin", (event) => {
  const element = cellOf(event);
  if (element === null) {
    return;
  }
  for (const box of cells.values()) {
    box.element.tabIndex = box.element === element ? 0 : -1;
  }
  takeCell(event);
});
find("map").addEventListener("keydown", (event) => {
  const order = [...cells.values()].map((box) => box.element);
  const at = order.indexOf(cellOf(event));
  const targets = {
    ArrowRight: at + 1,
    ArrowDown: at + 1,
    ArrowLeft: at - 1,
    ArrowUp: at - 1,
    Home: 0,
    End: order.length - 1,
  };
  if (at >= 0 && targets[event.key] !== undefined) {
    event.preventDefault();
    order[targets[event.key]]?.focus();
  }
});
for (const input of document.querySelectorAll("input[name=heat]")) {
  input.addEventListener("change", draw);
}
find("filter").addEventListener("input", draw);
find("past").addEventListener("input", chooseMoment);
find("now").addEventListener("click", () => {
  find("past").value = find("past").max;
  chooseMoment();
  find("past").focus();
});
find("order").addEventListener("change", draw);
find("pause").addEventListener("click", () => {
  paused = !paused;
  find("pause").setAttribute("aria-pressed", String(paused));
  if (paused) {
    setText(find("connection"), PAUSED);
  }
  keepUp();
});
document.addEventListener("visibilitychange", keepUp);
setInterval(keepUp, POLL_MS);
keepUp();
