//! Chat templates that try to take all memory, all time or all stack. This binary counts memory
//! as the worker does.

#![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

use std::time::Duration;

use olmo_data::bounded::{self, Allocator, Exceeded, Limits};
use olmo_data::jinja::{Bounds, Template, Variables};
use serde_json::json;

#[global_allocator]
static ALLOCATOR: Allocator = Allocator;

/// The largest resident size of this process so far, in MiB.
fn peak_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or("0");
    line.trim().trim_end_matches(" kB").trim().parse::<u64>().unwrap_or(0) >> 10
}

/// What `source` makes of two short turns within the bounds that a conversation gets, or why it makes nothing.
fn render(source: &str) -> Result<String, String> {
    let template = Template::parse(source).map_err(|e| e.to_string())?;
    let turns = json!([{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Good day."}]);
    let variables = Variables {
        messages: serde_json::from_value(turns).unwrap(),
        others: vec![("eos_token".into(), "<eos>".into())],
        date: None,
    };
    let bounds = Bounds { fuel: 2_000_000, longest: 20_000 };
    template.render(&variables, bounds).map(|made| made.text).map_err(|e| e.to_string())
}

/// A loop over `body` that keeps a value in `ns.s`.
fn repeat(start: &str, times: usize, body: &str) -> String {
    format!(
        "{{% set ns = namespace(s={start}) %}}{{% for i in range({times}) %}}{{% set ns.s = {body} %}}{{% endfor %}}"
    )
}

#[test]
fn a_template_that_grows_without_end_is_refused_before_it_takes_the_memory() {
    let print = "{{ ns.s }}";
    let sources = [
        repeat("'x'", 60, "ns.s ~ ns.s"),
        repeat("'x'", 60, "ns.s + ns.s"),
        repeat("'x'", 60, "[ns.s, ns.s] | join('y')"),
        repeat("'a'", 40, "ns.s | replace('a', 'aaaa')"),
        repeat("'a'", 40, "ns.s.replace('a', 'aaaa')"),
        repeat("'\"'", 50, "ns.s | tojson"),
        repeat("[1]", 60, "ns.s + ns.s") + "{{ ns.s | length }}" + print,
        repeat("[1]", 60, "[ns.s, ns.s]") + print,
        repeat("[1]", 60, "[ns.s, ns.s]") + "{{ ns.s | tojson }}",
        "{{ range(99999) | join('x' * 100000) }}".into(),
        "{{ 'x' * 100000000000 }}".into(),
        "{{ ('x' * 1000000) * 1000000 }}".into(),
        "{{ '%1000000000d' | format(1) }}".into(),
        "{{ '%*d' | format(1000000000, 1) }}".into(),
        "{{ [1] | batch(1000000000, 'x') }}".into(),
        "{{ [1] | slice(1000000000) }}".into(),
        "{{ 'x' | indent(1000000000) }}{{ 'x\ny' | indent(1000000000) }}".into(),
        "{{ 'x' | center(10000000000) }}".into(),
        "{% macro m(n) %}{{ 'x' * 1000000 }}{{ m(n) }}{% endmacro %}{{ m(1) }}".into(),
        "{% set x %}{% for i in range(99999) %}{{ 'x' * 100000 }}{% endfor %}{% endset %}{{ x }}".into(),
    ];
    for source in sources {
        let before = peak_mib();
        let refusal = render(&source).expect_err(&source);
        let taken = peak_mib() - before;
        eprintln!("{taken} MiB more: {:.80}: {refusal}", source.escape_debug().to_string());
        assert!(taken < 300, "{taken} MiB for {source}");
    }
}

#[test]
fn a_template_that_is_deep_or_slow_is_refused_and_ends_nothing() {
    let chain =
        |open: &str, times: usize, close: &str| format!("{{{{ {}1{} }}}}", open.repeat(times), close.repeat(times));
    let mut sources = vec![
        chain("-", 100_000, ""),
        chain("not ", 100_000, ""),
        chain("", 100_000, "|upper"),
        chain("", 30_000, "+1"),
        chain("", 3_000, "|upper") + &"{% for m in messages %}".repeat(200),
        chain("-", 30_000, ""),
        chain("", 4_000, "|upper") + "{{ 1.x.y }}",
        chain("(", 10_000, ")"),
        chain("[", 10_000, "]"),
        chain("", 10_000, "[0]"),
        "{% if 0 %}".repeat(80_000),
        format!("{{% if 0 %}}{}{{% endif %}}{{{{ [1] | x }}}}", "{% elif 0 %}".repeat(80_000)),
        format!("{{% if 0 %}}{}", "{% else %}{% if 0 %}".repeat(40_000)),
        // Deep values: printed, compared, written as JSON, dropped.
        repeat("[]", 99_999, "[ns.s]") + "{{ ns.s }}",
        repeat("[]", 99_999, "[ns.s]") + "{{ ns.s | tojson }}",
        repeat("[]", 99_999, "[ns.s]") + "{{ ns.s == [ns.s] }}{{ raise_exception('end') }}",
        repeat("{}", 99_999, "{'a': ns.s}") + "{{ ns.s | tojson }}",
        repeat("dict()", 99_999, "dict(ns.s, **{'k' ~ i: i})"),
        repeat("''", 99_999, "ns.s ~ 'x' * 1000"),
    ];
    sources.push(
        repeat("[1]", 40, "[ns.s, ns.s]") + "{{ ns.s == ns.s ~ '' }}{{ [ns.s, 1] | sort }}{{ raise_exception('x') }}",
    );
    for source in sources {
        let before = peak_mib();
        // Some of it is harmless, such as a sum of many ones: what counts is that this returns.
        let made = render(&source).map(|text| text.len());
        let taken = peak_mib() - before;
        eprintln!("{taken} MiB more: {:.80}: {made:.200?}", source.escape_debug().to_string());
        assert!(taken < 500, "{taken} MiB for {source:.80}");
    }
}

#[test]
fn work_within_its_limits_gives_its_result_and_a_panic_is_passed_on() {
    let limits = Limits { memory: 1 << 20, time: Duration::from_secs(60) };
    assert_eq!(bounded::run(limits, || vec![7u8; 1000].len()), Ok(1000));
    // What is freed may be taken again.
    assert_eq!(bounded::run(limits, || (0..100).map(|_| vec![1u8; 500_000].len()).sum::<usize>()), Ok(50_000_000));
    assert_eq!(bounded::run(limits, || vec![7u8; 2 << 20].len()), Err(Exceeded::Memory(1 << 20)));
    let growing = || {
        // Far beyond the limit, and little by little.
        (0..1 << 30).fold(Vec::new(), |mut all: Vec<u64>, n| {
            all.push(n);
            all
        })
    };
    assert_eq!(bounded::run(limits, move || growing().len()), Err(Exceeded::Memory(1 << 20)));
    let short = Limits { time: Duration::from_millis(50), ..limits };
    let slow = || std::thread::sleep(Duration::from_secs(20));
    assert_eq!(bounded::run(short, slow), Err(Exceeded::Time(short.time)));
    let panicked = std::panic::catch_unwind(|| bounded::run(limits, || panic!("its own words")));
    assert_eq!(panicked.unwrap_err().downcast_ref::<&str>(), Some(&"its own words"));
}
