//! `--format` of everything that is listed or inspected.
#![forbid(unsafe_code)]
#![deny(clippy::disallowed_methods)]

use std::str::FromStr;

use serde::Serialize;

use crate::table;
use crate::template::{Problem, Template, TemplateError, Value};

/// How a list is printed.
#[derive(Debug, Clone, Default)]
pub enum ListFormat {
    #[default]
    Table,
    /// `table TEMPLATE`, its columns separated by tabs.
    TableOf(Template),
    /// One object per line.
    Json,
    /// `key: value` lines.
    Raw,
    Template(Template),
}

impl FromStr for ListFormat {
    type Err = TemplateError;

    fn from_str(text: &str) -> Result<ListFormat, TemplateError> {
        match text {
            "" | "table" => Ok(ListFormat::Table),
            "json" => Ok(ListFormat::Json),
            "raw" => Ok(ListFormat::Raw),
            _ => match text.strip_prefix("table") {
                Some(columns) => Ok(ListFormat::TableOf(Template::of_list(columns.trim_matches(' '))?)),
                None => Ok(ListFormat::Template(Template::of_list(text.trim_matches(' '))?)),
            },
        }
    }
}

/// How one thing is printed.
#[derive(Debug, Clone, Default)]
pub enum ItemFormat {
    #[default]
    Json,
    Template(Template),
}

impl FromStr for ItemFormat {
    type Err = TemplateError;

    fn from_str(text: &str) -> Result<ItemFormat, TemplateError> {
        if matches!(text, "" | "json") {
            Ok(ItemFormat::Json)
        } else {
            Ok(ItemFormat::Template(text.parse()?))
        }
    }
}

/// A kind of list: its columns as heading and template, and its fields with the headings that `table TEMPLATE` has.
pub struct Listing {
    pub columns: &'static [(&'static str, &'static str)],
    pub headings: &'static [(&'static str, &'static str)],
    /// What `-q` prints.
    pub quiet: &'static str,
}

impl Listing {
    /// Finds what is wrong with a template before there are rows: fields that none of them has. What functions make of
    /// the empty fields of `row` says nothing.
    ///
    /// # Errors
    /// When the template asks for what the rows do not have.
    pub fn check<T: Serialize>(&self, format: &ListFormat, row: &T) -> Result<(), TemplateError> {
        match self.print(format, false, &[row]) {
            Err(error) if matches!(error.problem, Problem::NoField { .. }) => Err(error),
            _ => Ok(()),
        }
    }

    /// # Errors
    /// When the template asks for what the rows do not have.
    pub fn print<T: Serialize>(
        &self,
        format: &ListFormat,
        quiet: bool,
        rows: &[T],
    ) -> Result<String, TemplateError> {
        let values: Vec<Value> =
            rows.iter().map(|row| Value::of(row).expect("rows are plain structs")).collect();
        match format {
            ListFormat::Table if quiet => lines(&builtin(self.quiet), &values),
            ListFormat::Table => {
                let templates: Vec<Template> =
                    self.columns.iter().map(|(_, template)| builtin(template)).collect();
                let mut cells = vec![self.columns.iter().map(|(heading, _)| (*heading).into()).collect()];
                for value in &values {
                    cells.push(templates.iter().map(|t| t.render(value)).collect::<Result<_, _>>()?);
                }
                Ok(table::layout(&cells))
            }
            ListFormat::TableOf(template) => {
                let mut cells = vec![split(&template.render_headings(&self.heading_values())?)];
                for value in &values {
                    cells.push(split(&template.render(value)?));
                }
                Ok(table::layout(&cells))
            }
            ListFormat::Raw => lines(&builtin(&self.raw(quiet)), &values),
            ListFormat::Json => Ok(values.iter().map(json_line).collect()),
            ListFormat::Template(template) => lines(template, &values),
        }
    }

    /// A template with a line for each column, named after its heading, and an empty line; with the quiet column only
    /// and no empty line.
    fn raw(&self, quiet: bool) -> String {
        let line = |(heading, template): &(&str, &str)| {
            format!("{}: {template}", heading.to_lowercase().replace(' ', "_"))
        };
        match self.columns.iter().find(|(_, template)| quiet && *template == self.quiet) {
            Some(column) => line(column),
            None => self.columns.iter().map(|column| line(column) + "\n").collect(),
        }
    }

    fn heading_values(&self) -> Value {
        let label = ("Label".into(), Value::Lookup(Default::default()));
        let headings = self.headings.iter().map(|(k, h)| ((*k).into(), Value::from(*h)));
        Value::Struct(headings.chain([label]).collect())
    }
}

