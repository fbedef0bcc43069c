//! The library's page shows the glue that is tested here.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// What the page does not show, because it differs from something that it shows by a name alone.
const LIKE_OTHERS: [&str; 3] = ["async_std_threads", "futures", "monoio_background"];

/// Returns the code of the page's blocks, without the lines that rustdoc hides.
fn blocks(page: &str) -> Vec<String> {
    let mut blocks = Vec::new();
    let mut block: Option<String> = None;
    for line in page.lines() {
        match &mut block {
            Some(code) if line == "```" => blocks.push(std::mem::take(code)),
            Some(code) if line != "#" && !line.starts_with("# ") => {
                code.push_str(line);
                code.push('\n');
            }
            _ => {}
        }
        if line.starts_with("```") {
            block = if block.is_none() { Some(String::new()) } else { None };
        }
    }
    assert!(block.is_none(), "a block without an end");
    blocks
}

#[test]
fn the_page_shows_the_glue_of_each_runtime_literally() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = fs::read_to_string(root.join("../../src/api/runtimes.md")).unwrap();
    let mut shown = BTreeSet::new();
    for block in blocks(&page).iter().filter(|block| block.contains("fn run")) {
        let is_it = |name: &&str| {
            let glue = root.join("src/glue").join(name).with_extension("rs");
            let source = fs::read_to_string(glue).unwrap();
            // The page leaves out the line that says what the module is.
            source.split_once("\n\n").is_some_and(|(_, code)| code == *block)
        };
        let mut names = crate::RUNTIMES.iter().map(|(name, _)| *name);
        let name = names.find(is_it).unwrap_or_else(|| panic!("no module has this:\n{block}"));
        assert!(shown.insert(name), "{name} is shown twice");
    }
    for (name, _) in crate::RUNTIMES {
        assert_ne!(shown.contains(name), LIKE_OTHERS.contains(name), "{name}");
    }
}
