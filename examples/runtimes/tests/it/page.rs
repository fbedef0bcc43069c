//! The library's page shows the glue that is tested here.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

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
    let blocks = blocks(&page);
    let mut missing: BTreeSet<_> = crate::RUNTIMES.iter().map(|(name, _)| *name).collect();
    for block in &blocks {
        let shown = missing.iter().find(|name| {
            let glue = root.join("src/glue").join(name).with_extension("rs");
            let source = fs::read_to_string(glue).unwrap();
            // The page leaves out the line that says what the module is.
            source.split_once("\n\n").is_some_and(|(_, code)| code == *block)
        });
        let shown = *shown.unwrap_or_else(|| panic!("this is not the glue of a runtime:\n{block}"));
        missing.remove(shown);
    }
    assert!(missing.is_empty(), "the page does not show {missing:?}");
}
