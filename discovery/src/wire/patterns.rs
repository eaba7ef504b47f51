//! Regular expressions that came before are not compiled again.
//!
//! A changed table arrives whole. Compiling an expression takes some 50 us, a thousand times what reading the rest of its rule does, and most
//! expressions are those of the table before: they are found here as long as somebody still uses them.

use ahash::AHashMap;
use regex::Regex;
use std::sync::{Arc, LazyLock, Mutex, Weak};
use weft_core::matches::{Pattern, PatternError};

#[derive(Default)]
struct Known {
    patterns: AHashMap<Box<str>, Weak<Regex>>,
    /// The size after the last cleaning.
    clean: usize,
}

static KNOWN: LazyLock<Mutex<Known>> = LazyLock::new(Mutex::default);

/// The expression, compiled now or earlier.
pub(super) fn compile(source: String) -> Result<Pattern, PatternError> {
    compile_in(&KNOWN, source)
}

fn compile_in(known: &Mutex<Known>, source: String) -> Result<Pattern, PatternError> {
    let lock = || known.lock().unwrap_or_else(|e| e.into_inner());
    if let Some(known) = lock().patterns.get(&*source).and_then(Weak::upgrade) {
        return Ok(Pattern(known));
    }
    // not under the lock: it takes long, and may fail
    let pattern = Pattern::try_from(source.clone())?;
    let mut known = lock();
    // what nobody uses any more goes whenever the table has doubled
    if known.patterns.len() > 2 * known.clean.max(64) {
        known.patterns.retain(|_, p| p.strong_count() > 0);
        known.clean = known.patterns.len();
    }
    known.patterns.insert(source.into(), Arc::downgrade(&pattern.0));
    Ok(pattern)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_expression_in_use_is_compiled_once() {
        let known = Mutex::default();
        let compile = |s: &str| compile_in(&known, s.into());
        let a = compile("/[0-9]+").unwrap();
        let b = compile("/[0-9]+").unwrap();
        assert!(Arc::ptr_eq(&a.0, &b.0));
        compile("(").unwrap_err();
        for n in 0..1000 {
            drop(compile(&format!("/gone/{n}")).unwrap());
        }
        assert!(known.lock().unwrap().patterns.len() < 200);
        assert!(Arc::ptr_eq(&a.0, &compile("/[0-9]+").unwrap().0));
    }
}
