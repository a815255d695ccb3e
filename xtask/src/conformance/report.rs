//! From the suite's report to the document that lists every behaviour.

use super::behaviours::waits_for;
use std::collections::BTreeMap;
use std::fmt;

/// Longest reason that is shown for a failure, in characters.
const REASON: usize = 300;

/// What came of a behaviour.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// Whether it passed.
    pub passed: bool,
    /// How long it took.
    pub seconds: f64,
    /// Why it failed, in the suite's words.
    pub reason: String,
}

/// How many behaviours there are of each kind.
#[derive(Debug, Default, PartialEq)]
pub struct Totals {
    passed: usize,
    failed: usize,
    not_run: usize,
}

impl fmt::Display for Totals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            passed,
            failed,
            not_run,
        } = self;
        write!(
            f,
            "{} behaviours: {passed} passed, {failed} failed, {not_run} not run",
            passed + failed + not_run
        )
    }
}

/// The outcomes in a JUnit report, of those behaviours that ran.
pub fn outcomes(junit: &str, all: &[String]) -> BTreeMap<String, Outcome> {
    let mut outcomes = BTreeMap::new();
    for case in junit.split("<testcase ").skip(1) {
        let case = case.split("</testcase>").next().unwrap_or_default();
        let head = case.split('>').next().unwrap_or_default();
        let name = attribute(head, "name").unwrap_or_default();
        let Some(name) = all.iter().find(|known| names(&name, known)) else {
            continue;
        };
        let status = attribute(head, "status").unwrap_or_default();
        if matches!(status.as_str(), "skipped" | "pending") {
            continue;
        }
        let time = attribute(head, "time").and_then(|t| t.parse().ok());
        outcomes.insert(
            name.clone(),
            Outcome {
                passed: status == "passed",
                seconds: time.unwrap_or_default(),
                reason: reason(case),
            },
        );
    }
    outcomes
}

/// Whether a case of the report is this behaviour: `[It] ` before its name, labels behind it.
fn names(case: &str, behaviour: &str) -> bool {
    let case = case.strip_prefix("[It] ").unwrap_or(case);
    case.strip_prefix(behaviour)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with(" ["))
}

/// What the suite says about a failure, on one line.
fn reason(case: &str) -> String {
    let failure = ["<failure ", "<error "]
        .iter()
        .find_map(|tag| case.split_once(tag));
    let Some((_, failure)) = failure else {
        return String::new();
    };
    let message = attribute(failure, "message").unwrap_or_default();
    let words: Vec<&str> = message.split_whitespace().collect();
    words.join(" ").chars().take(REASON).collect()
}

/// The value of an attribute in an XML tag.
fn attribute(tag: &str, name: &str) -> Option<String> {
    let start = format!("{name}=\"");
    let at = tag
        .match_indices(&start)
        .find(|(at, _)| *at == 0 || tag[..*at].ends_with(' '))?
        .0;
    let value = tag[at + start.len()..].split('"').next()?;
    let mut text = value.to_owned();
    for (escape, character) in [
        ("&lt;", "<"),
        ("&gt;", ">"),
        ("&quot;", "\""),
        ("&#34;", "\""),
        ("&apos;", "'"),
        ("&#39;", "'"),
        ("&#xA;", "\n"),
        ("&#x9;", "\t"),
        ("&amp;", "&"),
    ] {
        text = text.replace(escape, character);
    }
    Some(text)
}

/// The document: every behaviour of `all`. Those that did not run now keep the line that they have in `before`.
pub fn document(
    all: &[String],
    outcomes: &BTreeMap<String, Outcome>,
    before: &str,
    day: &str,
    rounds: &[String],
) -> (String, Totals) {
    let mut totals = Totals::default();
    let mut rows = String::new();
    let mut group = "";
    for name in all {
        let sig = name
            .split_once("] ")
            .map_or("", |(sig, _)| sig.trim_start_matches("[sig-"));
        if sig != group {
            group = sig;
            rows.push_str(&format!(
                "\n## {sig}\n\n| behaviour | result | s | day | waits for |\n|---|---|--:|---|---|\n"
            ));
        }
        let row = row(name, outcomes.get(name), before, day);
        match row.split(" | ").nth(1) {
            Some("passed") => totals.passed += 1,
            Some("**failed**") => totals.failed += 1,
            _ => totals.not_run += 1,
        }
        rows.push_str(&row);
        rows.push('\n');
    }
    let text = format!(
        "# Conformance\n\n{totals}.\n\n`cargo xtask conformance` runs upstream's end-to-end suite against a cluster that \
         `hikube up` starts, and writes this file.\nA behaviour that a run leaves out keeps its line; *day* says when it \
         ran last and on which commit (`+`: with changes that were not committed), *s* how long it took.\n\n\
         {ROUNDS}{}{rows}",
        latest(before, rounds)
    );
    (text, totals)
}

/// Rounds that the document shows: those of a few days of work.
const MAX_ROUNDS: usize = 30;
/// What stands above them.
const ROUNDS: &str = "## Rounds\n\nThe last runs of a whole selection, the oldest first.\n\n\
                      | day | selection | passed | failed | s |\n|---|---|--:|--:|--:|\n";

/// A round as the document shows it.
pub fn round(day: &str, selection: &str, outcomes: &BTreeMap<String, Outcome>, seconds: u64) -> String {
    let passed = outcomes.values().filter(|o| o.passed).count();
    let failed = outcomes.len() - passed;
    let selection = selection.replace('|', "\\|").replace('*', "\\*");
    format!("| {day} | {selection} | {passed} | {failed} | {seconds} |\n")
}

