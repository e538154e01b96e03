//! One Rust file as the rules see it: a flat list of tokens (comments are no tokens, strings are one each), from which
//! what belongs to `#[cfg(test)]` is taken out.

use proc_macro2::{Delimiter, TokenStream, TokenTree};

#[derive(Debug, Clone, PartialEq)]
pub struct Token {
    pub line: usize,
    pub text: String,
}

/// One Rust file, as the rules see it.
#[derive(Debug)]
pub struct Source {
    /// From the root of the repository, with slashes.
    pub path: String,
    /// Everything, tests included.
    pub all: Vec<Token>,
    /// Without what is compiled for tests only.
    pub code: Vec<Token>,
    /// `#[cfg(test)] mod NAME;`: files that are tests as a whole.
    pub test_modules: Vec<String>,
    pub lines_before_tests: usize,
}

impl Source {
    pub fn parse(path: &str, text: &str) -> Source {
        let stream: TokenStream = text.parse().unwrap_or_else(|e| panic!("{path} is not Rust: {e}"));
        let mut all = Vec::new();
        flatten(stream, &mut all);
        let mut source = Source {
            path: path.to_owned(),
            code: Vec::new(),
            test_modules: Vec::new(),
            lines_before_tests: text.lines().count(),
            all,
        };
        source.take_tests_out();
        source
    }

    fn take_tests_out(&mut self) {
        if matches_at(&self.all, 0, "# ! [ cfg ( test ) ]") {
            self.lines_before_tests = 0;
            return;
        }
        let mut at = 0;
        let mut first_test_line = None;
        while at < self.all.len() {
            if !matches_at(&self.all, at, "# [ cfg ( test ) ]") {
                self.code.push(self.all[at].clone());
                at += 1;
                continue;
            }
            let item = skip_attributes(&self.all, at);
            let end = end_of_item(&self.all, item);
            if let [.., keyword, name, semicolon] = &self.all[item..end]
                && keyword.text == "mod"
                && semicolon.text == ";"
            {
                self.test_modules.push(name.text.clone());
            } else if self.all[item..end].iter().any(|t| t.text == "mod") {
                first_test_line.get_or_insert(self.all[at].line);
            }
            at = end;
        }
        if let Some(line) = first_test_line {
            self.lines_before_tests = line - 1;
        }
    }

    /// `["forward", "fdb"]` for switch/src/forward/fdb.rs. The binary's root is `main`, the library's is empty.
    pub fn module(&self) -> Vec<&str> {
        let inside = self.path.split_once("/src/").map_or("", |(_, inside)| inside);
        let stem = inside.trim_end_matches(".rs");
        let mut module: Vec<&str> = stem.split('/').filter(|part| *part != "mod" && *part != "lib").collect();
        module.retain(|part| !part.is_empty());
        module
    }

    pub fn complain(&self, token: &Token, what: impl std::fmt::Display) -> String {
        format!("{}:{}: {what}", self.path, token.line)
    }
}

fn flatten(stream: TokenStream, into: &mut Vec<Token>) {
    for tree in stream {
        let line = tree.span().start().line;
        match tree {
            TokenTree::Group(group) => {
                let (open, close) = match group.delimiter() {
                    Delimiter::Parenthesis => ("(", ")"),
                    Delimiter::Brace => ("{", "}"),
                    Delimiter::Bracket => ("[", "]"),
                    Delimiter::None => ("", ""),
                };
                into.push(Token { line, text: open.to_owned() });
                flatten(group.stream(), into);
                into.push(Token { line: group.span_close().start().line, text: close.to_owned() });
            }
            leaf => into.push(Token { line, text: leaf.to_string() }),
        }
    }
}

/// Whether the tokens from `at` on are those of `pattern`, which separates them by blanks.
pub fn matches_at(tokens: &[Token], at: usize, pattern: &str) -> bool {
    let mut rest = tokens[at..].iter();
    pattern.split(' ').all(|want| rest.next().is_some_and(|token| token.text == want))
}

