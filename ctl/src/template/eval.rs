//! Walks the tree over a value.

use std::mem::{replace, size_of_val, take};
use std::sync::Arc;

use super::functions::{Function, call};
use super::tree::{Base, Expr, Kind, Loop, Node, Pipeline, Tree};
use super::{CALLS_MAX, Located, OUTPUT_BYTES_MAX, Problem, STEPS_MAX, Value, WORK_BYTES_MAX, fail};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    Values,
    /// Every field is its heading; the functions that change the letters of a text leave it alone.
    Headings,
}

pub(super) fn render(tree: &Tree, root: &Value, mode: Mode) -> Result<String, Located> {
    let mut eval = Eval {
        tree,
        mode,
        root: root.clone(),
        variables: Vec::new(),
        out: String::new(),
        steps: 0,
        work_bytes: 0,
        calls: 0,
    };
    eval.nodes(&tree.main, root)?;
    Ok(eval.out)
}

/// Where to go on after a node.
#[derive(PartialEq)]
enum Flow {
    Next,
    Break,
    Continue,
}

struct Eval<'a> {
    tree: &'a Tree,
    mode: Mode,
    root: Value,
    variables: Vec<(&'a str, Value)>,
    out: String,
    steps: usize,
    /// What functions have read and made, in bytes.
    work_bytes: usize,
    /// Templates inside each other.
    calls: usize,
}

impl<'a> Eval<'a> {
    fn nodes(&mut self, nodes: &'a [Node], dot: &Value) -> Result<Flow, Located> {
        for node in nodes {
            let flow = self.node(node, dot)?;
            if flow != Flow::Next {
                return Ok(flow);
            }
        }
        Ok(Flow::Next)
    }

    /// Nodes whose variables end with them.
    fn scope(&mut self, nodes: &'a [Node], dot: &Value, outer: usize) -> Result<Flow, Located> {
        let flow = self.nodes(nodes, dot)?;
        self.variables.truncate(outer);
        Ok(flow)
    }

    fn node(&mut self, node: &'a Node, dot: &Value) -> Result<Flow, Located> {
        let outer = self.variables.len();
        match node {
            Node::Text(text) => self.print(text, 0)?,
            Node::Print(pipeline) => {
                let value = self.pipeline(pipeline, dot)?;
                if pipeline.variable.is_none() {
                    self.print(&value.to_string(), pipeline.expr.at)?;
                }
            }
            Node::If { condition, then, otherwise } => {
                let branch = if self.pipeline(condition, dot)?.is_truthy() { then } else { otherwise };
                return self.scope(branch, dot, outer);
            }
            Node::With { value, then, otherwise } => {
                let value = self.pipeline(value, dot)?;
                return match value.is_truthy() {
                    true => self.scope(then, &value, outer),
                    false => self.scope(otherwise, dot, outer),
                };
            }
            Node::Range { variables, over, body, otherwise } => {
                let value = self.expr(over, dot)?;
                if self.mode == Mode::Headings {
                    self.print(&value.to_string(), over.at)?;
                    return Ok(Flow::Next);
                }
                let items = Items::of(over.at, value)?;
                if items.len() == 0 {
                    return self.scope(otherwise, dot, outer);
                }
                self.range(variables.as_ref(), &items, over.at, body)?;
            }
            Node::Template { at, name, argument } => {
                let value = match argument {
                    Some(pipeline) => self.pipeline(pipeline, dot)?,
                    None => Value::Null,
                };
                self.variables.truncate(outer);
                self.template(*at, name, value)?;
            }
            Node::Break => return Ok(Flow::Break),
            Node::Continue => return Ok(Flow::Continue),
        }
        Ok(Flow::Next)
    }

    fn range(
        &mut self,
        variables: Option<&'a Loop>,
        items: &Items,
        at: usize,
        body: &'a [Node],
    ) -> Result<(), Located> {
        let outer = self.variables.len();
        for position in 0..items.len() {
            self.step(at)?;
            let (key, item) = items.get(position);
            if let Some(Loop { key: key_name, value, assigns }) = variables {
                let key = key_name.as_deref().map(|name| (name, key));
                for (name, content) in key.into_iter().chain([(value.as_str(), item.clone())]) {
                    self.set(name, content, *assigns);
                }
            }
            if self.scope(body, &item, outer)? == Flow::Break {
                break;
            }
        }
        Ok(())
    }

    /// A named template, whose root is the value that it is given.
    fn template(&mut self, at: usize, name: &str, value: Value) -> Result<(), Located> {
        let Some(nodes) = self.tree.named.get(name) else {
            return fail(at, Problem::NoTemplate(name.into()));
        };
        if self.calls >= CALLS_MAX {
            return fail(at, Problem::TooManyCalls);
        }
        self.step(at)?;
        self.calls += 1;
        let variables = take(&mut self.variables);
        let root = replace(&mut self.root, value.clone());
        self.nodes(nodes, &value)?;
        self.root = root;
        self.variables = variables;
        self.calls -= 1;
        Ok(())
    }

    fn pipeline(&mut self, pipeline: &'a Pipeline, dot: &Value) -> Result<Value, Located> {
        let value = self.expr(&pipeline.expr, dot)?;
        if let Some(target) = &pipeline.variable {
            self.set(&target.name, value.clone(), target.assigns);
        }
        Ok(value)
    }

