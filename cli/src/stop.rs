//! Stop texts in a stream: what may be the beginning of one is held back.

/// Passes text on until one of the stop texts appears.
pub(crate) struct StopTexts {
    stops: Vec<String>,
    held: String,
}

impl StopTexts {
    pub(crate) fn new(stops: &[String]) -> Self {
        Self { stops: stops.iter().filter(|s| !s.is_empty()).cloned().collect(), held: String::new() }
    }

    /// Adds text: what can be shown, and whether a stop text was reached.
    pub(crate) fn push(&mut self, text: &str) -> (String, bool) {
        self.held.push_str(text);
        if let Some(at) = self.stops.iter().filter_map(|s| self.held.find(s.as_str())).min() {
            self.held.truncate(at);
            return (std::mem::take(&mut self.held), true);
        }
        // The longest end of the text that begins a stop text.
        let begins = |at: &usize| self.stops.iter().any(|s| s.starts_with(&self.held[*at..]));
        let keep = self.held.char_indices().map(|(at, _)| at).find(begins).unwrap_or(self.held.len());
        let rest = self.held.split_off(keep);
        (std::mem::replace(&mut self.held, rest), false)
    }

    /// What was held back.
    pub(crate) fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stop_text_across_pieces_ends_the_stream() {
        let mut s = StopTexts::new(&["END".into(), "\n\n".into()]);
        assert_eq!(s.push("one E"), ("one ".into(), false));
        assert_eq!(s.push("N"), (String::new(), false));
        assert_eq!(s.push("Z\n"), ("ENZ".into(), false));
        assert_eq!(s.push("two END three"), ("\ntwo ".into(), true));
    }

    #[test]
    fn what_was_held_back_is_not_lost() {
        let mut s = StopTexts::new(&["END".into()]);
        assert_eq!(s.push("the E"), ("the ".into(), false));
        assert_eq!(s.finish(), "E");
    }

    #[test]
    fn without_stop_texts_everything_passes() {
        let mut s = StopTexts::new(&[String::new()]);
        assert_eq!(s.push("abc"), ("abc".into(), false));
    }
}