/// The rounds that the document had, and new ones.
fn latest(before: &str, rounds: &[String]) -> String {
    let known = before.split_once(ROUNDS).map_or("", |(_, rest)| rest);
    let known = known.lines().take_while(|line| line.starts_with('|'));
    let mut all: Vec<String> = known.map(|line| format!("{line}\n")).collect();
    all.extend_from_slice(rounds);
    let surplus = all.len().saturating_sub(MAX_ROUNDS);
    all[surplus..].concat()
}

/// A line of the table.
fn row(name: &str, outcome: Option<&Outcome>, before: &str, day: &str) -> String {
    let shown = shown(name);
    let start = format!("| {shown} | ");
    match outcome {
        Some(Outcome {
            passed: true,
            seconds,
            ..
        }) => format!("{start}passed | {seconds:.1} | {day} | |"),
        Some(Outcome { seconds, .. }) => {
            format!(
                "{start}**failed** | {seconds:.1} | {day} | {} |",
                waits_for(name, true)
            )
        }
        None => {
            let not_run = || format!("{start}not run | | | {} |", waits_for(name, false));
            let mut kept = before.lines().filter(|line| line.starts_with(&start));
            kept.find(|line| !line.contains(" | not run | "))
                .map_or_else(not_run, |line| said_again(line, name))
        }
    }
}

/// A line of an earlier run; what it waits for is what we know now.
fn said_again(line: &str, name: &str) -> String {
    match line.trim_end_matches(" |").rsplit_once(" | ") {
        Some((result, _)) if line.contains(" | **failed** | ") => {
            format!("{result} | {} |", waits_for(name, true))
        }
        _ => line.to_owned(),
    }
}

/// The name without what all names share, safe within a table.
fn shown(name: &str) -> String {
    let (_, name) = name.split_once("] ").unwrap_or(("", name));
    name.replace(" [Conformance]", "")
        .replace('|', "\\|")
        .replace('*', "\\*")
}

#[cfg(test)]
mod tests {
    use super::*;

    const REPORT: &str = r#"<testsuites><testsuite>
<testcase name="[SynchronizedBeforeSuite]" status="passed" time="1"></testcase>
<testcase name="[It] [sig-a] says &#34;one&#34; [Conformance] [sig-a, Conformance]" classname="x" status="passed" time="1.25"><system-err>time="9"</system-err></testcase>
<testcase name="[It] [sig-a] two [Conformance]" status="failed" time="3"><failure message="it &lt;broke&gt;&#xA;  here" type="failed">x</failure></testcase>
<testcase name="[It] [sig-b] three [Conformance]" status="skipped" time="0"></testcase>
</testsuite></testsuites>"#;

    fn all() -> Vec<String> {
        [
            "[sig-a] says \"one\" [Conformance]",
            "[sig-a] two [Conformance]",
            "[sig-b] three [Conformance]",
        ]
        .map(String::from)
        .into()
    }

    #[test]
    fn a_report_is_read() {
        let outcomes = outcomes(REPORT, &all());
        assert_eq!(outcomes.len(), 2);
        let one = &outcomes["[sig-a] says \"one\" [Conformance]"];
        assert_eq!((one.passed, one.seconds), (true, 1.25));
        let two = &outcomes["[sig-a] two [Conformance]"];
        assert_eq!((two.passed, two.reason.as_str()), (false, "it <broke> here"));
    }

    #[test]
    fn the_document_lists_all_and_keeps_what_did_not_run() {
        let (first, totals) = document(&all(), &outcomes(REPORT, &all()), "", "2026-11-20", &[]);
        let expected = Totals {
            passed: 1,
            failed: 1,
            not_run: 1,
        };
        assert_eq!(totals, expected);
        assert!(
            first.contains("| two | **failed** | 3.0 | 2026-11-20 |"),
            "{first}"
        );
        let three = BTreeMap::from([(
            "[sig-b] three [Conformance]".to_owned(),
            Outcome {
                passed: true,
                seconds: 0.5,
                reason: String::new(),
            },
        )]);
        let (second, totals) = document(&all(), &three, &first, "2026-11-21", &[]);
        assert_eq!(
            totals,
            Totals {
                passed: 2,
                failed: 1,
                not_run: 0
            }
        );
        assert!(
            second.contains("| says \"one\" | passed | 1.2 | 2026-11-20 | |"),
            "{second}"
        );
        assert!(
            second.contains("| three | passed | 0.5 | 2026-11-21 | |"),
            "{second}"
        );
        assert_eq!(totals.to_string(), "3 behaviours: 2 passed, 1 failed, 0 not run");
    }

    #[test]
    fn rounds_are_kept_and_the_oldest_go() {
        let outcomes = outcomes(REPORT, &all());
        let one = round("2026-11-20 abc", "`a|b`", &outcomes, 7);
        assert_eq!(one, "| 2026-11-20 abc | `a\\|b` | 1 | 1 | 7 |\n");
        let (first, _) = document(&all(), &outcomes, "", "day", std::slice::from_ref(&one));
        let more = vec!["| x | y | 2 | 0 | 1 |\n".to_owned(); MAX_ROUNDS - 1];
        let (second, _) = document(&all(), &outcomes, &first, "day", &more);
        assert!(second.contains(&one) && second.contains("\n## a\n"), "{second}");
        let (third, _) = document(&all(), &outcomes, &second, "day", &more[..1]);
        assert!(!third.contains(&one), "{third}");
        assert_eq!(third.matches("| x | y |").count(), MAX_ROUNDS);
    }
}
