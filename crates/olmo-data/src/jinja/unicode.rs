//! Python's classification of characters.

use std::sync::OnceLock;

use regex_syntax::hir::{Class, ClassUnicode, HirKind};

/// Python's `str.isspace` for one character: Unicode's whitespace and four separators.
pub(crate) fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

pub(crate) fn trim_start(text: &str) -> &str {
    text.trim_start_matches(is_space)
}

pub(crate) fn trim_end(text: &str) -> &str {
    text.trim_end_matches(is_space)
}

pub(crate) fn trim(text: &str) -> &str {
    text.trim_matches(is_space)
}

/// Whether `c` matches `\w`.
pub(crate) fn is_word(c: char) -> bool {
    c == '_' || c.is_ascii_alphanumeric() || !c.is_ascii() && is_alphanumeric(c)
}

/// Whether a `\w+` is a valid variable name.
pub(crate) fn is_identifier(word: &str) -> bool {
    word.chars().next().is_some_and(|c| c == '_' || is_alphabetic(c))
}

/// Whether Python's `repr` leaves the character unescaped.
pub(crate) fn is_printable(c: char) -> bool {
    match c {
        ' '..='~' => true,
        _ if c.is_ascii() => false,
        _ => !class(&OTHER, r"[\p{C}\p{Z}]").contains(c),
    }
}

/// Python's `str.isalpha` for one character.
pub(crate) fn is_alphabetic(c: char) -> bool {
    if c.is_ascii() { c.is_ascii_alphabetic() } else { class(&LETTER, r"\p{L}").contains(c) }
}

/// Python's `str.isdecimal` for one character.
pub(crate) fn is_decimal(c: char) -> bool {
    if c.is_ascii() { c.is_ascii_digit() } else { class(&DECIMAL, r"\p{Nd}").contains(c) }
}

/// Python's `str.isdigit` for one character: decimals, and digits in circles, brackets and so on.
pub(crate) fn is_digit(c: char) -> bool {
    is_decimal(c)
        || matches!(c, '²' | '³' | '¹' | '\u{1369}'..='\u{1371}' | '\u{19da}' | '⁰' | '⁴'..='⁹' | '₀'..='₉' | '①'..='⑨'
            | '⑴'..='⑼' | '⒈'..='⒐' | '⓪' | '⓵'..='⓽' | '⓿' | '❶'..='❾' | '➀'..='➈' | '➊'..='➒'
            | '\u{10a40}'..='\u{10a43}' | '\u{10e60}'..='\u{10e68}' | '\u{11052}'..='\u{1105a}' | '\u{1f100}'..='\u{1f10a}')
}

/// Python's `str.isnumeric` for one character.
pub(crate) fn is_numeric(c: char) -> bool {
    if c.is_ascii() {
        c.is_ascii_digit()
    } else {
        class(&NUMBER, r"\p{N}").contains(c) || "一二三四五六七八九十百千万億兆零〇".contains(c)
    }
}

pub(crate) fn is_alphanumeric(c: char) -> bool {
    is_alphabetic(c) || is_decimal(c) || is_digit(c) || is_numeric(c)
}

/// The title-case form of a character.
pub(crate) fn to_title(c: char) -> String {
    match c {
        'Ǆ' | 'ǅ' | 'ǆ' => "ǅ".into(),
        'Ǉ' | 'ǈ' | 'ǉ' => "ǈ".into(),
        'Ǌ' | 'ǋ' | 'ǌ' => "ǋ".into(),
        'Ǳ' | 'ǲ' | 'ǳ' => "ǲ".into(),
        'ŉ' => "ʼN".into(),
        _ => {
            let mut upper = c.to_uppercase();
            let first: String = upper.next().into_iter().collect();
            // `ß` and ligatures expand to several characters: only the first is uppercase.
            upper.fold(first, |mut title, c| {
                title.extend(c.to_lowercase());
                title
            })
        }
    }
}

/// Python's `str.splitlines`, with the line ends.
pub(crate) fn lines(text: &str) -> Vec<(&str, &str)> {
    let mut lines = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let is_end = |c: char| {
            matches!(c, '\n' | '\r' | '\u{b}' | '\u{c}' | '\u{1c}'..='\u{1e}' | '\u{85}' | '\u{2028}' | '\u{2029}')
        };
        let end = rest.find(is_end).unwrap_or(rest.len());
        let after = &rest[end..];
        let length = if after.starts_with("\r\n") { 2 } else { after.chars().next().map_or(0, char::len_utf8) };
        lines.push((&rest[..end], &after[..length]));
        rest = &after[length..];
    }
    lines
}

/// A set of characters as sorted ranges.
struct Set(Vec<(char, char)>);

impl Set {
    fn contains(&self, c: char) -> bool {
        let at = self.0.partition_point(|(_, last)| *last < c);
        self.0.get(at).is_some_and(|(first, _)| *first <= c)
    }
}

static OTHER: OnceLock<Set> = OnceLock::new();
static LETTER: OnceLock<Set> = OnceLock::new();
static DECIMAL: OnceLock<Set> = OnceLock::new();
static NUMBER: OnceLock<Set> = OnceLock::new();

fn class(set: &'static OnceLock<Set>, pattern: &str) -> &'static Set {
    set.get_or_init(|| {
        let hir = regex_syntax::parse(pattern).map(regex_syntax::hir::Hir::into_kind);
        let class = match hir {
            Ok(HirKind::Class(Class::Unicode(class))) => class,
            _ => ClassUnicode::empty(),
        };
        Set(class.iter().map(|range| (range.start(), range.end())).collect())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn characters_are_what_python_says() {
        assert!(is_space('\u{1f}') && is_space('\u{85}') && is_space('\u{a0}') && !is_space('\u{200b}'));
        assert!(is_printable('é') && is_printable('🦀') && !is_printable('\u{200b}') && !is_printable('\u{a0}'));
        assert!(is_alphabetic('ß') && is_decimal('٣') && is_digit('²') && !is_decimal('²') && is_numeric('½'));
        assert_eq!(to_title('ß') + &to_title('ﬁ') + &to_title('é'), "SsFiÉ");
        assert_eq!(lines("a\r\n\nb\u{2028}"), [("a", "\r\n"), ("", "\n"), ("b", "\u{2028}")]);
    }
}
