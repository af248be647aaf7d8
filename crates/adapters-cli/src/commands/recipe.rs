//! `adapters recipe`

use adapters::train::RECIPE_SCHEMA;

use crate::failure::Failure;

/// `adapters recipe`
#[derive(Debug, clap::Args)]
#[command(after_help = crate::options::examples(&["adapters recipe --schema > recipe.schema.json"]))]
pub(crate) struct RecipeArgs {
    /// Print the JSON schema.
    #[arg(long, required = true, help_heading = "Output")]
    pub(crate) schema: bool,
}

/// Prints the schema.
pub(crate) fn run(_args: RecipeArgs) -> Result<(), Failure> {
    say!("{}", RECIPE_SCHEMA.trim_end());
    Ok(())
}
