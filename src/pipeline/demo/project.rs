//! The demo's folder: a project like any other, so that every command works on it afterwards.

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};

use super::DemoError;

/// Where the emulator keeps its events, so that a second demo goes on where the first ended.
pub const EMULATOR_FOLDER: &str = ".emulator";

/// Each variable of the repository's own `sluice.toml` gets a default: where `sluice emulator`
/// listens unless told otherwise. So commands that don't need Event Hubs need no variables, and
/// `sluice emulator --dir .emulator` brings the demo's hubs back for those that do.
const DEFAULTS: [(&str, &str); 2] = [
    (
        "${EVENTHUBS_CONNECTION_STRING}",
        "${EVENTHUBS_CONNECTION_STRING:-Endpoint=sb://localhost:5672;SharedAccessKeyName=RootManageSharedAccessKey;\
         SharedAccessKey=SAS_KEY_VALUE;UseDevelopmentEmulator=true;}",
    ),
    ("${SCHEMA_REGISTRY_ENDPOINT}", "${SCHEMA_REGISTRY_ENDPOINT:-http://127.0.0.1:8081}"),
];

const PROJECT: &str = include_str!("../../../sluice.toml");

macro_rules! files {
    ($($path:literal),+ $(,)?) => { [$(($path, include_str!(concat!("../../../", $path)))),+] };
}

/// What the repository has of the demo's project, besides `sluice.toml`.
const FILES: &[(&str, &str)] = &files![
    "pipelines/conversions/gold.toml",
    "pipelines/conversions/leads.toml",
    "pipelines/conversions/sales.toml",
    "pipelines/customer/accounts.toml",
    "pipelines/customer/contacts.toml",
    "pipelines/product/products.toml",
    "schemas/account.activated.avsc",
    "schemas/account.deactivated.avsc",
    "schemas/contact.abandoned_quote.avsc",
    "schemas/contact.activated.avsc",
    "schemas/contact.deactivated.avsc",
    "schemas/contact.product_expired.avsc",
    "schemas/contact.purchased.avsc",
    "schemas/lead.failed.avsc",
    "schemas/lead.generated.avsc",
    "schemas/product.updated.avsc",
    "schemas/sale.confirmed.avsc",
    "schemas/sales_file.received.avsc",
    "sql/conversions/gold_abandoned_leads.sql",
    "sql/conversions/gold_conversion_funnel.sql",
    "sql/conversions/gold_revenue_by_product.sql",
    "sql/conversions/silver_leads.sql",
    "sql/conversions/silver_sales.sql",
    "sql/conversions/silver_sales_files.sql",
    "sql/customer/silver_accounts.sql",
    "sql/customer/silver_contacts.sql",
    "sql/product/silver_products.sql",
    "sql/product/silver_products_history.sql",
];

macro_rules! tests {
    ($($name:literal),+ $(,)?) => {
        [$((concat!("tests/", $name), include_str!(concat!("../../../tests/insurer/", $name)))),+]
    };
}

/// The project's own tests of its transforms. In the repository they lie beside those of Sluicebox.
const TESTS: &[(&str, &str)] = &tests!["accounts.toml", "contacts.toml", "leads.toml", "products.toml", "sales.toml"];

/// A folder that nobody else plays a demo in, until dropped.
#[derive(Debug)]
pub struct Folder {
    _lock: File,
}

