//! Python pickles (protocols 0 to 2) of plain data, as a tree of what they say. Nothing is imported, called or built: classes are names.

use crate::{Error, Result};
use std::collections::HashMap;
use std::ops::Range;

/// A node of the tree, by its number.
pub(crate) type Node = usize;

/// What a node is.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Value {
    None,
    Int(i64),
    /// Bytes of the file.
    Bytes(Range<usize>),
    /// A class or function, `module name`.
    Name(String),
    Sequence(Vec<Node>),
    Pairs(Vec<(Node, Node)>),
    /// What calling a class with arguments would make, and the state that it would get.
    Object {
        class: Node,
        arguments: Node,
        state: Option<Node>,
    },
}

/// A file's tree.
#[derive(Debug)]
pub(crate) struct Pickle<'a> {
    name: &'a str,
    bytes: &'a [u8],
    values: Vec<Value>,
    root: Node,
}

/// The state of a reading.
struct Reader<'a> {
    name: &'a str,
    bytes: &'a [u8],
    at: usize,
    values: Vec<Value>,
    stack: Vec<Node>,
    marks: Vec<usize>,
    memo: HashMap<u32, Node>,
}

impl<'a> Pickle<'a> {
    /// Reads a file's bytes; `name` is for errors.
    pub(crate) fn read(name: &'a str, bytes: &'a [u8]) -> Result<Self> {
        let mut r = Reader { name, bytes, at: 0, values: Vec::new(), stack: Vec::new(), marks: Vec::new(), memo: HashMap::new() };
        while r.step()? {}
        let root = r.pop()?;
        Ok(Self { name, bytes, values: r.values, root })
    }

    pub(crate) fn root(&self) -> Node {
        self.root
    }

    pub(crate) fn value(&self, n: Node) -> &Value {
        &self.values[n]
    }

    pub(crate) fn wrong(&self, what: impl std::fmt::Display) -> Error {
        wrong(self.name, what)
    }

    pub(crate) fn int(&self, n: Node) -> Result<i64> {
        if let Value::Int(v) = self.value(n) { Ok(*v) } else { Err(self.wrong("a number is expected")) }
    }

    pub(crate) fn bytes(&self, n: Node) -> Result<&'a [u8]> {
        if let Value::Bytes(r) = self.value(n) { Ok(&self.bytes[r.clone()]) } else { Err(self.wrong("a string is expected")) }
    }

    pub(crate) fn sequence(&self, n: Node) -> Result<&[Node]> {
        if let Value::Sequence(v) = self.value(n) { Ok(v) } else { Err(self.wrong("a list or tuple is expected")) }
    }

    /// Pairs of a dictionary.
    pub(crate) fn pairs(&self, n: Node) -> Result<&[(Node, Node)]> {
        if let Value::Pairs(v) = self.value(n) { Ok(v) } else { Err(self.wrong("a dictionary is expected")) }
    }

    /// The value of a dictionary's key.
    pub(crate) fn get(&self, n: Node, key: &str) -> Result<Option<Node>> {
        let named = |k: &Node| self.bytes(*k).is_ok_and(|b| b == key.as_bytes());
        Ok(self.pairs(n)?.iter().find(|(k, _)| named(k)).map(|(_, v)| *v))
    }

    /// The last part of an object's class, its arguments, and its state.
    pub(crate) fn object(&self, n: Node) -> Result<(&str, Node, Option<Node>)> {
        let Value::Object { class, arguments, state } = self.value(n) else { return Err(self.wrong("an object is expected")) };
        let Value::Name(name) = self.value(*class) else { return Err(self.wrong("an object of no class")) };
        Ok((name.rsplit(' ').next().unwrap_or(name), *arguments, *state))
    }
}

fn wrong(name: &str, what: impl std::fmt::Display) -> Error {
    Error::format(name, "pickle", what.to_string())
}

