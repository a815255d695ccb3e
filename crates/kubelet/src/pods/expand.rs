//! `$(NAME)` in commands, arguments and environment values, as upstream expands it: `$$` is a dollar sign, and
//! a reference to an unknown name stays as it is.

/// Expands the references in `text` that `lookup` knows.
pub fn expand(text: &str, lookup: &dyn Fn(&str) -> Option<String>) -> String {
    let mut result = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        result.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            result.push('$');
            rest = after;
        } else if let Some((name, after)) = rest.strip_prefix('(').and_then(|r| r.split_once(')')) {
            match lookup(name) {
                Some(value) => result.push_str(&value),
                None => {
                    result.push_str("$(");
                    result.push_str(name);
                    result.push(')');
                }
            }
            rest = after;
        } else {
            result.push('$');
        }
    }
    result.push_str(rest);
    result
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn known(name: &str) -> Option<String> {
        match name {
            "A" => Some("x".into()),
            "E" => Some(String::new()),
            _ => None,
        }
    }

    #[test]
    fn as_upstream() {
        for (text, expected) in [
            ("$(A)", "x"),
            ("$$(A)", "$(A)"),
            ("$$$(A)", "$x"),
            ("$(B) $(A)$(E).", "$(B) x."),
            ("$A $", "$A $"),
            ("$(A", "$(A"),
            ("cost: $5 $(A)", "cost: $5 x"),
        ] {
            assert_eq!(expand(text, &known), expected, "{text}");
        }
    }

    proptest! {
        #[test]
        fn text_without_dollar_is_kept(text in "[^$]{0,40}") {
            prop_assert_eq!(expand(&text, &known), text);
        }

        #[test]
        fn doubling_dollars_escapes_everything(text in ".{0,40}") {
            prop_assert_eq!(expand(&text.replace('$', "$$"), &known), text);
        }
    }
}
