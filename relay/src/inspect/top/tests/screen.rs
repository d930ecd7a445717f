//! The live picture, as an operator sees it. `golden/` has it at three sizes.

use super::*;
use crate::golden::assert_golden;
use proptest::prelude::*;
use ratatui::{
    Terminal,
    backend::TestBackend,
    crossterm::event::{KeyCode, KeyEvent, KeyModifiers},
    style::Color,
};
use std::fmt::Write as _;

const SIZES: [(u16, u16); 3] = [(80, 24), (100, 30), (150, 40)];

fn press(screen: &mut Screen, key: KeyCode) {
    let key = KeyEvent::new(key, KeyModifiers::NONE);
    assert!(screen.press(key).is_continue(), "{key:?}");
}

fn write(screen: &mut Screen, keys: &str) {
    for key in keys.chars() {
        press(screen, KeyCode::Char(key));
    }
}

fn drawn(screen: &mut Screen, width: u16, height: u16) -> String {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| screen.draw(frame)).unwrap();
    let buffer = terminal.backend().buffer();
    let cells: Vec<_> = buffer.content.iter().map(|cell| cell.symbol()).collect();
    let lines = cells.chunks(width.into()).map(<[_]>::concat);
    let lines: Vec<_> = lines
        .map(|line| line.trim_end().to_owned() + "\n")
        .collect();
    lines.concat()
}

/// Compares the screen at each size with a file, after these keys.
fn assert_renders(view: &[TopView; 2], keys: &[KeyCode], decision: &str, name: &str) {
    let mut text = String::new();
    for (width, height) in SIZES {
        let [first, second] = view.clone();
        let mut screen = Screen::new(first, false);
        screen.update(second);
        for key in keys {
            press(&mut screen, *key);
        }
        if let Some(id) = screen.unexplained().map(ToOwned::to_owned) {
            screen.explain(id, decision.to_owned());
        }
        let edge = "-".repeat(width.into());
        writeln!(text, "{width}x{height}\n{edge}").unwrap();
        writeln!(text, "{}{edge}", drawn(&mut screen, width, height)).unwrap();
    }
    assert_golden(&text, &format!("src/inspect/top/golden/{name}.txt"));
}

fn characters(keys: &str) -> impl Iterator<Item = KeyCode> {
    keys.chars().map(KeyCode::Char)
}

/// A node of `packages` packages of two threads to a core, with sums at the start and a second later.
fn node(packages: u32, cpus_each: u32, containers: Vec<TopContainer>) -> [TopView; 2] {
    let cpus = (0..packages * cpus_each).map(|cpu| Seat {
        cpu,
        core: cpu / 2,
        llc: cpu / cpus_each,
        node: cpu / cpus_each,
        package: cpu / cpus_each,
    });
    let cpus: Vec<_> = cpus.collect();
    let mut busy_ns = BTreeMap::<u32, u64>::new();
    for (cpu, ns) in containers.iter().flat_map(|container| &container.run_ns) {
        *busy_ns.entry(*cpu).or_default() += ns;
    }
    let first = TopView {
        quality: "exact".into(),
        at_ns: SECOND,
        cpus,
        cost_ns: Some(31.4),
        ..TopView::default()
    };
    let mut second = TopView {
        at_ns: 2 * SECOND,
        busy_ns,
        switches: 48_213,
        containers,
        ..first.clone()
    };
    worst_first(&mut second.containers);
    [first, second]
}

fn named(id: &str, name: &str, run: &[(u32, u64)]) -> TopContainer {
    let mut parts = name.split('/').map(ToOwned::to_owned);
    let mut part = || parts.next().unwrap_or_default();
    TopContainer {
        id: id.into(),
        namespace: part(),
        pod: part(),
        container: part(),
        run_ns: run.iter().copied().collect(),
        ..TopContainer::default()
    }
}

