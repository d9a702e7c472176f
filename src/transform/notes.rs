//! What a streamed query means that its words don't say: it sees the rows of one run, and no others.

use std::collections::BTreeSet;

use datafusion::logical_expr::LogicalPlan;

use super::graph::Node;
use super::sql::STREAM_PREFIX;
use crate::config::Problem;
use crate::config::spec::Mode;

/// What should be known of a transform whose plan is `plan`; nothing where its mode takes care of it.
pub fn notes(node: &Node, plan: &LogicalPlan) -> Vec<Problem> {
    // What rows came together in a run decides nothing where the whole is computed again.
    if matches!(node.spec.mode, Mode::Recompute | Mode::Replace) {
        return Vec::new();
    }
    let mut looking = Looking { is_append: node.spec.mode == Mode::Append, found: BTreeSet::new() };
    looking.streams_of(plan);
    let told = looking.found.into_iter().filter_map(|(table, what)| {
        let input =
            node.parsed.inputs.iter().find(|input| input.is_streamed && input.reference().to_string() == table)?;
        let (message, hint) = match what {
            What::Grouped(how) => (
                format!("{how} over `{input}` sees the rows of one run alone, and each run gives its own"),
                "`mode = \"recompute\"` computes the keys that new rows touch over all rows".to_owned(),
            ),
            What::Joined(with) => (
                format!(
                    "rows of `{input}` meet only those of `{}` that came since the same run",
                    node.parsed.readable_text(&with)
                ),
                "stream one of them and read the other whole, or choose `mode = \"recompute\"`".to_owned(),
            ),
        };
        Some(Problem::new(node.spec.sql_place(input.place.clone()), message).with_hint(hint))
    });
    told.collect()
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum What {
    Grouped(&'static str),
    /// With this other stream.
    Joined(String),
}

struct Looking {
    is_append: bool,
    /// Streamed tables by their internal names.
    found: BTreeSet<(String, What)>,
}

impl Looking {
    /// The streamed tables below a node, after looking at it.
    fn streams_of(&mut self, plan: &LogicalPlan) -> BTreeSet<String> {
        if let LogicalPlan::TableScan(scan) = plan {
            let name = scan.table_name.to_string();
            return if name.starts_with(STREAM_PREFIX) { BTreeSet::from([name]) } else { BTreeSet::new() };
        }
        let below: Vec<BTreeSet<String>> = plan.inputs().into_iter().map(|input| self.streams_of(input)).collect();
        let all: BTreeSet<String> = below.iter().flatten().cloned().collect();
        let grouped = match plan {
            LogicalPlan::Aggregate(_) => Some("what is grouped"),
            // The newest row of a key by its number is what a merge wants of the rows of a run.
            LogicalPlan::Window(_) if self.is_append => Some("a window"),
            LogicalPlan::Distinct(_) if self.is_append => Some("`DISTINCT`"),
            LogicalPlan::Limit(_) if self.is_append => Some("`LIMIT`"),
            _ => None,
        };
        if let Some(how) = grouped {
            self.found.extend(all.iter().map(|table| (table.clone(), What::Grouped(how))));
        }
        if let (LogicalPlan::Join(_), [left, right]) = (plan, below.as_slice()) {
            for one in left {
                for other in right.iter().filter(|other| *other != one) {
                    self.found.insert((one.clone(), What::Joined(other.clone())));
                }
            }
        }
        all
    }
}
