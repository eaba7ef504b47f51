//! Reading a proxy's Prometheus text: samples with labels, and quantiles of histograms.

use std::collections::BTreeMap;

#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    pub name: String,
    pub labels: BTreeMap<String, String>,
    pub value: f64,
}

impl Sample {
    pub fn label(&self, name: &str) -> &str {
        self.labels.get(name).map(String::as_str).unwrap_or_default()
    }
}

/// The samples of an exposition; lines that are no samples are passed over.
pub fn parse(text: &str) -> Vec<Sample> {
    text.lines().filter(|l| !l.starts_with('#')).filter_map(sample).collect()
}

fn sample(line: &str) -> Option<Sample> {
    let (name, rest) = line.split_at(line.find(['{', ' '])?);
    let (labels, value) = match rest.strip_prefix('{') {
        None => (BTreeMap::new(), rest),
        Some(rest) => {
            let mut labels = BTreeMap::new();
            let mut rest = rest;
            loop {
                rest = rest.trim_start_matches(',');
                if let Some(after) = rest.strip_prefix('}') {
                    break (labels, after);
                }
                let (key, after) = rest.split_once("=\"")?;
                let (mut value, mut escaped, mut end) = (String::new(), false, None);
                for (i, c) in after.char_indices() {
                    match (escaped, c) {
                        (true, 'n') => value.push('\n'),
                        (true, c) => value.push(c),
                        (false, '\\') => {
                            escaped = true;
                            continue;
                        }
                        (false, '"') => {
                            end = Some(i);
                            break;
                        }
                        (false, c) => value.push(c),
                    }
                    escaped = false;
                }
                labels.insert(key.to_owned(), value);
                rest = &after[end? + 1..];
            }
        }
    };
    let value = value.split_whitespace().next()?.parse().ok()?;
    Some(Sample { name: name.into(), labels, value })
}

/// The value below which the share `p` of the observations lies, by linear interpolation inside its bucket; `buckets` are (upper bound, cumulative count).
pub fn quantile(buckets: &mut [(f64, f64)], p: f64) -> Option<f64> {
    buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
    let total = buckets.last()?.1;
    if total <= 0.0 {
        return None;
    }
    let (mut low, mut before) = (0.0, 0.0);
    for &(bound, count) in buckets.iter() {
        if count >= p * total {
            let inside = if count > before { (p * total - before) / (count - before) } else { 0.0 };
            return Some(if bound.is_finite() { low + (bound - low) * inside } else { low });
        }
        (low, before) = (bound, count);
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_with_escaped_labels() {
        let s = parse("# HELP x y\nx_total{route=\"a\\\"b,}\",rule=\"0\"} 12\nup 1 1700000000\nnonsense\n");
        assert_eq!((s.len(), s[0].label("route"), s[0].value, s[1].name.as_str()), (2, "a\"b,}", 12.0, "up"));
    }

    #[test]
    fn quantiles_of_a_histogram() {
        let mut b = [(f64::INFINITY, 100.0), (0.1, 50.0), (0.2, 100.0)];
        assert!((quantile(&mut b, 0.75).unwrap() - 0.15).abs() < 1e-9);
        assert!((quantile(&mut b, 0.25).unwrap() - 0.05).abs() < 1e-9);
        assert_eq!(quantile(&mut [(1.0, 0.0)], 0.5), None);
    }
}
