//! Walks the tree over a value.

use super::parse::{Base, Expr, Function, Kind, Node};
use super::{Located, OUTPUT_BYTES_MAX, Problem, STEPS_MAX, Value, fail};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    Values,
    /// Every field is its heading; functions pass their first argument on and blocks are not entered.
    Headings,
}

pub(super) fn render(nodes: &[Node], root: &Value, mode: Mode) -> Result<String, Located> {
    let mut eval = Eval { root, mode, variables: Vec::new(), out: String::new(), steps: 0 };
    eval.nodes(nodes, root)?;
    Ok(eval.out)
}

struct Eval<'a> {
    root: &'a Value,
    mode: Mode,
    variables: Vec<(&'a str, Value)>,
    out: String,
    steps: usize,
}

impl<'a> Eval<'a> {
    fn nodes(&mut self, nodes: &'a [Node], dot: &Value) -> Result<(), Located> {
        nodes.iter().try_for_each(|node| self.node(node, dot))
    }

    fn node(&mut self, node: &'a Node, dot: &Value) -> Result<(), Located> {
        match node {
            Node::Text(text) => self.print(text, 0),
            Node::Print(expr) => {
                let value = self.expr(expr, dot)?;
                self.print(&value.to_string(), expr.at)
            }
            Node::If { condition: expr, .. } | Node::Range { over: expr, .. }
                if self.mode == Mode::Headings =>
            {
                let heading = self.expr(expr, dot)?;
                self.print(&heading.to_string(), expr.at)
            }
            Node::If { condition, then, otherwise } => {
                let branch = if self.expr(condition, dot)?.is_truthy() { then } else { otherwise };
                self.nodes(branch, dot)
            }
            Node::Range { key, value, over, body, otherwise } => {
                let items = items(over, self.expr(over, dot)?)?;
                if items.is_empty() {
                    return self.nodes(otherwise, dot);
                }
                let outer = self.variables.len();
                for (item_key, item) in items {
                    self.variables.extend(key.as_deref().map(|name| (name, item_key)));
                    self.variables.extend(value.as_deref().map(|name| (name, item.clone())));
                    self.step(over.at)?;
                    self.nodes(body, &item)?;
                    self.variables.truncate(outer);
                }
                Ok(())
            }
        }
    }

    fn expr(&mut self, expr: &'a Expr, dot: &Value) -> Result<Value, Located> {
        self.step(expr.at)?;
        match &expr.kind {
            Kind::Literal(value) => Ok(value.clone()),
            Kind::Path { base, fields } => {
                let start = match base {
                    Base::Dot => dot,
                    Base::Root => self.root,
                    // The parser knows no variable out of its scope.
                    Base::Variable(name) => {
                        let found = self.variables.iter().rev().find(|(known, _)| known == name);
                        found.map_or(&Value::Null, |(_, value)| value)
                    }
                };
                follow(start, fields, self.mode, expr.at)
            }
            Kind::Call { function, arguments } => {
                let values =
                    arguments.iter().map(|a| self.expr(a, dot)).collect::<Result<Vec<Value>, Located>>()?;
                if self.mode == Mode::Headings {
                    return Ok(values.into_iter().next().unwrap_or(Value::String(String::new())));
                }
                call(*function, &values, expr.at)
            }
        }
    }

    fn print(&mut self, text: &str, at: usize) -> Result<(), Located> {
        self.step(at)?;
        self.out.push_str(text);
        if self.out.len() > OUTPUT_BYTES_MAX { fail(at, Problem::TooExpensive) } else { Ok(()) }
    }

    fn step(&mut self, at: usize) -> Result<(), Located> {
        self.steps += 1;
        if self.steps > STEPS_MAX { fail(at, Problem::TooExpensive) } else { Ok(()) }
    }
}

fn follow(start: &Value, fields: &[String], mode: Mode, at: usize) -> Result<Value, Located> {
    let mut value = start;
    for field in fields {
        value = match (value.entry(field), value) {
            (Some(inner), _) => inner,
            (None, Value::Map(_)) => &Value::Null,
            // A heading is a text, and the heading of what lies below it too.
            (None, Value::String(_)) if mode == Mode::Headings => value,
            (None, _) => return fail(at, Problem::NoField { field: field.clone(), of: value.kind() }),
        };
    }
    Ok(value.clone())
}

/// What a range goes over, with the key or the index of each.
fn items(over: &Expr, value: Value) -> Result<Vec<(Value, Value)>, Located> {
    match value {
        Value::Null => Ok(Vec::new()),
        Value::List(items) => {
            Ok(items.into_iter().enumerate().map(|(i, item)| (Value::Number(i.into()), item)).collect())
        }
        Value::Map(entries) => Ok(entries.into_iter().map(|(k, v)| (Value::String(k), v)).collect()),
        other => fail(over.at, Problem::WrongKind { function: "range", of: other.kind() }),
    }
}

fn call(function: Function, arguments: &[Value], at: usize) -> Result<Value, Located> {
    let wrong = |value: &Value| Problem::WrongKind { function: function.name(), of: value.kind() };
    match (function, arguments) {
        (Function::Json, [value]) => match serde_json::to_string(value) {
            Ok(text) => Ok(Value::String(text)),
            Err(_) => fail(at, wrong(value)),
        },
        (Function::Len, [value]) => match value {
            Value::String(text) => Ok(Value::Number(text.len().into())),
            Value::List(items) => Ok(Value::Number(items.len().into())),
            Value::Map(entries) => Ok(Value::Number(entries.len().into())),
            other => fail(at, wrong(other)),
        },
        (Function::Upper, [Value::String(text)]) => Ok(Value::String(text.to_uppercase())),
        (Function::Lower, [Value::String(text)]) => Ok(Value::String(text.to_lowercase())),
        (Function::Join, [Value::List(items), Value::String(separator)]) => {
            let texts: Vec<String> = items.iter().map(Value::to_string).collect();
            Ok(Value::String(texts.join(separator)))
        }
        (Function::Println, values) => {
            let texts: Vec<String> = values.iter().map(Value::to_string).collect();
            Ok(Value::String(texts.join(" ") + "\n"))
        }
        (Function::Index, [value, keys @ ..]) => index(value, keys, at),
        (Function::Eq, [a, b]) => Ok(Value::Bool(a == b)),
        (Function::Ne, [a, b]) => Ok(Value::Bool(a != b)),
        (Function::Not, [value]) => Ok(Value::Bool(!value.is_truthy())),
        (_, [value, ..]) => fail(at, wrong(value)),
        (_, []) => fail(at, Problem::Arguments(function.name())),
    }
}

fn index(value: &Value, keys: &[Value], at: usize) -> Result<Value, Located> {
    let mut value = value;
    for key in keys {
        value = match (value, key) {
            (Value::Map(_), Value::String(name)) => value.entry(name).unwrap_or(&Value::Null),
            (Value::List(items), Value::Number(number)) => {
                let position = number.as_u64().and_then(|n| usize::try_from(n).ok());
                match position.and_then(|p| items.get(p)) {
                    Some(item) => item,
                    None => return fail(at, Problem::NoElement(number.to_string())),
                }
            }
            (other, _) => return fail(at, Problem::WrongKind { function: "index", of: other.kind() }),
        };
    }
    Ok(value.clone())
}
