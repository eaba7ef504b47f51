//! Edits of the route files, as a person would make them in an editor: text in, text out. Each edit also stamps the route with a response header, so that
//! the first answer under the new configuration can be told from the last one under the old.

use anyhow::Context as _;
use std::{fs, path::Path};

/// The header that carries the number of the edit.
pub const STAMP: &str = "x-weft-edit";

/// Comments the `retry:` stanza out, or in again. Returns the new text and whether retries are on now.
pub fn toggle_retry(text: &str) -> (String, bool) {
    let on = text.lines().any(|l| l.trim_start().starts_with("retry:"));
    let mut out = String::new();
    let mut depth = None;
    for line in text.lines() {
        let bare = line.strip_prefix('#').unwrap_or(line);
        let indent = bare.len() - bare.trim_start().len();
        if bare.trim_start().starts_with("retry:") {
            depth = Some(indent);
        } else if depth.is_some_and(|d| indent <= d && !bare.trim().is_empty()) {
            depth = None;
        }
        match (depth, on) {
            (Some(_), true) => out.extend(["#", bare]),
            (Some(_), false) => out.push_str(bare),
            (None, _) => out.push_str(line),
        }
        out.push('\n');
    }
    (out, !on)
}

/// Swaps the weights of the first two backendRefs that have one.
pub fn swap_weights(text: &str) -> String {
    let weights: Vec<&str> =
        text.split("weight: ").skip(1).map(|t| t.split(|c: char| !c.is_ascii_digit()).next().unwrap_or("")).collect();
    let [first, second, ..] = weights[..] else { return text.into() };
    let marked = text.replacen(&format!("weight: {first}"), "weight: \0", 1).replacen(
        &format!("weight: {second}"),
        &format!("weight: {first}"),
        1,
    );
    marked.replacen("weight: \0", &format!("weight: {second}"), 1)
}

/// Sets the stamp of the route in `text` to `n`.
pub fn stamp(text: &str, n: u32) -> anyhow::Result<String> {
    let marker = format!("{{name: {STAMP}, value: ");
    if let Some(at) = text.find(&marker) {
        let (head, tail) = text.split_at(at + marker.len());
        let rest = tail.split_once('}').context("unfinished stamp")?.1;
        return Ok(format!("{head}\"{n}\"}}{rest}"));
    }
    let line = text.lines().find(|l| l.trim() == "backendRefs:").context("the route has no backendRefs")?;
    let pad = &line[..line.len() - line.trim_start().len()];
    let filter = format!(
        "{pad}filters:\n{pad}  - type: ResponseHeaderModifier\n{pad}    responseHeaderModifier:\n{pad}      set:\n{pad}        - {marker}\"{n}\"}}\n"
    );
    Ok(text.replacen(&format!("{line}\n"), &format!("{filter}{line}\n"), 1))
}

/// Saves as editors do: a new file, renamed over the old one, so that no reader ever sees half of it.
pub fn save(path: &Path, text: &str) -> anyhow::Result<()> {
    let new = path.with_extension("yaml~");
    fs::write(&new, text).with_context(|| format!("{}", new.display()))?;
    fs::rename(&new, path).with_context(|| format!("{}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ORDERS: &str = include_str!("../../../examples/shop/orders.yaml");
    const CATALOG: &str = include_str!("../../../examples/shop/catalog.yaml");

    #[test]
    fn retry_goes_out_and_comes_back_as_it_was() {
        let (off, on) = toggle_retry(ORDERS);
        assert!(!on && !off.lines().any(|l| l.trim_start().starts_with("attempts:")), "{off}");
        assert_eq!(toggle_retry(&off), (ORDERS.to_owned(), true));
    }

    #[test]
    fn weights_swap_and_swap_back() {
        let swapped = swap_weights(CATALOG);
        assert!(
            swapped.contains("name: catalog-v1, port: 80, weight: 10")
                && swapped.contains("name: catalog-v2, port: 80, weight: 90"),
            "{swapped}"
        );
        assert_eq!(swap_weights(&swapped), CATALOG);
    }

    #[test]
    fn the_stamp_is_put_in_once_and_counts() {
        let one = stamp(CATALOG, 1).unwrap();
        let two = stamp(&one, 2).unwrap();
        assert_eq!(one.lines().count(), CATALOG.lines().count() + 5);
        assert_eq!(two, one.replace("\"1\"}", "\"2\"}"));
        serde_saphyr::from_multiple::<serde_json::Value>(&two).unwrap();
    }
}
