//! Go's text/template as docker's `--format` has it. Pure: text and a [`Value`] in, text out.
//!
//! | written | gives |
//! | --- | --- |
//! | `{{.}}`, `{{.A.B}}`, `{{$}}`, `{{$.A}}`, `{{(f X).A}}`, `{{.Label "key"}}` | the value, its field, a field of the outermost value, a method |
//! | `{{json X}}` `{{join X "sep"}}` `{{split X "sep"}}` `{{lower X}}` `{{upper X}}` `{{title X}}` `{{pad X 1 2}}` `{{truncate X 3}}` | docker's functions |
//! | `{{print X ...}}` `{{printf "%s" X}}` `{{println X ...}}` `{{len X}}` `{{index X "key"}}` `{{slice X 1 2}}` | Go's |
//! | `{{eq X Y}}` `{{ne X Y}}` `{{lt X Y}}` `{{le X Y}}` `{{gt X Y}}` `{{ge X Y}}` `{{and X Y}}` `{{or X Y}}` `{{not X}}` `{{html X}}` `{{js X}}` `{{urlquery X}}` | |
//! | `{{if X}}..{{else if Y}}..{{else}}..{{end}}`, `{{with X}}..{{else with Y}}..{{else}}..{{end}}` | |
//! | `{{range X}}..{{break}}..{{continue}}..{{else}}..{{end}}`, `{{range $v := X}}`, `{{range $k, $v := X}}` | over lists, maps and numbers |
//! | `{{$v := X}}`, `{{$v = X}}` | variables |
//! | `{{define "n"}}..{{end}}`, `{{template "n" X}}`, `{{block "n" X}}..{{end}}` | named templates |
//! | `"text"`, `` `text` ``, `'c'`, `3`, `0x1f`, `1.5`, `true`, `nil`, `(f X)`, `X \| f` | literals, grouping, pipes |
//! | `{{/* text */}}`, `{{- ` and ` -}}` | a comment; drop the white space beside them |
//!
//! Anything else is a [`TemplateError`] that names the position. A field that an object does not have is an error;
//! a key that a map does not have prints `<no value>`. Fields may be named as in JSON or as in docker's Go structs.
//!
//! Bounds: [`BYTES_MAX`] of template, [`DEPTH_MAX`] blocks or parentheses inside each other, [`CALLS_MAX`] named
//! templates inside each other, [`STEPS_MAX`] steps of evaluation, [`WORK_BYTES_MAX`] that functions read and make,
//! [`OUTPUT_BYTES_MAX`] of result. Parsing does not recurse deeper than that, and never panics.
#![forbid(unsafe_code)]
#![deny(clippy::disallowed_methods)]

mod build;
mod eval;
mod expression;
mod functions;
mod lex;
mod parse;
mod printf;
mod text;
mod tree;
mod value;

use std::collections::BTreeMap;

use serde::Serialize;

pub use value::Value;

/// Longest template, bytes.
pub const BYTES_MAX: usize = 64 << 10;
/// Deepest nesting of blocks, and of parentheses inside one action.
pub const DEPTH_MAX: usize = 32;
/// Named templates that are inside each other.
pub const CALLS_MAX: usize = 32;
/// Nodes evaluated for one value.
pub const STEPS_MAX: usize = 1_000_000;
/// What functions read and make for one value, bytes.
pub const WORK_BYTES_MAX: usize = 256 << 20;
/// Longest result for one value, bytes.
pub const OUTPUT_BYTES_MAX: usize = 64 << 20;

/// A method with one argument, as docker's `.Label "key"`. It is a field for templates, and in no JSON.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Lookup(pub BTreeMap<String, String>);

/// The name of that type, for serde.
const LOOKUP: &str = "Lookup";

