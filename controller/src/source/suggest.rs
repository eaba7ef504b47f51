//! "Did you mean ...?"

/// The candidate that is nearest to `word`, if it is near enough to be meant.
pub fn nearest<'c>(word: &str, candidates: impl IntoIterator<Item = &'c str>) -> Option<&'c str> {
    let lower = word.to_lowercase();
    // one slip in three letters, at most three in all: more is another word
    let limit = word.chars().count().div_ceil(3).clamp(1, 3);
    candidates
        .into_iter()
        .map(|c| (distance(&lower, &c.to_lowercase()), c))
        .filter(|(d, c)| *d <= limit || (lower.len() >= 4 && c.to_lowercase().strip_suffix('s') == Some(&lower)))
        .min()
        .map(|(_, c)| c)
}

/// Edits between two words: insertion, deletion, replacement, exchange of neighbours.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let (mut before, mut last): (Vec<usize>, Vec<usize>) = (Vec::new(), (0..=b.len()).collect());
    for i in 1..=a.len() {
        let mut row = vec![i; b.len() + 1];
        for j in 1..=b.len() {
            let same = usize::from(a[i - 1] != b[j - 1]);
            row[j] = (last[j] + 1).min(row[j - 1] + 1).min(last[j - 1] + same);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                row[j] = row[j].min(before[j - 2] + 1);
            }
        }
        before = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_words_only() {
        let fields = ["backendRefs", "filters", "matches", "timeouts", "retry", "name"];
        let near = |w| nearest(w, fields);
        assert_eq!(
            (near("backendRef"), near("backendrefs"), near("fitlers")),
            (Some("backendRefs"), Some("backendRefs"), Some("filters"))
        );
        assert_eq!(
            (near("retries"), near("timeout"), near("weight"), near("x")),
            (Some("retry"), Some("timeouts"), None, None)
        );
        assert_eq!(nearest("HTTPRuote", ["HTTPRoute", "TCPRoute"]), Some("HTTPRoute"));
    }
}
