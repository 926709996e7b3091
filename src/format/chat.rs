//! Conversations as text, by a model's own template.

use minijinja::value::{Value, from_args};
use minijinja::{Environment, Error as JinjaError, ErrorKind, State, context};
use serde::Serialize;

use crate::error::{Error, Result};

/// One turn of a conversation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Message {
    /// Who speaks: `system`, `user`, `assistant`.
    pub role: String,
    /// What they say.
    pub content: String,
}

impl Message {
    /// A turn.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self { role: role.into(), content: content.into() }
    }
}

/// Writes a conversation with a model's Jinja template; `add_generation_prompt` lets the assistant speak next.
pub fn render_chat(template: &str, messages: &[Message], bos: &str, eos: &str, add_generation_prompt: bool) -> Result<String> {
    let mut env = Environment::new();
    env.set_trim_blocks(true);
    env.set_lstrip_blocks(true);
    // A template comes with the model, from anywhere: it must not exhaust the stack.
    env.set_recursion_limit(64);
    env.set_unknown_method_callback(python_method);
    env.add_function("raise_exception", |message: String| -> Result<Value, JinjaError> {
        Err(JinjaError::new(ErrorKind::InvalidOperation, message))
    });
    let rendered = env.render_str(template, context! { messages, bos_token => bos, eos_token => eos, add_generation_prompt });
    rendered.map_err(|e| Error::format("chat template", "rendering", e.to_string()))
}

/// The methods of Python's strings and dictionaries that templates use.
fn python_method(_: &State<'_, '_>, value: &Value, method: &str, args: &[Value]) -> Result<Value, JinjaError> {
    if let Some(text) = value.as_str() {
        let pattern = |args: &[Value]| from_args::<(String,)>(args).map(|(p,)| p);
        let stripped = |left: bool, right: bool| -> Result<Value, JinjaError> {
            let (chars,): (Option<String>,) = from_args(args)?;
            let is = |c: char| chars.as_ref().map_or(c.is_whitespace(), |chars| chars.contains(c));
            let text = if left { text.trim_start_matches(is) } else { text };
            Ok(if right { text.trim_end_matches(is) } else { text }.into())
        };
        match method {
            "strip" => return stripped(true, true),
            "lstrip" => return stripped(true, false),
            "rstrip" => return stripped(false, true),
            "startswith" => return Ok(text.starts_with(&pattern(args)?).into()),
            "endswith" => return Ok(text.ends_with(&pattern(args)?).into()),
            "upper" => return Ok(text.to_uppercase().into()),
            "lower" => return Ok(text.to_lowercase().into()),
            "split" => return Ok(text.split(&pattern(args)?).map(Value::from).collect::<Vec<_>>().into()),
            "replace" => {
                let (from, to): (String, String) = from_args(args)?;
                return Ok(text.replace(&from, &to).into());
            }
            _ => {}
        }
    } else if method == "get" {
        let (key, default): (String, Option<Value>) = from_args(args)?;
        let found = value.get_attr(&key)?;
        return Ok(if found.is_undefined() { default.unwrap_or(Value::from(())) } else { found });
    } else if method == "items" {
        let pairs: Result<Vec<Value>, JinjaError> =
            value.try_iter()?.map(|key| Ok(Value::from(vec![key.clone(), value.get_item(&key)?]))).collect();
        return Ok(pairs?.into());
    }
    Err(JinjaError::from(ErrorKind::UnknownMethod))
}
