//! The subset of Go's text/template that `--format` takes. Pure: text and a [`Value`] in, text out.
//!
//! | written | gives |
//! | --- | --- |
//! | text, `\n`, `\t` | itself, a line end, a tab |
//! | `{{.}}`, `{{.A.B}}`, `{{$}}`, `{{$.A}}` | the value, its field; from the outermost value |
//! | `{{json X}}` `{{len X}}` `{{upper X}}` `{{lower X}}` `{{join X "sep"}}` `{{println X ...}}` `{{index X "key"}}` | the functions |
//! | `{{eq X Y}}` `{{ne X Y}}` `{{not X}}` | for `if` |
//! | `{{if X}}..{{else if Y}}..{{else}}..{{end}}` | |
//! | `{{range X}}..{{else}}..{{end}}`, `{{range $v := X}}`, `{{range $k, $v := X}}` | over lists and maps |
//! | `"text"`, `` `text` ``, `3`, `true`, `false`, `(f X)`, `X \| f` | literals, grouping, pipes |
//! | `{{- ` and ` -}}` | drop the white space beside them |
//!
//! Anything else is a [`TemplateError`] that names the position. A field that an object does not have is an error;
//! a key that a map does not have prints `<no value>`. An object prints its keys, as `[bridge isolated_nw]`.
//!
//! Bounds: [`BYTES_MAX`] of template, [`DEPTH_MAX`] blocks or parentheses inside each other, [`STEPS_MAX`] steps of
//! evaluation, [`OUTPUT_BYTES_MAX`] of result. Parsing does not recurse deeper than that, and never panics.
#![forbid(unsafe_code)]
#![deny(clippy::disallowed_methods)]

mod eval;
mod lex;
mod parse;
mod value;

pub use value::Value;

/// Longest template, bytes.
pub const BYTES_MAX: usize = 64 << 10;
/// Deepest nesting of blocks, and of parentheses inside one action.
pub const DEPTH_MAX: usize = 32;
/// Nodes evaluated for one value.
pub const STEPS_MAX: usize = 1_000_000;
/// Longest result for one value, bytes.
pub const OUTPUT_BYTES_MAX: usize = 64 << 20;

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
    #[error("unknown escape '\\{0}' in a string; known are \\n \\t \\\" \\\\")]
    UnknownEscape(char),
    #[error("unexpected '{0}'")]
    Unexpected(String),
    #[error("an empty action")]
    Empty,
    #[error("a number that is too large")]
    NumberTooLarge,
    #[error("unknown function '{0}'; known are {known}", known = parse::FUNCTION_NAMES)]
    UnknownFunction(String),
    #[error("'{0}' is not supported here; range, if, else and end are")]
    Unsupported(String),
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
    #[error("more than {STEPS_MAX} steps or {OUTPUT_BYTES_MAX} bytes of output")]
    TooExpensive,
}

/// A template that was found to be valid.
#[derive(Debug, Clone, PartialEq)]
pub struct Template {
    source: String,
    nodes: Vec<parse::Node>,
}

impl std::str::FromStr for Template {
    type Err = TemplateError;

    fn from_str(source: &str) -> Result<Template, TemplateError> {
        let nodes = parse::parse(source).map_err(|located| located.in_source(source))?;
        Ok(Template { source: source.into(), nodes })
    }
}

impl Template {
    /// # Errors
    /// When the value has no such field, or a function cannot work on what it is given.
    pub fn render(&self, value: &Value) -> Result<String, TemplateError> {
        eval::render(&self.nodes, value, eval::Mode::Values).map_err(|e| e.in_source(&self.source))
    }

    /// The row of headings that belongs to the template: `headings` has the heading of each field, and functions
    /// pass their first argument on.
    ///
    /// # Errors
    /// When there is no heading of that name.
    pub fn render_headings(&self, headings: &Value) -> Result<String, TemplateError> {
        eval::render(&self.nodes, headings, eval::Mode::Headings).map_err(|e| e.in_source(&self.source))
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