fn quiet() -> [TopView; 2] {
    let proxy = TopContainer {
        contention_ns: 40_000,
        waited_for_ns: [("system.slice/kubelet.service".into(), 40_000)].into(),
        voluntary: 120,
        wait_histogram: histogram(&[(1, 90), (3, 4)]),
        ..named(
            "p",
            "kube-system/kube-proxy-x9k2j/kube-proxy",
            &[(1, 3_000_000)],
        )
    };
    let dns = named(
        "d",
        "kube-system/coredns-5d78c9869d-4xk2p/coredns",
        &[(2, 9_000_000)],
    );
    let idle = named("i", "default/own-cpu/main", &[]);
    let cpus = |cpus: &str, container| TopContainer {
        cpus: cpus.into(),
        ..container
    };
    let own = TopContainer {
        exclusive: "3".into(),
        ..cpus("3", idle)
    };
    node(
        1,
        8,
        vec![cpus("0-2,4-7", proxy), cpus("0-2,4-7", dns), own],
    )
}

fn histogram(counts: &[(usize, u64)]) -> [u64; resmgr_common::BUCKETS] {
    let mut histogram = [0; resmgr_common::BUCKETS];
    for (bucket, count) in counts {
        histogram[*bucket] = *count;
    }
    histogram
}

/// Forty replicas of three deployments that differ in their last characters only, on one package.
fn crowded() -> [TopView; 2] {
    let deployments = [
        "production-payments/checkout-service-worker-7d9f8b6c5d-",
        "production-payments/checkout-service-web-6f5b9c7d8e-",
        "production-fulfilment/checkout-service-worker-7d9f8b6c5d-",
    ];
    let name = |index: usize| {
        let suffix = format!("x{}k{}q", index % 7, index);
        format!("{}{suffix}/checkout-service-main", deployments[index % 3])
    };
    let containers = (0..32u32).cycle().zip(0..40usize).map(|(cpu, index)| {
        let ns = index as u64 * 6_100_000;
        let wait = (40 - index as u64) * 3_456_789;
        TopContainer {
            cpus: "0-31".into(),
            contention_ns: wait,
            waited_for_ns: [
                (name((index + 1) % 40), wait * 6 / 10),
                (name(index), wait / 10),
                ("kernel".into(), wait * 3 / 10),
            ]
            .into(),
            throttled_ns: if index % 4 == 0 { 212_000_000 } else { 0 },
            preempted: 3 * index as u64,
            migrations: [4, 12 * index as u64, 0, 0, 0],
            wait_histogram: histogram(&[(3, 100), (9, 3)]),
            ..named(&format!("{index:02}"), &name(index), &[(cpu, ns)])
        }
    });
    node(1, 32, containers.collect())
}

/// Two packages; what should have CPUs for itself shares them with a service.
fn robbed() -> [TopView; 2] {
    let chronyd = "system.slice/chronyd.service";
    let batch = "batch/spark-executor-17/executor";
    let db = TopContainer {
        cpus: "2-3".into(),
        exclusive: "2-3".into(),
        contention_ns: 148_200_000,
        waited_for_ns: [
            (chronyd.into(), 90_000_000),
            ("databases/postgres-primary-0/postgres".into(), 30_000_000),
            ("(outside containers)".into(), 20_000_000),
            ("kernel".into(), 5_000_000),
            ("system.slice/cron.service".into(), 3_000_000),
            ("system.slice/dbus.service".into(), 150_000),
            ("user.slice/user-0.slice".into(), 50_000),
        ]
        .into(),
        foreign_ns: [
            (chronyd.into(), 61_000_000),
            ("(outside containers)".into(), 9_000_000),
        ]
        .into(),
        preempted: 212,
        voluntary: 363,
        involuntary: 230,
        migrations: [40, 0, 0, 0, 0],
        memory_bytes: [(0, 3 << 30), (1, 1 << 30)].into(),
        wait_histogram: histogram(&[
            (0, 31),
            (1, 220),
            (2, 512),
            (3, 480),
            (4, 333),
            (5, 190),
            (6, 77),
            (7, 60),
            (8, 41),
            (9, 20),
            (10, 17),
            (11, 9),
            (12, 11),
            (13, 4),
            (14, 2),
        ]),
        ..named(
            "5e1f0c9a7b3d2e4f60718293a4b5c6d7e8f90a1b2c3d4e5f60718293a4b5c6d7",
            "databases/postgres-primary-0/postgres",
            &[(2, 640_000_000), (3, 410_000_000)],
        )
    };
    let executor = TopContainer {
        cpus: "0-1,4-15".into(),
        contention_ns: 1_250_000_000,
        waited_for_ns: [
            (batch.into(), 1_100_000_000),
            ("kernel".into(), 150_000_000),
        ]
        .into(),
        throttled_ns: 320_000_000,
        throttled_wait_ns: 900_000_000,
        preempted: 19,
        migrations: [12, 410, 0, 0, 88],
        memory_bytes: [(0, 5 << 29), (1, 7 << 29)].into(),
        wait_histogram: histogram(&[(4, 100), (13, 30), (16, 2)]),
        ..named(
            "e",
            batch,
            &[
                (0, 900_000_000),
                (1, 870_000_000),
                (4, 760_000_000),
                (12, 990_000_000),
            ],
        )
    };
    let web = TopContainer {
        cpus: "8-11".into(),
        outside_ns: 7_000_000,
        contention_ns: 2_000_000,
        waited_for_ns: [("web/frontend-0/nginx".into(), 2_000_000)].into(),
        memory_bytes: [(0, 1 << 28)].into(),
        wait_histogram: histogram(&[(2, 1000)]),
        ..named(
            "w",
            "web/frontend-0/nginx",
            &[(8, 30_000_000), (4, 7_000_000)],
        )
    };
    node(2, 8, vec![db, executor, web])
}