impl Reader<'_> {
    fn wrong(&self, what: &str) -> Error {
        wrong(self.name, format_args!("byte {}: {what}", self.at))
    }

    fn take(&mut self, n: usize) -> Result<Range<usize>> {
        let end = self.at.checked_add(n).filter(|end| *end <= self.bytes.len()).ok_or_else(|| self.wrong("the file ends too early"))?;
        Ok(std::mem::replace(&mut self.at, end)..end)
    }

    fn number<const N: usize>(&mut self) -> Result<[u8; N]> {
        let r = self.take(N)?;
        self.bytes[r].try_into().map_err(|_| self.wrong("the file ends too early"))
    }

    fn line(&mut self) -> Result<String> {
        let rest = &self.bytes[self.at..];
        let n = rest.iter().position(|b| *b == b'\n').ok_or_else(|| self.wrong("a line without end"))?;
        let text = String::from_utf8_lossy(&rest[..n]).into_owned();
        self.at += n + 1;
        Ok(text)
    }

    fn push(&mut self, v: Value) {
        self.values.push(v);
        self.stack.push(self.values.len() - 1);
    }

    fn pop(&mut self) -> Result<Node> {
        let floor = self.marks.last().copied().unwrap_or(0);
        if self.stack.len() <= floor {
            return Err(self.wrong("nothing to take"));
        }
        self.stack.pop().ok_or_else(|| self.wrong("nothing to take"))
    }

    /// What lies above the last mark.
    fn marked(&mut self) -> Result<Vec<Node>> {
        let mark = self.marks.pop().ok_or_else(|| self.wrong("no mark"))?;
        Ok(self.stack.split_off(mark.min(self.stack.len())))
    }

    fn tuple(&mut self, n: usize) -> Result<()> {
        let mut parts = (0..n).map(|_| self.pop()).collect::<Result<Vec<_>>>()?;
        parts.reverse();
        self.push(Value::Sequence(parts));
        Ok(())
    }

    fn top(&self) -> Result<Node> {
        self.stack.last().copied().ok_or_else(|| self.wrong("nothing to take"))
    }

    fn append(&mut self, more: Vec<Node>) -> Result<()> {
        let top = self.top()?;
        let Some(Value::Sequence(list)) = self.values.get_mut(top) else { return Err(self.wrong("no list to append to")) };
        list.extend(more);
        Ok(())
    }

    fn set(&mut self, more: &[Node]) -> Result<()> {
        let top = self.top()?;
        // A defaultdict is an object that is filled afterwards.
        let at = match self.values.get(top) {
            Some(Value::Object { state: Some(at), .. }) => *at,
            Some(Value::Object { state: None, .. }) => {
                self.values.push(Value::Pairs(Vec::new()));
                let at = self.values.len() - 1;
                if let Some(Value::Object { state, .. }) = self.values.get_mut(top) {
                    *state = Some(at);
                }
                at
            }
            _ => top,
        };
        let Some(Value::Pairs(all)) = self.values.get_mut(at) else { return Err(self.wrong("no dictionary to fill")) };
        all.extend(more.chunks_exact(2).map(|p| (p[0], p[1])));
        Ok(())
    }

    /// Reads one instruction; false at the last.
    fn step(&mut self) -> Result<bool> {
        let op = self.number::<1>()?[0];
        match op {
            0x80 => {
                self.take(1)?;
            }
            b'.' => return Ok(false),
            b'(' => self.marks.push(self.stack.len()),
            b'c' => {
                let (module, name) = (self.line()?, self.line()?);
                self.push(Value::Name(format!("{module} {name}")));
            }
            b'q' | b'r' | b'h' | b'j' | b'p' | b'g' => self.remember(op)?,
            b'N' => self.push(Value::None),
            0x88 | 0x89 => self.push(Value::Int(i64::from(op == 0x88))),
            b'J' => {
                let v = i32::from_le_bytes(self.number()?);
                self.push(Value::Int(v.into()));
            }
            b'K' => {
                let [v] = self.number()?;
                self.push(Value::Int(v.into()));
            }
            b'M' => {
                let v = u16::from_le_bytes(self.number()?);
                self.push(Value::Int(v.into()));
            }
            b'U' | b'T' | b'X' => {
                let n = if op == b'U' { u32::from(self.number::<1>()?[0]) } else { u32::from_le_bytes(self.number()?) };
                let r = self.take(n as usize)?;
                self.push(Value::Bytes(r));
            }
            b')' | b']' => self.push(Value::Sequence(Vec::new())),
            b'}' => self.push(Value::Pairs(Vec::new())),
            b't' | b'l' => {
                let parts = self.marked()?;
                self.push(Value::Sequence(parts));
            }
            0x85..=0x87 => self.tuple(usize::from(op - 0x84))?,
            b'a' => {
                let v = self.pop()?;
                self.append(vec![v])?;
            }
            b'e' => {
                let more = self.marked()?;
                self.append(more)?;
            }
            b's' => {
                let (v, k) = (self.pop()?, self.pop()?);
                self.set(&[k, v])?;
            }
            b'u' => {
                let more = self.marked()?;
                self.set(&more)?;
            }
            b'R' | 0x81 => {
                let (arguments, class) = (self.pop()?, self.pop()?);
                self.push(Value::Object { class, arguments, state: None });
            }
            b'b' => {
                let (given, object) = (self.pop()?, self.top()?);
                let Some(Value::Object { state, .. }) = self.values.get_mut(object) else { return Err(self.wrong("no object to fill")) };
                *state = Some(given);
            }
            _ => return Err(self.wrong(&format!("instruction {op:#04x}, which plain data does not need"))),
        }
        Ok(true)
    }

    /// Instructions that name what is on the stack, or fetch what was named.
    fn remember(&mut self, op: u8) -> Result<()> {
        let key = match op {
            b'q' | b'h' => self.number::<1>()?[0].into(),
            b'r' | b'j' => u32::from_le_bytes(self.number()?),
            _ => self.line()?.parse().map_err(|_| self.wrong("no number"))?,
        };
        if matches!(op, b'q' | b'r' | b'p') {
            let top = self.top()?;
            self.memo.insert(key, top);
            return Ok(());
        }
        let node = *self.memo.get(&key).ok_or_else(|| self.wrong("a name that was not given"))?;
        self.stack.push(node);
        Ok(())
    }
}
