//! The functions on strings, as Go and docker define them.

use std::fmt::Write;

/// Every word with a large first letter. Letters, digits and underscores are words.
pub(super) fn title(text: &str) -> String {
    let mut before = ' ';
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        let begins = if before.is_ascii() {
            !(before.is_ascii_alphanumeric() || before == '_')
        } else {
            before.is_whitespace()
        };
        if begins {
            out.extend(c.to_uppercase());
        } else {
            out.push(c);
        }
        before = c;
    }
    out
}

/// At most that many bytes, cut before a character that would not fit.
pub(super) fn truncate(text: &str, length: usize) -> &str {
    let end = (0..=length.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    &text[..end]
}

/// Spaces on both sides of a text that is not empty.
pub(super) fn pad(text: &str, prefix: usize, suffix: usize) -> String {
    if text.is_empty() {
        String::new()
    } else {
        format!("{}{text}{}", " ".repeat(prefix), " ".repeat(suffix))
    }
}

/// The parts between separators; the characters, without a separator.
pub(super) fn split<'a>(text: &'a str, separator: &str) -> Vec<&'a str> {
    if separator.is_empty() {
        text.char_indices().map(|(at, c)| &text[at..at + c.len_utf8()]).collect()
    } else {
        text.split(separator).collect()
    }
}

pub(super) fn html(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\0' => out.push('\u{fffd}'),
            '"' => out.push_str("&#34;"),
            '\'' => out.push_str("&#39;"),
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            c => out.push(c),
        }
    }
    out
}

pub(super) fn js(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\\' | '\'' | '"' => out.extend(['\\', c]),
            '<' | '>' | '&' | '=' => put(&mut out, format_args!("\\u{:04X}", u32::from(c))),
            c if c.is_control() => put(&mut out, format_args!("\\u{:04X}", u32::from(c))),
            c => out.push(c),
        }
    }
    out
}

/// As a part of the query of an URL.
pub(super) fn urlquery(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b' ' => out.push('+'),
            b'-' | b'_' | b'.' | b'~' => out.push(byte.into()),
            byte if byte.is_ascii_alphanumeric() => out.push(byte.into()),
            byte => put(&mut out, format_args!("%{byte:02X}")),
        }
    }
    out
}

/// Quoted as a Go string.
pub(super) fn quote(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{b}' => out.push_str("\\v"),
            c if c.is_ascii_control() => put(&mut out, format_args!("\\x{:02x}", u32::from(c))),
            c if c.is_control() => put(&mut out, format_args!("\\u{:04x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

fn put(out: &mut String, arguments: std::fmt::Arguments<'_>) {
    out.write_fmt(arguments).expect("a string takes everything");
}
