//! The status page: one HTML text without scripts or anything from elsewhere.

use std::fmt::Write as _;

use chrono::SecondsFormat;

use crate::pipeline::status::{PipelineSnapshot, State};

const HEAD: &str = r#"<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="refresh" content="5">
<title>sluice</title>
<style>
:root { color-scheme: light dark; }
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 60rem; padding: 0 1rem; }
h1 { font-size: 1.3rem; } h2 { font-size: 1.1rem; margin: 2rem 0 0; } p { margin: .2rem 0 .6rem; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: right; padding: .2rem .6rem; border-bottom: 1px solid #8884; font-variant-numeric: tabular-nums; }
th:first-child, td:first-child, th:last-child, td:last-child { text-align: left; }
.error { color: #c22; }
</style>
</head>
<body>
<h1>sluice</h1>
"#;

/// The page as of now.
pub fn html(pipelines: &[PipelineSnapshot]) -> String {
    let mut page = String::from(HEAD);
    if pipelines.is_empty() {
        page.push_str("<p>no pipelines</p>\n");
    }
    for pipeline in pipelines {
        // Writing to a String can't fail.
        let _ = write_pipeline(&mut page, pipeline);
    }
    page.push_str("<p><a href=\"/metrics\">metrics</a> <a href=\"/readyz\">ready?</a></p>\n</body>\n</html>\n");
    page
}

/// The state as the JSON shapes have it.
pub fn state_word(state: State) -> &'static str {
    match state {
        State::Starting => "starting",
        State::Running => "running",
        State::Waiting => "waiting",
        State::BackingOff => "backing-off",
        State::Draining => "draining",
        State::Stopped => "stopped",
        State::Failed => "failed",
    }
}

fn write_pipeline(page: &mut String, pipeline: &PipelineSnapshot) -> std::fmt::Result {
    writeln!(page, "<h2>{}</h2>", escaped(&pipeline.name))?;
    write!(
        page,
        "<p>{}, owned by {}, into <code>{}</code>",
        state_word(pipeline.state),
        escaped(&pipeline.owner),
        escaped(&pipeline.table)
    )?;
    match &pipeline.last_commit {
        Some(commit) => writeln!(page, ", version {} at {}</p>", commit.version, escaped(&commit.at))?,
        None => writeln!(page, ", no commit yet</p>")?,
    }
    if let Some(error) = &pipeline.error {
        writeln!(page, "<p class=\"error\">{}</p>", escaped(error))?;
    }
    if let Some(schedule) = &pipeline.schedule {
        let next =
            schedule.next_at.map_or_else(|| "never".to_owned(), |at| at.to_rfc3339_opts(SecondsFormat::Secs, true));
        write!(page, "<p>backfilled at <code>{}</code>, next {next}", escaped(&schedule.cron))?;
        if let Some(last) = &schedule.last_run {
            let ended = last.ended_at.to_rfc3339_opts(SecondsFormat::Secs, true);
            let error = last.error.as_ref().map(|error| format!(": {}", escaped(error))).unwrap_or_default();
            write!(page, "; the last one ended {ended}, {}{error}", last.outcome.as_str())?;
        }
        page.push_str("</p>\n");
    }
    page.push_str("<table>\n<tr><th>partition</th><th>position</th><th>last enqueued</th><th>lag</th><th>gaps</th><th></th></tr>\n");
    let mut partitions: Vec<_> = pipeline.partitions.iter().collect();
    // Partitions are numbers written as text: "10" after "9".
    partitions.sort_by_key(|(name, _)| (name.len(), *name));
    for (name, partition) in partitions {
        let number = |number: Option<i64>| number.map_or_else(|| "–".to_owned(), |number| number.to_string());
        writeln!(
            page,
            "<tr><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td class=\"error\">{}</td></tr>",
            escaped(name),
            number(partition.position),
            number(partition.last_enqueued),
            number(partition.lag_events),
            partition.gap_events,
            escaped(partition.last_error.as_deref().unwrap_or_default())
        )?;
    }
    page.push_str("</table>\n");
    Ok(())
}

/// Text that stays text in HTML: errors hold what came from outside.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            c => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::status::PipelineStatus;

    #[test]
    fn what_came_from_outside_stays_text() {
        let status = PipelineStatus::new("leads", "conversions", "bronze.leads");
        status.change(|snapshot| snapshot.error = Some("<script>alert('x')</script>".to_owned()));
        for partition in ["10", "9"] {
            status.partition(partition, |partition| partition.last_error = Some("a < b & c".to_owned()));
        }
        let page = html(&[status.snapshot()]);
        assert!(!page.contains("<script>") && page.contains("&lt;script&gt;alert(&#39;x&#39;)"), "{page}");
        assert!(page.contains("a &lt; b &amp; c"), "{page}");
        assert!(page.find("<td>9</td>") < page.find("<td>10</td>"), "partitions are in the order of their numbers");
    }
}
