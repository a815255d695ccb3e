//! Names of definitions: within a group each name belongs to one definition, the first that was accepted with it.

use super::conditions;
use serde_json::{Map, Value, json};

/// The status that a definition should have, given all definitions. `None` if it has it already.
pub fn status(definition: &Value, all: &[Value], now: &str) -> Option<Value> {
    let spec = &definition["spec"];
    let name = definition["metadata"]["name"].as_str().unwrap_or_default();
    let others: Vec<&Value> = all
        .iter()
        .filter(|d| d["spec"]["group"] == spec["group"] && d["metadata"]["name"] != name)
        .collect();
    let (accepted, problem) = accept(&spec["names"], &definition["status"]["acceptedNames"], &others);
    let mut new = definition.clone();
    if !new["status"].is_object() {
        new["status"] = json!({});
    }
    new["status"]["acceptedNames"] = accepted;
    match &problem {
        None => conditions::set(
            &mut new,
            "NamesAccepted",
            "True",
            "NoConflicts",
            "no conflicts found",
            now,
        ),
        Some((reason, message)) => conditions::set(&mut new, "NamesAccepted", "False", reason, message, now),
    }
    if problem.is_none() {
        let message = "the initial names have been accepted";
        conditions::set(
            &mut new,
            "Established",
            "True",
            "InitialNamesAccepted",
            message,
            now,
        );
    } else if !conditions::is_true(definition, "Established") {
        let message = "not all names are accepted";
        conditions::set(&mut new, "Established", "False", "NotAccepted", message, now);
    }
    (new["status"] != definition["status"]).then_some(new)
}

/// The names that can be accepted, and what is wrong with the others.
fn accept(wanted: &Value, before: &Value, others: &[&Value]) -> (Value, Option<(&'static str, String)>) {
    let mut accepted = Map::new();
    let mut problem = None;
    for (field, reason) in [
        ("plural", "PluralConflict"),
        ("singular", "SingularConflict"),
        ("kind", "KindConflict"),
        ("listKind", "ListKindConflict"),
    ] {
        let name = wanted[field].as_str().unwrap_or_default();
        if !name.is_empty() && is_taken(name, field, others) {
            problem = Some((reason, format!("{name:?} is already in use")));
            accepted.insert(
                field.to_owned(),
                before[field].as_str().unwrap_or_default().into(),
            );
        } else {
            accepted.insert(field.to_owned(), name.into());
        }
    }
    let short: Vec<&str> = texts(&wanted["shortNames"]);
    let free: Vec<&str> = short
        .iter()
        .copied()
        .filter(|name| !is_taken(name, "plural", others))
        .collect();
    if let Some(taken) = short.iter().find(|name| !free.contains(name)) {
        problem = Some(("ShortNamesConflict", format!("{taken:?} is already in use")));
    }
    if !free.is_empty() {
        accepted.insert("shortNames".to_owned(), json!(free));
    }
    let categories = texts(&wanted["categories"]);
    if !categories.is_empty() {
        accepted.insert("categories".to_owned(), json!(categories));
    }
    (Value::Object(accepted), problem)
}

/// Whether another definition of the group was accepted with a name: kinds among themselves, and resources.
fn is_taken(name: &str, field: &str, others: &[&Value]) -> bool {
    others.iter().any(|other| {
        let names = &other["status"]["acceptedNames"];
        if matches!(field, "kind" | "listKind") {
            names["kind"] == name || names["listKind"] == name
        } else {
            names["plural"] == name
                || names["singular"] == name
                || texts(&names["shortNames"]).contains(&name)
        }
    })
}

fn texts(list: &Value) -> Vec<&str> {
    list.as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn definition(plural: &str, kind: &str) -> Value {
        json!({"metadata": {"name": format!("{plural}.example.com")}, "spec": {
            "group": "example.com",
            "names": {"plural": plural, "singular": plural, "kind": kind, "listKind": format!("{kind}List"),
                "shortNames": ["x"]},
        }})
    }

    #[test]
    fn the_first_has_the_names() {
        let first = definition("foos", "Foo");
        let first = status(&first, std::slice::from_ref(&first), "t").unwrap();
        assert!(conditions::is_true(&first, "NamesAccepted") && conditions::is_true(&first, "Established"));
        assert!(status(&first, std::slice::from_ref(&first), "u").is_none());
        let mut second = definition("bars", "Foo");
        second["spec"]["names"]["shortNames"] = json!(["y"]);
        let all = [first.clone(), second.clone()];
        let refused = status(&second, &all, "t").unwrap();
        let condition = conditions::find(&refused, "NamesAccepted").unwrap();
        assert_eq!(
            (&condition["reason"], &condition["message"]),
            (
                &json!("ListKindConflict"),
                &json!("\"FooList\" is already in use")
            )
        );
        assert!(!conditions::is_true(&refused, "Established"));
        // When the first is gone the second is accepted.
        let accepted = status(&refused, std::slice::from_ref(&refused), "t").unwrap();
        assert!(conditions::is_true(&accepted, "Established"));
        assert_eq!(accepted["status"]["acceptedNames"]["kind"], "Foo");
    }
}