const WHY: &str = "static: 2 exclusive CPUs, core 1 whole; the least busy of 3 free cores";

#[test]
fn a_quiet_node_looks_quiet() {
    assert_renders(&quiet(), &[], "", "quiet");
}

#[test]
fn forty_containers_with_long_similar_names_are_told_apart() {
    assert_renders(&crowded(), &[], "", "crowded");
}

#[test]
fn a_node_of_two_packages_has_their_columns() {
    assert_renders(&robbed(), &[], "", "packages");
}

#[test]
fn the_detail_pane_says_what_a_container_waits_for() {
    assert_renders(&robbed(), &[KeyCode::Down, KeyCode::Enter], WHY, "detail");
}

#[test]
fn the_help_explains_keys_and_columns() {
    assert_renders(&robbed(), &[KeyCode::Char('?')], "", "help");
}

#[test]
fn the_filter_is_seen_while_it_is_written() {
    let keys: Vec<_> = characters("/WEB-6F5b9c7d8e-x1").collect();
    assert_renders(&crowded(), &keys, "", "filter");
}

#[test]
fn the_screen_shows_rates_of_the_last_interval_and_sums_when_asked() {
    let first = view(vec![container("a", &[(0, 5 * SECOND)], 0)], &[], SECOND);
    let mut screen = Screen::new(first, false);
    let next = view(
        vec![container("a", &[(0, 11 * SECOND / 2)], SECOND / 4)],
        &[(0, SECOND / 2)],
        2 * SECOND,
    );
    screen.update(next);
    let text = drawn(&mut screen, 120, 20);
    assert!(text.contains(" 0.50 "), "{text}");
    assert!(text.contains(" 250.0 "), "{text}");
    assert!(
        !text.contains("socket 0"),
        "it would leave little room: {text}"
    );
    write(&mut screen, "mt");
    let text = drawn(&mut screen, 120, 20);
    assert!(text.contains("socket 0"), "{text}");
    assert!(text.contains(" 5.5 "), "{text}");
}

