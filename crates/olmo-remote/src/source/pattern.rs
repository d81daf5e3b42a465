//! File patterns: `*` and `?` within a name, `**` across folders, `[abc]` and `[!a-z]` for one
//! character.

/// Whether `text` contains a pattern character.
pub fn is_pattern(text: &str) -> bool {
    text.contains(['*', '?', '['])
}

/// Whether `path` matches `pattern`, name by name. An equal name always matches.
pub fn fits(pattern: &str, path: &str) -> bool {
    let pattern: Vec<&str> = pattern.split('/').collect();
    let path: Vec<&str> = path.split('/').collect();
    names(&pattern, &path)
}

fn names(pattern: &[&str], path: &[&str]) -> bool {
    match (pattern.split_first(), path.split_first()) {
        (None, None) => true,
        (Some((&"**", rest)), _) => {
            names(rest, path) || path.split_first().is_some_and(|(_, below)| names(pattern, below))
        }
        (Some((first, rest)), Some((name, below))) => {
            // As in a shell, a leading dot hides a name.
            let hidden = name.starts_with('.') && !first.starts_with('.');
            let fits = first == name || {
                let (first, name): (Vec<char>, Vec<char>) = (first.chars().collect(), name.chars().collect());
                name_fits(&first, &name)
            };
            !hidden && fits && names(rest, below)
        }
        _ => false,
    }
}

/// Greedy with one backtracking point: at most pattern × name steps.
fn name_fits(pattern: &[char], name: &[char]) -> bool {
    let (mut p, mut n) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while n < name.len() {
        let one = match pattern.get(p) {
            Some('*') => {
                star = Some((p, n));
                p += 1;
                continue;
            }
            Some('?') => Some(1),
            Some('[') => class(&pattern[p..], name[n]),
            Some(c) => (*c == name[n]).then_some(1),
            None => None,
        };
        match (one, star) {
            (Some(used), _) => {
                p += used;
                n += 1;
            }
            (None, Some((at, from))) => {
                star = Some((at, from + 1));
                p = at + 1;
                n = from + 1;
            }
            (None, None) => return false,
        }
    }
    pattern[p..].iter().all(|c| *c == '*')
}

/// Length of the class at the start of `pattern`, if `c` is in it. A bracket that is never closed
/// is literal.
fn class(pattern: &[char], c: char) -> Option<usize> {
    let negated = matches!(pattern.get(1), Some('!' | '^'));
    let start = if negated { 2 } else { 1 };
    let Some(end) = (start + 1..pattern.len()).find(|at| pattern[*at] == ']') else {
        return (c == '[').then_some(1);
    };
    let inside = &pattern[start..end];
    let mut found = false;
    let mut at = 0;
    while at < inside.len() {
        if at + 2 < inside.len() && inside[at + 1] == '-' {
            found |= (inside[at]..=inside[at + 2]).contains(&c);
            at += 3;
        } else {
            found |= inside[at] == c;
            at += 1;
        }
    }
    (found != negated).then_some(end + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_fit_as_in_a_shell() {
        for (pattern, path) in [
            ("*.jsonl", "a.jsonl"),
            ("data/*.parquet", "data/train-0.parquet"),
            ("data/train-?.parquet", "data/train-0.parquet"),
            ("**/*.json", "a.json"),
            ("**/*.json", "a/b/c.json"),
            ("a/**", "a/b/c"),
            ("x[0-9].txt", "x7.txt"),
            ("x[!0-9].txt", "xa.txt"),
            ("[x", "[x"),
            ("*/odd[1].json", "a/odd[1].json"),
            ("*/odd[1].json", "a/odd1.json"),
            ("*a*b*", "xxaxxbxx"),
            (".hidden*", ".hidden.json"),
        ] {
            assert!(fits(pattern, path), "{pattern} {path}");
        }
        for (pattern, path) in [
            ("*.jsonl", "a/b.jsonl"),
            ("*.jsonl", "a.json"),
            ("data/*.parquet", "data/x/y.parquet"),
            ("x[0-9].txt", "xa.txt"),
            ("*.json", ".hidden.json"),
            ("?", ""),
            ("a", "b"),
        ] {
            assert!(!fits(pattern, path), "{pattern} {path}");
        }
        // No name takes long.
        assert!(!fits(&"*a".repeat(200), &"a".repeat(5000).replace("aaaaa", "aaaab")));
    }
}
