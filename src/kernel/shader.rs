//! Puts WGSL together: imports, conditions, unrolled loops and constants, by text.
//!
//! ```text
//! #import common/decode     the fragment shaders/common/decode.wgsl
//! #if SUBGROUP && BITS == 4 … #else … #end
//! #for i in 0..ROWS … #end  repeats the lines, $i being 0, 1, …
//! #let PER = (D + 31) / 32   a constant made from others, from here on to the end of the innermost #for
//! $NAME   $(4 * i + j)      the value of a constant, a loop variable or an expression of them
//! ```
//! Unrolling by text matters where registers must be indexed by constants; `override` cannot size function-local arrays.

use crate::{Error, Result};

/// Where the text is going.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// naga, which takes subgroup operations without a directive and rejects `enable subgroups;`.
    Native,
    /// A browser, which requires it.
    Browser,
}

type Names<'a> = Vec<(&'a str, i64)>;

/// Expands `source` with the constants `defines`.
///
/// # Errors
/// [`Error::Shape`] naming the line, for an unknown name or a block that does not end: a fault of the shader, not of a user.
pub(crate) fn expand(source: &str, defines: &[(&'static str, i64)]) -> Result<String> {
    let mut text = String::new();
    import(source, &mut text, &mut Vec::new())?;
    let lines: Vec<&str> = text.lines().collect();
    let mut out = String::with_capacity(2 * text.len());
    let mut names: Names<'_> = defines.to_vec();
    block(&lines, &mut names, &mut out)?;
    Ok(out)
}

fn fault(line: &str, why: &str) -> Error {
    Error::shape("shader", format!("{why} in `{}`", line.trim()))
}

fn import(source: &str, out: &mut String, seen: &mut Vec<String>) -> Result<()> {
    for line in source.lines() {
        match line.trim().strip_prefix("#import ") {
            None => {
                out.push_str(line);
                out.push('\n');
            }
            Some(name) if seen.iter().any(|s| s == name) => {}
            Some(name) => {
                seen.push(name.into());
                let text = super::fragments().iter().find(|(n, _)| *n == name).ok_or_else(|| fault(line, "unknown import"))?;
                import(text.1, out, seen)?;
            }
        }
    }
    Ok(())
}

/// The index of the `#end` (or, for an `#if`, also of the `#else`) that belongs to the block opened just before `lines`.
fn close(lines: &[&str]) -> Option<(Option<usize>, usize)> {
    let (mut depth, mut middle) = (0, None);
    for (i, line) in lines.iter().enumerate() {
        let t = line.trim();
        if t.starts_with("#if ") || t.starts_with("#for ") {
            depth += 1;
        } else if t == "#end" {
            if depth == 0 {
                return Some((middle, i));
            }
            depth -= 1;
        } else if t == "#else" && depth == 0 {
            middle = Some(i);
        }
    }
    None
}

fn block<'a>(lines: &[&'a str], names: &mut Names<'a>, out: &mut String) -> Result<()> {
    let mut i = 0;
    while i < lines.len() {
        let line = lines[i];
        let t = line.trim();
        i += 1;
        if let Some(condition) = t.strip_prefix("#if ") {
            let (middle, end) = close(&lines[i..]).ok_or_else(|| fault(line, "no #end"))?;
            let body = &lines[i..i + end];
            let taken = match (evaluate(condition, names)? != 0, middle) {
                (true, None) => body,
                (true, Some(m)) => &body[..m],
                (false, None) => &[],
                (false, Some(m)) => &body[m + 1..],
            };
            block(taken, names, out)?;
            i += end + 1;
        } else if let Some(rest) = t.strip_prefix("#for ") {
            let (_, end) = close(&lines[i..]).ok_or_else(|| fault(line, "no #end"))?;
            let (name, range) = rest.split_once(" in ").ok_or_else(|| fault(line, "no `in`"))?;
            let (from, to) = range.split_once("..").ok_or_else(|| fault(line, "no range"))?;
            for v in evaluate(from, names)?..evaluate(to, names)? {
                let outside = names.len();
                names.push((name.trim(), v));
                block(&lines[i..i + end], names, out)?;
                names.truncate(outside);
            }
            i += end + 1;
        } else if let Some(rest) = t.strip_prefix("#let ") {
            let (name, value) = rest.split_once('=').ok_or_else(|| fault(line, "no `=`"))?;
            names.push((name.trim(), evaluate(value, names)?));
        } else {
            substitute(line, names, out)?;
            out.push('\n');
        }
    }
    Ok(())
}

