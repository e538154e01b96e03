//! A report as a list of blocks, written as Markdown with its charts beside it or as one HTML page.
#![forbid(unsafe_code)]
#![deny(clippy::disallowed_methods)]

use super::html::{self, escape};
use super::table::Table;

#[derive(Debug, Clone, PartialEq)]
pub enum Block {
    Heading(String),
    Text(String),
    List(Vec<String>),
    Table(Table),
    Chart(Chart),
}

#[derive(Debug, Clone, PartialEq)]
pub struct Chart {
    /// In the directory of the report.
    pub file: String,
    pub title: String,
    pub svg: String,
}

pub fn to_markdown(title: &str, blocks: &[Block]) -> String {
    format!("# {title}\n{}", below(blocks, "##"))
}

/// The blocks alone, each after an empty line, their headings of a given level.
pub fn below(blocks: &[Block], level: &str) -> String {
    let mut text = String::new();
    for block in blocks {
        text.push('\n');
        text += &match block {
            Block::Heading(heading) => format!("{level} {heading}\n"),
            Block::Text(paragraph) => format!("{paragraph}\n"),
            Block::List(items) => items.iter().map(|item| format!("- {item}\n")).collect(),
            Block::Table(table) => table.to_markdown(),
            Block::Chart(chart) => format!("![{}]({})\n", chart.title, chart.file),
        };
    }
    text
}

pub fn to_html(title: &str, blocks: &[Block]) -> String {
    let mut body = format!("<h1>{}</h1>\n", escape(title));
    for block in blocks {
        body += &match block {
            Block::Heading(heading) => format!("<h2>{}</h2>\n", escape(heading)),
            Block::Text(paragraph) => format!("<p>{}</p>\n", escape(paragraph)),
            Block::List(items) => {
                let items: String = items.iter().map(|item| format!("<li>{}</li>\n", escape(item))).collect();
                format!("<ul>\n{items}</ul>\n")
            }
            Block::Table(table) => table.to_html(),
            Block::Chart(chart) => chart.svg.clone(),
        };
    }
    html::page(title, &body)
}