/// Makes the folder, or takes that of an earlier demo as it is: declarations that somebody
/// changed meanwhile stay.
///
/// # Errors
/// [`DemoError::Foreign`] for a folder with something else in it, [`DemoError::Busy`] beside
/// another demo, and what the disk says.
pub fn lay_out(dir: &Path) -> Result<Folder, DemoError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| DemoError::Folder { path, source }
    };
    fs::create_dir_all(dir).map_err(failed(dir))?;
    let is_empty = fs::read_dir(dir).map_err(failed(dir))?.next().is_none();
    let mark = dir.join(EMULATOR_FOLDER);
    if !is_empty && !mark.is_dir() {
        return Err(DemoError::Foreign { dir: dir.to_owned() });
    }
    // First, so that a folder that was left half made is known again.
    fs::create_dir_all(&mark).map_err(failed(&mark))?;
    let lock = take(&mark.join("demo.lock"), dir)?;
    let project = project_file();
    let files = [("sluice.toml", project.as_str())].into_iter().chain(FILES.iter().chain(TESTS).copied());
    for (name, text) in files {
        let path: PathBuf = dir.join(name);
        if path.exists() {
            continue;
        }
        let folder = path.parent().unwrap_or(dir);
        fs::create_dir_all(folder).map_err(failed(folder))?;
        fs::write(&path, text).map_err(failed(&path))?;
    }
    Ok(Folder { _lock: lock })
}

/// Two emulators would write into the same log. The lock belongs to the open file, so it ends
/// with the process, however that ends.
fn take(path: &Path, dir: &Path) -> Result<File, DemoError> {
    let failed = |source| DemoError::Folder { path: path.to_owned(), source };
    let file = File::options().create(true).append(true).open(path).map_err(failed)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(DemoError::Busy { dir: dir.to_owned() }),
        Err(TryLockError::Error(source)) => Err(failed(source)),
    }
}

fn project_file() -> String {
    DEFAULTS.iter().fold(PROJECT.to_owned(), |text, (variable, with_default)| text.replace(variable, with_default))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{LoadOptions, load_with};

    #[test]
    fn the_folder_is_a_project_without_variables() {
        let folder = tempfile::tempdir().expect("a folder");
        lay_out(folder.path()).expect("laid out");
        let options = LoadOptions { project: Some(folder.path().to_owned()), env: None };
        let project = load_with(&options, &|_| None).expect("a project without problems");
        let tables: Vec<_> = project.pipelines.iter().map(|pipeline| pipeline.sink.table.to_string()).collect();
        assert_eq!(tables, ["bronze.leads", "bronze.sales", "bronze.accounts", "bronze.contacts", "bronze.products"]);
    }

    #[test]
    fn every_file_of_the_project_is_laid_out() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let mut open: Vec<_> =
            ["pipelines", "schemas", "sql", "tests/insurer"].map(|folder| root.join(folder)).to_vec();
        let mut found = Vec::new();
        while let Some(path) = open.pop() {
            if path.is_dir() {
                open.extend(fs::read_dir(&path).expect("a folder").map(|entry| entry.expect("an entry").path()));
            } else {
                found.push(path.strip_prefix(root).expect("below the root").to_str().expect("UTF-8").to_owned());
            }
        }
        found.sort();
        let laid_out = FILES.iter().chain(TESTS).map(|(path, _)| path.replacen("tests/", "tests/insurer/", 1));
        assert_eq!(found, laid_out.collect::<Vec<_>>());
    }

    #[test]
    fn a_changed_declaration_stays() {
        let folder = tempfile::tempdir().expect("a folder");
        lay_out(folder.path()).expect("laid out");
        let file = folder.path().join("sluice.toml");
        fs::write(&file, "# mine").expect("written");
        fs::remove_file(folder.path().join("schemas/lead.generated.avsc")).expect("removed");
        lay_out(folder.path()).expect("laid out again");
        assert_eq!(fs::read_to_string(&file).expect("read"), "# mine");
        assert!(folder.path().join("schemas/lead.generated.avsc").is_file());
    }

    #[test]
    fn two_demos_at_once_are_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let first = lay_out(folder.path()).expect("laid out");
        assert!(matches!(lay_out(folder.path()), Err(DemoError::Busy { .. })));
        drop(first);
        lay_out(folder.path()).expect("free again");
    }

    #[test]
    fn a_folder_of_something_else_is_left_alone() {
        let folder = tempfile::tempdir().expect("a folder");
        fs::write(folder.path().join("thesis.txt"), "…").expect("written");
        assert!(matches!(lay_out(folder.path()), Err(DemoError::Foreign { .. })));
        assert!(!folder.path().join("sluice.toml").exists());
    }
}
