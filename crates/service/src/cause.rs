//! What an error comes from, for one line of a log or of an answer.
//!
//! Never: takes anything out of an error; what may be secret in it (a URL) is its owner's to remove first.

/// An error with its causes in one line; a cause that the line already says is not said again.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let said = cause.to_string();
        if !text.contains(&said) {
            text = format!("{text}: {said}");
        }
        source = cause.source();
    }
    text.replace('\n', " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{text}")]
    struct Layer {
        text: &'static str,
        source: Option<Box<Layer>>,
    }

    #[test]
    fn causes_stand_in_one_line_and_none_stands_twice() {
        let innermost = Layer { text: "refused\nby the peer", source: None };
        let inner = Layer { text: "connect: tcp", source: Some(Box::new(innermost)) };
        let outer = Layer { text: "cannot send: connect: tcp", source: Some(Box::new(inner)) };
        assert_eq!(chain(&outer), "cannot send: connect: tcp: refused by the peer");
    }
}