fn substitute(line: &str, names: &Names<'_>, out: &mut String) -> Result<()> {
    let mut rest = line;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        let len = if rest.starts_with('(') {
            let mut depth = 0;
            let end = rest.char_indices().find(|(_, c)| {
                depth += i32::from(*c == '(') - i32::from(*c == ')');
                depth == 0
            });
            end.ok_or_else(|| fault(line, "no closing parenthesis"))?.0 + 1
        } else {
            rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(rest.len())
        };
        out.push_str(&evaluate(&rest[..len], names)?.to_string());
        rest = &rest[len..];
    }
    out.push_str(rest);
    Ok(())
}

fn evaluate(text: &str, names: &Names<'_>) -> Result<i64> {
    let mut p = Parser { rest: text, names, text };
    let v = p.binary(0)?;
    p.rest = p.rest.trim_start();
    if p.rest.is_empty() { Ok(v) } else { Err(fault(text, "cannot read the expression")) }
}

struct Parser<'a, 'n> {
    rest: &'a str,
    text: &'a str,
    names: &'n Names<'n>,
}

/// Operators by rising precedence; longer spellings first within a level.
const LEVELS: [&[&str]; 5] = [&["||"], &["&&"], &["==", "!=", "<=", ">=", "<", ">"], &["+", "-"], &["*", "/", "%"]];

impl Parser<'_, '_> {
    fn binary(&mut self, level: usize) -> Result<i64> {
        let Some(operators) = LEVELS.get(level) else { return self.atom() };
        let mut a = self.binary(level + 1)?;
        loop {
            self.rest = self.rest.trim_start();
            let Some(op) = operators.iter().find(|o| self.rest.starts_with(**o)) else { return Ok(a) };
            self.rest = &self.rest[op.len()..];
            let b = self.binary(level + 1)?;
            a = match *op {
                "||" => i64::from(a != 0 || b != 0),
                "&&" => i64::from(a != 0 && b != 0),
                "==" => i64::from(a == b),
                "!=" => i64::from(a != b),
                "<=" => i64::from(a <= b),
                ">=" => i64::from(a >= b),
                "<" => i64::from(a < b),
                ">" => i64::from(a > b),
                "+" => a + b,
                "-" => a - b,
                "*" => a * b,
                "/" => a.checked_div(b).ok_or_else(|| fault(self.text, "division by zero"))?,
                _ => a.checked_rem(b).ok_or_else(|| fault(self.text, "division by zero"))?,
            };
        }
    }

    fn atom(&mut self) -> Result<i64> {
        self.rest = self.rest.trim_start();
        if let Some(r) = self.rest.strip_prefix('!') {
            self.rest = r;
            return Ok(i64::from(self.atom()? == 0));
        }
        if let Some(r) = self.rest.strip_prefix('(') {
            self.rest = r;
            let v = self.binary(0)?;
            self.rest = self.rest.trim_start().strip_prefix(')').ok_or_else(|| fault(self.text, "no closing parenthesis"))?;
            return Ok(v);
        }
        let len = self.rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(len);
        self.rest = rest;
        if let Ok(n) = word.parse() {
            return Ok(n);
        }
        let found = self.names.iter().rev().find(|(n, _)| *n == word);
        found.map(|(_, v)| *v).ok_or_else(|| fault(self.text, &format!("unknown name `{word}`")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expands_conditions_loops_and_expressions() {
        let text = "#if A && B == 2\n#for i in 0..A\nx$i = $(2 * i + B);\n#end\n#else\nno\n#end\nB=$B";
        assert_eq!(expand(text, &[("A", 2), ("B", 2)]).unwrap(), "x0 = 2;\nx1 = 4;\nB=2\n");
        assert_eq!(expand(text, &[("A", 2), ("B", 3)]).unwrap(), "no\nB=3\n");
    }

    #[test]
    fn nested_blocks_belong_to_their_own_end() {
        let text = "#for i in 0..2\n#if i == 0\na\n#else\n#for j in 0..2\nb$(i)$j\n#end\n#end\n#end";
        assert_eq!(expand(text, &[]).unwrap(), "a\nb10\nb11\n");
    }

    #[test]
    fn constants_are_made_from_others() {
        let text = "#let B = 2 * A\n#for i in 0..2\n#let C = B + i\n$C\n#end\n$B";
        assert_eq!(expand(text, &[("A", 3)]).unwrap(), "6\n7\n6\n");
        assert!(expand("#let B\n", &[]).unwrap_err().to_string().contains("no `=`"));
        assert!(expand("#for i in 0..1\n#let C = 1\n#end\n$C", &[]).unwrap_err().to_string().contains("unknown name `C`"));
    }

    #[test]
    fn names_its_fault() {
        assert!(expand("#if X\n#end", &[]).unwrap_err().to_string().contains("unknown name `X`"));
        assert!(expand("#for i in 0..3\n", &[]).unwrap_err().to_string().contains("no #end"));
        assert!(expand("$(1 / 0)", &[]).unwrap_err().to_string().contains("division by zero"));
    }
}