/// The index after the delimiter that closes the one at `open`.
fn after_group(tokens: &[Token], open: usize) -> usize {
    let mut depth = 0_usize;
    for (at, token) in tokens.iter().enumerate().skip(open) {
        match token.text.as_str() {
            "(" | "[" | "{" => depth += 1,
            ")" | "]" | "}" => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return at + 1;
        }
    }
    tokens.len()
}

fn skip_attributes(tokens: &[Token], mut at: usize) -> usize {
    while matches_at(tokens, at, "# [") {
        at = after_group(tokens, at + 1);
    }
    at
}

/// The index after the item at `at`: after its block, or after its semicolon.
pub fn end_of_item(tokens: &[Token], mut at: usize) -> usize {
    while at < tokens.len() {
        match tokens[at].text.as_str() {
            ";" => return at + 1,
            "{" => {
                let end = after_group(tokens, at);
                // A `use` tree is followed by its semicolon.
                return if matches_at(tokens, end, ";") { end + 1 } else { end };
            }
            "(" | "[" => at = after_group(tokens, at),
            _ => at += 1,
        }
    }
    at
}

/// Every path in the code, `use` trees expanded and `self`, `super` resolved, with the token it starts at.
pub fn paths(source: &Source) -> Vec<(Token, Vec<String>)> {
    let tokens = &source.code;
    let mut module: Vec<String> = source.module().iter().map(|part| (*part).to_owned()).collect();
    let mut inline_ends: Vec<usize> = Vec::new();
    let mut found = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        while inline_ends.last().is_some_and(|end| *end <= at) {
            inline_ends.pop();
            module.pop();
        }
        if tokens[at].text == "mod" && matches_at(tokens, (at + 2).min(tokens.len()), "{") {
            module.push(tokens[at + 1].text.clone());
            inline_ends.push(after_group(tokens, at + 2));
            at += 3;
            continue;
        }
        let mut relative = Vec::new();
        let end = path_tree(tokens, at, &[], &mut relative);
        for path in relative {
            found.push((tokens[at].clone(), absolute(&module, &path)));
        }
        at = end.max(at + 1);
    }
    found
}

/// Reads a path or a `use` tree at `at`; collects its leaves and returns the index after it.
fn path_tree(tokens: &[Token], mut at: usize, prefix: &[String], leaves: &mut Vec<Vec<String>>) -> usize {
    let mut path = prefix.to_vec();
    loop {
        match tokens.get(at) {
            Some(token) if is_identifier(&token.text) => path.push(token.text.clone()),
            Some(token) if token.text == "*" && path.len() > prefix.len() => path.push("*".to_owned()),
            Some(token) if token.text == "{" && path.len() > prefix.len() => {
                let end = after_group(tokens, at);
                let mut inner = at + 1;
                while inner + 1 < end {
                    inner = path_tree(tokens, inner, &path, leaves).max(inner + 1);
                }
                return end;
            }
            _ => break,
        }
        at += 1;
        if !matches_at(tokens, at.min(tokens.len()), ": :") {
            break;
        }
        at += 2;
    }
    if path.len() > prefix.len() {
        leaves.push(path);
    }
    // `as NAME` inside a tree is neither a path nor a leaf.
    if !prefix.is_empty() && matches_at(tokens, at.min(tokens.len()), "as") { at + 2 } else { at }
}

pub fn is_identifier(text: &str) -> bool {
    text.starts_with(|c: char| c.is_alphabetic() || c == '_')
}

fn absolute(module: &[String], path: &[String]) -> Vec<String> {
    let climbs = path.iter().take_while(|part| *part == "super" || *part == "self").count();
    if climbs == 0 {
        return path.to_vec();
    }
    let supers = path[..climbs].iter().filter(|part| *part == "super").count();
    let kept = module.len().saturating_sub(supers);
    let mut out = vec!["crate".to_owned()];
    out.extend_from_slice(&module[..kept]);
    out.extend_from_slice(&path[climbs..]);
    out
}