/// What is wrong with a template, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("template, character {character}: {problem}")]
pub struct TemplateError {
    /// Counted from 1.
    pub character: usize,
    pub problem: Problem,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    #[error("longer than {BYTES_MAX} bytes")]
    TooLong,
    #[error("more than {DEPTH_MAX} levels of nesting")]
    TooDeep,
    #[error("'{{{{' without '}}}}'")]
    Unclosed,
    #[error("a string without its closing quote")]
    UnclosedString,
    #[error("a comment without '*/}}}}'")]
    UnclosedComment,
    #[error("unknown escape '\\{0}' in a string")]
    UnknownEscape(char),
    #[error("unexpected '{0}'")]
    Unexpected(String),
    #[error("an empty action")]
    Empty,
    #[error("a number that is too large")]
    NumberTooLarge,
    #[error("unknown function '{0}'; known are {known}", known = functions::NAMES.join(", "))]
    UnknownFunction(String),
    #[error("'define' inside of another block; move it to the outside")]
    NestedDefine,
    #[error("the name of a template is wanted, as a string")]
    NoTemplateName,
    #[error("no template '{0}' is defined")]
    NoTemplate(String),
    #[error("more than {CALLS_MAX} templates inside each other")]
    TooManyCalls,
    #[error("'break' or 'continue' outside of a range")]
    NoLoop,
    #[error("'{0}' takes one argument, a string")]
    MethodArguments(String),
    #[error("'{0}' is no function and takes no arguments")]
    NotAFunction(String),
    #[error("'{0}' with the wrong number of arguments")]
    Arguments(&'static str),
    #[error("undefined variable '{0}'")]
    UndefinedVariable(String),
    #[error("'{{{{{0}}}}}' without its block")]
    Stray(&'static str),
    #[error("a block without '{{{{end}}}}'")]
    MissingEnd,
    #[error("can't evaluate field {field} in {of}")]
    NoField { field: String, of: &'static str },
    #[error("'{function}' cannot work on {of}")]
    WrongKind { function: &'static str, of: &'static str },
    #[error("no element {0}")]
    NoElement(String),
    #[error(
        "more than {STEPS_MAX} steps, {WORK_BYTES_MAX} bytes of work or {OUTPUT_BYTES_MAX} bytes of output"
    )]
    TooExpensive,
}

/// A template that was found to be valid.
#[derive(Debug, Clone, PartialEq)]
pub struct Template {
    source: String,
    tree: tree::Tree,
}

impl std::str::FromStr for Template {
    type Err = TemplateError;

    fn from_str(source: &str) -> Result<Template, TemplateError> {
        Template::parse(source, false)
    }
}

impl Template {
    /// A template of a list, in which `\\n` and `\\t` between actions are a line end and a tab.
    ///
    /// # Errors
    /// When it is not valid.
    pub fn of_list(source: &str) -> Result<Template, TemplateError> {
        Template::parse(source, true)
    }

    fn parse(source: &str, escapes: bool) -> Result<Template, TemplateError> {
        let tree = parse::parse(source, escapes).map_err(|located| located.in_source(source))?;
        Ok(Template { source: source.into(), tree })
    }

    /// # Errors
    /// When the value has no such field, or a function cannot work on what it is given.
    pub fn render(&self, value: &Value) -> Result<String, TemplateError> {
        eval::render(&self.tree, value, eval::Mode::Values).map_err(|e| e.in_source(&self.source))
    }

    /// The row of headings that belongs to the template: `headings` has the heading of each field, and the functions
    /// that change a text pass it on.
    ///
    /// # Errors
    /// When there is no heading of that name.
    pub fn render_headings(&self, headings: &Value) -> Result<String, TemplateError> {
        eval::render(&self.tree, headings, eval::Mode::Headings).map_err(|e| e.in_source(&self.source))
    }
}

/// A problem at a byte of the template.
#[derive(Debug, Clone, PartialEq)]
struct Located {
    at: usize,
    problem: Problem,
}

impl Located {
    fn in_source(self, source: &str) -> TemplateError {
        let before = source.char_indices().take_while(|(at, _)| *at < self.at).count();
        TemplateError { character: before + 1, problem: self.problem }
    }
}

fn fail<T>(at: usize, problem: Problem) -> Result<T, Located> {
    Err(Located { at, problem })
}

#[cfg(test)]
mod tests;