fn builtin(template: &str) -> Template {
    template.parse().expect("templates of the program itself are valid")
}

fn split(row: &str) -> Vec<String> {
    row.split('\t').map(String::from).collect()
}

fn lines(template: &Template, values: &[Value]) -> Result<String, TemplateError> {
    let mut out = String::new();
    for value in values {
        out.push_str(&template.render(value)?);
        out.push('\n');
    }
    Ok(out)
}

fn json_line(value: &Value) -> String {
    serde_json::to_string(value).expect("a value is JSON") + "\n"
}

/// An array or object with docker's indentation of four spaces, and a newline.
pub fn pretty<T: Serialize>(value: &T) -> String {
    let mut out = Vec::new();
    let formatter = serde_json::ser::PrettyFormatter::with_indent(b"    ");
    value
        .serialize(&mut serde_json::Serializer::with_formatter(&mut out, formatter))
        .expect("answers of the API are JSON");
    out.push(b'\n');
    String::from_utf8(out).expect("JSON is UTF-8")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Serialize)]
    #[serde(rename_all = "PascalCase")]
    struct Row {
        #[serde(rename = "ID")]
        id: &'static str,
        name: &'static str,
    }

    const LISTING: Listing = Listing {
        columns: &[("NETWORK ID", "{{.ID}}"), ("NAME", "{{.Name}}")],
        headings: &[("ID", "NETWORK ID"), ("Name", "NAME")],
        quiet: "{{.ID}}",
    };

    fn print(format: &str, quiet: bool) -> Result<String, String> {
        let rows = [Row { id: "7fca4eb8c647", name: "bridge" }, Row { id: "9f904ee27bf5", name: "none" }];
        let format: ListFormat = format.parse().map_err(|e: TemplateError| e.to_string())?;
        LISTING.print(&format, quiet, &rows).map_err(|e| e.to_string())
    }

    #[test]
    fn lists_in_every_format() {
        for (format, quiet, expected) in [
            ("table", false, "NETWORK ID     NAME\n7fca4eb8c647   bridge\n9f904ee27bf5   none\n"),
            ("table", true, "7fca4eb8c647\n9f904ee27bf5\n"),
            (
                "table {{.Name}}\\t{{.ID}}",
                false,
                "NAME      NETWORK ID\nbridge    7fca4eb8c647\nnone      9f904ee27bf5\n",
            ),
            (
                "json",
                false,
                "{\"ID\":\"7fca4eb8c647\",\"Name\":\"bridge\"}\n{\"ID\":\"9f904ee27bf5\",\"Name\":\"none\"}\n",
            ),
            ("", true, "7fca4eb8c647\n9f904ee27bf5\n"),
            (
                "raw",
                false,
                "network_id: 7fca4eb8c647\nname: bridge\n\nnetwork_id: 9f904ee27bf5\nname: none\n\n",
            ),
            ("raw", true, "network_id: 7fca4eb8c647\nnetwork_id: 9f904ee27bf5\n"),
            ("table{{upper .Name}}", false, "NAME\nBRIDGE\nNONE\n"),
            ("{{.Name}}", false, "bridge\nnone\n"),
            ("{{.Name}}: {{upper .Name}}", true, "bridge: BRIDGE\nnone: NONE\n"),
        ] {
            assert_eq!(print(format, quiet).as_deref(), Ok(expected), "{format}");
        }
        assert!(print("{{.Nope}}", false).unwrap_err().contains("can't evaluate field Nope"));
        assert!(print("table {{.Nope}}", false).unwrap_err().contains("can't evaluate field Nope"));
        assert!(print("{{", false).is_err());
        let check = |format: &str| LISTING.check(&format.parse().unwrap(), &Row { id: "", name: "" }).is_ok();
        assert!(check("{{slice .Name 1}}") && check("table {{index .ID 0}}") && !check("{{.Nope}}"));
    }

    #[test]
    fn inspected_things_are_indented_by_four() {
        assert_eq!(
            pretty(&[Row { id: "a", name: "b" }]),
            "[\n    {\n        \"ID\": \"a\",\n        \"Name\": \"b\"\n    }\n]\n"
        );
        assert_eq!(pretty(&Vec::<Row>::new()), "[]\n");
        assert!(matches!("json".parse(), Ok(ItemFormat::Json)));
        assert!("{{.".parse::<ItemFormat>().is_err());
    }
}