#[test]
fn keys_sort_select_and_pause() {
    let containers = || {
        vec![
            container("a", &[(0, 10)], 900),
            container("b", &[(1, 1_000)], 1),
        ]
    };
    let mut screen = Screen::new(view(containers(), &[], SECOND), false);
    let first = |screen: &Screen| screen.rows()[0].id.clone();
    assert_eq!(first(&screen), "a");
    write(&mut screen, ">>>");
    assert!(drawn(&mut screen, 80, 20).contains("CPU▼"));
    assert_eq!(first(&screen), "b", "by CPU time");
    write(&mut screen, "r");
    assert!(drawn(&mut screen, 80, 20).contains("CPU▲"));
    assert_eq!(first(&screen), "a", "the other way round");
    write(&mut screen, "r");
    press(&mut screen, KeyCode::End);
    press(&mut screen, KeyCode::Enter);
    assert_eq!(screen.unexplained(), Some("a"));
    screen.explain("a".into(), "it was moved".into());
    assert_eq!(screen.unexplained(), None);
    let text = drawn(&mut screen, 80, 20);
    assert!(
        text.contains("default/a/c") && text.contains("it was moved"),
        "{text}"
    );
    press(&mut screen, KeyCode::Up);
    assert_eq!(screen.unexplained(), Some("b"));
    press(&mut screen, KeyCode::Esc);
    write(&mut screen, "<<<");
    assert!(drawn(&mut screen, 80, 20).contains("worst first"));

    write(&mut screen, "p");
    screen.update(view(Vec::new(), &[], 2 * SECOND));
    assert_eq!(first(&screen), "a", "a paused picture stays");
    assert!(drawn(&mut screen, 80, 20).contains("PAUSED"));
    write(&mut screen, "p");
    screen.update(view(Vec::new(), &[], 3 * SECOND));
    assert!(drawn(&mut screen, 80, 20).contains("no containers"));
    press(&mut screen, KeyCode::Up);
    press(&mut screen, KeyCode::Enter);
    assert!(drawn(&mut screen, 80, 20).contains("runs no more"));
}

#[test]
fn every_column_can_be_sorted_by_and_is_then_shown() {
    let [first, second] = robbed();
    let mut screen = Screen::new(first, false);
    screen.update(second);
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..16 {
        write(&mut screen, "o");
        let text = drawn(&mut screen, 80, 24);
        let column = screen.order.map(|order| order.heading(false).0);
        assert!(
            column.is_none_or(|column| text.contains(&format!("{column}▼"))),
            "{text}"
        );
        seen.insert(column);
    }
    assert_eq!(seen.len(), 1 + 15, "{seen:?}");
}

#[test]
fn a_long_table_is_paged_and_the_selected_row_stays_in_sight() {
    let [first, second] = crowded();
    let mut screen = Screen::new(first, false);
    screen.update(second);
    let mut row = |key: KeyCode| {
        press(&mut screen, key);
        let text = drawn(&mut screen, 80, 24);
        let selected: Vec<_> = text.lines().filter(|line| line.starts_with('>')).collect();
        assert_eq!(selected.len(), 1, "{text}");
        screen.place(&screen.rows())
    };
    row(KeyCode::Up);
    let page = row(KeyCode::PageDown);
    assert!(page > 10, "{page}");
    assert_eq!(row(KeyCode::End), 39);
    assert_eq!(row(KeyCode::Down), 39);
    assert_eq!(row(KeyCode::PageUp), 39 - page);
    assert_eq!(row(KeyCode::Home), 0);
}

#[test]
fn a_filter_keeps_what_has_it_in_its_name_until_esc() {
    let [first, second] = crowded();
    let mut screen = Screen::new(first, false);
    screen.update(second);
    write(&mut screen, "/fulFilmentq");
    assert!(drawn(&mut screen, 80, 24).contains("no container has this in its name"));
    press(&mut screen, KeyCode::Backspace);
    assert_eq!(screen.rows().len(), 13);
    press(&mut screen, KeyCode::Enter);
    write(&mut screen, "p");
    let text = drawn(&mut screen, 80, 24);
    assert!(
        text.contains("PAUSED") && text.contains("of 40, filter fulFilment"),
        "{text}"
    );
    press(&mut screen, KeyCode::Esc);
    assert_eq!(screen.rows().len(), 40);
    write(&mut screen, &format!("/{}end", "x".repeat(100)));
    assert!(drawn(&mut screen, 20, 24).ends_with(" filter: xxxxxxxend_\n"));
    press(&mut screen, KeyCode::Esc);
    let quit = KeyEvent::new(KeyCode::Char('q'), KeyModifiers::NONE);
    assert!(screen.press(quit).is_break());
}

#[test]
fn what_is_not_measured_is_no_zero() {
    let [first, mut second] = robbed();
    second.quality = "polled".into();
    second.reason = Some("no type information".into());
    let mut screen = Screen::new(first, false);
    screen.update(second);
    let text = drawn(&mut screen, 80, 24);
    assert!(
        text.contains("! telemetry polled: no type information"),
        "{text}"
    );
    let row = text.lines().find(|line| line.contains("web/")).unwrap();
    assert!(row.trim_end().ends_with('-'), "{text}");
    screen.trouble("cannot reach a running cri-resmgr at /run/x".into());
    let text = drawn(&mut screen, 80, 24);
    assert!(text.contains("! cannot reach a running"), "{text}");
}

