//! Tokens of a label selector.

/// A token with the text that it was read from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Token {
    Identifier(String),
    /// `in` or `notin`: an identifier where a value is expected.
    Word(&'static str),
    Not,
    Equals,
    DoubleEquals,
    NotEquals,
    Greater,
    Less,
    Open,
    Close,
    Comma,
    End,
    /// Symbols that mean nothing together.
    Bad(String),
}

impl Token {
    /// The text, as errors show it.
    pub(super) fn text(&self) -> &str {
        match self {
            Token::Identifier(text) | Token::Bad(text) => text,
            Token::Word(word) => word,
            Token::Not => "!",
            Token::Equals => "=",
            Token::DoubleEquals => "==",
            Token::NotEquals => "!=",
            Token::Greater => ">",
            Token::Less => "<",
            Token::Open => "(",
            Token::Close => ")",
            Token::Comma => ",",
            Token::End => "",
        }
    }
}

const SYMBOLS: &str = "=!(),><";

/// All tokens of a text, without the end.
pub(super) fn tokens(text: &str) -> Vec<Token> {
    let mut found = Vec::new();
    let mut rest = text.trim_start_matches(is_space);
    while let Some(first) = rest.chars().next() {
        let token = if SYMBOLS.contains(first) {
            let (token, length) = symbol(rest);
            rest = &rest[length..];
            token
        } else {
            let end = rest
                .find(|c| is_space(c) || SYMBOLS.contains(c))
                .unwrap_or(rest.len());
            let word = &rest[..end];
            rest = &rest[end..];
            match word {
                "in" => Token::Word("in"),
                "notin" => Token::Word("notin"),
                word => Token::Identifier(word.to_owned()),
            }
        };
        found.push(token);
        rest = rest.trim_start_matches(is_space);
    }
    found
}

/// The longest token at the start of a text that begins with a symbol, and its length.
fn symbol(text: &str) -> (Token, usize) {
    for (symbol, token) in [("==", Token::DoubleEquals), ("!=", Token::NotEquals)] {
        if text.starts_with(symbol) {
            return (token, 2);
        }
    }
    let token = match text.as_bytes()[0] {
        b'=' => Token::Equals,
        b'!' => Token::Not,
        b'(' => Token::Open,
        b')' => Token::Close,
        b',' => Token::Comma,
        b'>' => Token::Greater,
        b'<' => Token::Less,
        _ => Token::Bad(text[..1].to_owned()),
    };
    (token, 1)
}

fn is_space(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\r' | '\n')
}
