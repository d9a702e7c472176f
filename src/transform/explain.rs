//! Plans as text, with the names that stand in the SQL.

use datafusion::error::DataFusionError;
use datafusion::logical_expr::LogicalPlan;
use datafusion::physical_plan::displayable;
use datafusion::prelude::SessionContext;

use super::Parsed;

/// How a query would be run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explained {
    /// What it means, after optimising.
    pub logical: String,
    /// The operators that do it.
    pub physical: String,
}

/// Plans down to operators and tells both.
///
/// # Errors
/// What the optimizer or the physical planner says.
pub async fn explain(
    session: &SessionContext,
    parsed: &Parsed,
    plan: &LogicalPlan,
) -> Result<Explained, DataFusionError> {
    let state = session.state();
    let logical = state.optimize(plan)?;
    let physical = state.query_planner().create_physical_plan(&logical, &state).await?;
    Ok(Explained {
        logical: parsed.readable_text(&logical.display_indent().to_string()),
        physical: parsed.readable_text(displayable(physical.as_ref()).indent(false).to_string().trim_end()),
    })
}