#[test]
fn without_colours_there_are_none() {
    for colour in [false, true] {
        let [first, second] = robbed();
        let mut screen = Screen::new(first, colour);
        screen.update(second);
        let mut terminal = Terminal::new(TestBackend::new(150, 40)).unwrap();
        terminal.draw(|frame| screen.draw(frame)).unwrap();
        let cells = &terminal.backend().buffer().content;
        let coloured = cells
            .iter()
            .any(|cell| cell.fg != Color::Reset || cell.bg != Color::Reset);
        assert_eq!(coloured, colour);
    }
}

fn some_container() -> impl Strategy<Value = TopContainer> {
    let number = prop_oneof![Just(0), any::<u32>().prop_map(u64::from), 0..u64::MAX >> 8];
    let name =
        "([a-c]{1,60}|production-[0-9]{1,3})/[a-c0/-]{0,80}-[a-f0-9é]{1,5}/(c|main|[a-z]{40,63})";
    let sums = prop::collection::btree_map(name, number.clone(), 0..8);
    let cpus = prop_oneof![
        Just(""),
        Just("0-3"),
        Just("0,2,4,6,8,10,12-15"),
        Just("nonsense")
    ];
    let numbers = prop::collection::vec(number, 4 + 5 + resmgr_common::BUCKETS);
    (name, sums.clone(), sums, cpus, numbers).prop_map(|(name, waits, foreign, cpus, numbers)| {
        let mut container = named(&name, &name, &[(0, numbers[0]), (700, numbers[1])]);
        container.cpus = cpus.into();
        container.exclusive = cpus.into();
        container.contention_ns = waits.values().sum();
        container.waited_for_ns = waits;
        container.foreign_ns = foreign;
        container.throttled_ns = numbers[2];
        container.memory_bytes = [(0, numbers[2]), (7, numbers[3])].into();
        container.preempted = numbers[3];
        container.migrations.copy_from_slice(&numbers[4..9]);
        container.wait_histogram.copy_from_slice(&numbers[9..]);
        container
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// A line is composed for its width, and names that differ look different.
    #[test]
    fn any_screen_holds_any_node(
        containers in prop::collection::vec(some_container(), 0..25),
        width in 20u16..=300,
        height in 5u16..=60,
        keys in "[ <>ortm?/a-c]{0,8}",
        pane in prop_oneof![Just(KeyCode::Null), Just(KeyCode::Enter), Just(KeyCode::Char('?'))],
        packages in 1u32..4,
    ) {
        let [first, second] = node(packages, 24, containers);
        let mut screen = Screen::new(first, true);
        screen.update(second);
        write(&mut screen, &keys);
        press(&mut screen, KeyCode::Esc);
        press(&mut screen, pane);
        drawn(&mut screen, width, height);
        let (lines, drawn) = screen.lines(width.into(), height.into());
        prop_assert_eq!(lines.len(), usize::from(height));
        for line in &lines {
            prop_assert!(line.width() <= usize::from(width), "{}", line);
        }
        if screen.pane != crate::inspect::top::screen::Pane::Table {
            return Ok(());
        }
        let rows = screen.rows();
        let marks = if drawn.map { 3 } else { 2 };
        let columns = crate::inspect::top::columns::fitting(
            screen.view(), &rows, usize::from(width) - marks, screen.order,
        );
        let (_, name_width) = columns[0];
        let names: std::collections::BTreeSet<_> = rows.iter().map(|row| row.name()).collect();
        let short = crate::inspect::top::names::shortened(names.iter().map(String::as_str), name_width);
        let cells: std::collections::BTreeSet<_> = short.values().collect();
        prop_assert_eq!(cells.len(), names.len());
        let shown = &lines[lines.len() - 1 - drawn.page.min(lines.len() - 1)..lines.len() - 1];
        for (row, line) in rows.iter().skip(drawn.first).zip(shown) {
            let cell: String = line.to_string().chars().skip(marks).take(name_width).collect();
            prop_assert_eq!(cell.trim_end(), short[row.name().as_str()].trim_end());
        }
    }
}