    fn set(&mut self, name: &'a str, value: Value, assigns: bool) {
        let found = self.variables.iter_mut().rev().find(|(known, _)| assigns && *known == name);
        match found {
            Some((_, content)) => *content = value,
            None => self.variables.push((name, value)),
        }
    }

    fn expr(&mut self, expr: &'a Expr, dot: &Value) -> Result<Value, Located> {
        self.step(expr.at)?;
        match &expr.kind {
            Kind::Literal(value) => Ok(value.clone()),
            Kind::Path { base, fields, arguments } => {
                let start = match base {
                    Base::Dot => dot.clone(),
                    Base::Root => self.root.clone(),
                    // The parser knows no variable out of its scope.
                    Base::Variable(name) => {
                        let found = self.variables.iter().rev().find(|(known, _)| known == name);
                        found.map_or(Value::Null, |(_, value)| value.clone())
                    }
                    Base::Value(expr) => self.expr(expr, dot)?,
                };
                let value = follow(start, fields, self.mode, expr.at)?;
                self.method(fields.last(), value, arguments, dot, expr.at)
            }
            Kind::Call { function: function @ (Function::And | Function::Or), arguments } => {
                let mut value = Value::Null;
                for argument in arguments {
                    value = self.expr(argument, dot)?;
                    if value.is_truthy() == (*function == Function::Or) {
                        break;
                    }
                }
                Ok(value)
            }
            Kind::Call { function, arguments } => {
                let values =
                    arguments.iter().map(|a| self.expr(a, dot)).collect::<Result<Vec<Value>, Located>>()?;
                if self.mode == Mode::Headings && function.keeps_headings() {
                    return Ok(values.into_iter().next().unwrap_or(Value::Unset));
                }
                let made = call(*function, &values).map_err(|problem| Located { at: expr.at, problem })?;
                for value in values.iter().chain([&made]) {
                    self.charge(value, expr.at)?;
                }
                Ok(made)
            }
        }
    }

    /// The value of a path, or of the method that it ends with.
    fn method(
        &mut self,
        name: Option<&String>,
        value: Value,
        arguments: &'a [Expr],
        dot: &Value,
        at: usize,
    ) -> Result<Value, Located> {
        let name = || name.cloned().unwrap_or_default();
        let (entries, argument) = match (value, arguments) {
            (Value::Lookup(entries), [argument]) => (entries, argument),
            (Value::Lookup(_), _) => return fail(at, Problem::MethodArguments(name())),
            (value, []) => return Ok(value),
            (_, _) => return fail(at, Problem::NotAFunction(format!(".{}", name()))),
        };
        let key = self.expr(argument, dot)?;
        let Some(key) = key.text() else {
            return fail(at, Problem::MethodArguments(name()));
        };
        if self.mode == Mode::Headings {
            return Ok(Value::from(label_heading(key)));
        }
        Ok(Value::Map(entries).entry(key).cloned().unwrap_or(Value::Unset))
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

    /// Counts a value that a function has read or made.
    fn charge(&mut self, value: &Value, at: usize) -> Result<(), Located> {
        self.work_bytes += match value {
            Value::String(text) => text.len(),
            Value::List(items) => size_of_val(&**items),
            _ => 0,
        };
        if self.work_bytes > WORK_BYTES_MAX { fail(at, Problem::TooExpensive) } else { Ok(()) }
    }
}

fn follow(start: Value, fields: &[String], mode: Mode, at: usize) -> Result<Value, Located> {
    let mut value = start;
    for field in fields {
        value = match (value.entry(field), &value) {
            (Some(inner), _) => inner.clone(),
            (None, Value::Map(_) | Value::UnsetMap) => Value::Null,
            // A heading is a text, and the heading of what lies below it too.
            (None, Value::String(_)) if mode == Mode::Headings => value,
            (None, _) => return fail(at, Problem::NoField { field: field.clone(), of: value.kind() }),
        };
    }
    Ok(value)
}

/// The heading that docker gives the column of a label: the last part of its name.
fn label_heading(name: &str) -> String {
    name.rsplit('.').next().unwrap_or_default().replace(['-', '_'], " ")
}

/// What a range goes over.
enum Items {
    List(Arc<[Value]>),
    Map(Arc<[(Arc<str>, Value)]>),
    /// The numbers below this one.
    Numbers(usize),
}

impl Items {
    fn of(at: usize, value: Value) -> Result<Items, Located> {
        match (&value, value.integer()) {
            (_, Some(number)) => Ok(Items::Numbers(usize::try_from(number.max(0)).unwrap_or(usize::MAX))),
            (Value::Null | Value::Unset | Value::UnsetMap, _) => Ok(Items::Numbers(0)),
            (Value::List(items), _) => Ok(Items::List(items.clone())),
            (Value::Map(entries), _) => Ok(Items::Map(entries.clone())),
            (other, _) => fail(at, Problem::WrongKind { function: "range", of: other.kind() }),
        }
    }

    fn len(&self) -> usize {
        match self {
            Items::List(items) => items.len(),
            Items::Map(entries) => entries.len(),
            Items::Numbers(count) => *count,
        }
    }

    /// The index or key of an element, and the element.
    fn get(&self, position: usize) -> (Value, Value) {
        let number = Value::from(i64::try_from(position).unwrap_or(i64::MAX));
        match self {
            Items::List(items) => (number, items[position].clone()),
            Items::Map(entries) => (Value::String(entries[position].0.clone()), entries[position].1.clone()),
            Items::Numbers(_) => (number.clone(), number),
        }
    }
}
