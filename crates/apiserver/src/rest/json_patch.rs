//! JSON patches (RFC 6902), as far as one request may go: a few operations that copy what they copied before would fill
//! the memory, and values that are nested without end would exhaust the stack of whoever walks through them.

use json_patch::{PatchOperation, patch};
use schema::decode::MAX_DEPTH;
use serde_json::Value;

/// Operations in one patch, as upstream's limit.
pub const MAX_OPERATIONS: usize = 10_000;
/// About how many bytes of JSON the copies and moves of one patch may carry; upstream's limit for copies.
const MAX_CARRIED_BYTES: usize = 3 << 20;
/// Quotes, a colon, a comma: what a value takes beside its text.
const BYTES_PER_VALUE: usize = 4;

/// Why a patch does not fit.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An operation that cannot be done.
    #[error(transparent)]
    Operation(#[from] json_patch::PatchError),
    /// It copies too much.
    #[error(
        "Unable to complete the copy, the accumulated size of copies exceeds the limit {MAX_CARRIED_BYTES}"
    )]
    TooLarge,
    /// It nests too much.
    #[error("exceeded max depth {MAX_DEPTH}")]
    TooDeep,
}

/// Does all operations on a value; after an error it is good for nothing.
pub fn apply(operations: &[PatchOperation], value: &mut Value) -> Result<(), Error> {
    let mut left = MAX_CARRIED_BYTES;
    for operation in operations {
        let path = operation.path().count();
        match operation {
            // These come with the body, whose size is bounded.
            PatchOperation::Add(add) => nest(&add.value, path, &mut { usize::MAX })?,
            PatchOperation::Replace(replace) => nest(&replace.value, path, &mut { usize::MAX })?,
            // An absent source is told by the operation itself.
            PatchOperation::Copy(copy) => {
                value
                    .pointer(copy.from.as_str())
                    .map_or(Ok(()), |from| nest(from, path, &mut left))?;
            }
            PatchOperation::Move(mov) => {
                value
                    .pointer(mov.from.as_str())
                    .map_or(Ok(()), |from| nest(from, path, &mut left))?;
            }
            PatchOperation::Remove(_) | PatchOperation::Test(_) => {}
        }
        patch(value, std::slice::from_ref(operation))?;
    }
    Ok(())
}

/// Checks that a value may stand at a depth, and takes its size off what may still be carried.
fn nest(value: &Value, depth: usize, left: &mut usize) -> Result<(), Error> {
    if depth > MAX_DEPTH {
        return Err(Error::TooDeep);
    }
    let mut take = |bytes: usize| {
        *left = left.checked_sub(bytes + BYTES_PER_VALUE).ok_or(Error::TooLarge)?;
        Ok(())
    };
    match value {
        Value::Object(map) => {
            take(0)?;
            for (key, value) in map {
                *left = left.checked_sub(key.len()).ok_or(Error::TooLarge)?;
                nest(value, depth + 1, left)?;
            }
            Ok(())
        }
        Value::Array(items) => {
            take(0)?;
            items.iter().try_for_each(|item| nest(item, depth + 1, left))
        }
        Value::String(text) => take(text.len()),
        Value::Null | Value::Bool(_) | Value::Number(_) => take(0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn run(value: Value, operations: impl IntoIterator<Item = Value>) -> Result<Value, Error> {
        let operations: Vec<PatchOperation> = operations
            .into_iter()
            .map(|o| serde_json::from_value(o).unwrap())
            .collect();
        let mut value = value;
        apply(&operations, &mut value).map(|()| value)
    }

    #[test]
    fn ordinary_patches_are_applied() {
        let operations = [
            json!({"op": "add", "path": "/a/b", "value": [1]}),
            json!({"op": "copy", "from": "/a/b", "path": "/c"}),
            json!({"op": "move", "from": "/a", "path": "/d"}),
            json!({"op": "test", "path": "/d/b/0", "value": 1}),
        ];
        assert_eq!(
            run(json!({"a": {}}), operations).unwrap(),
            json!({"c": [1], "d": {"b": [1]}})
        );
        let absent = json!({"op": "copy", "from": "/x", "path": "/c"});
        assert!(matches!(run(json!({}), [absent]), Err(Error::Operation(_))));
    }

    #[test]
    fn copies_of_copies_do_not_fill_the_memory() {
        // Each doubles what is there: 40 of them are a terabyte.
        let double = |n| json!({"op": "copy", "from": "/a", "path": format!("/a/{n}")});
        assert!(matches!(
            run(json!({"a": {"x": "y"}}), (0..40).map(double)),
            Err(Error::TooLarge)
        ));
    }

    #[test]
    fn nothing_is_nested_without_end() {
        let deeper = |_| json!({"op": "copy", "from": "/a", "path": "/a/a"});
        assert!(matches!(
            run(json!({"a": {}}), (0..2 * MAX_DEPTH).map(deeper)),
            Err(Error::TooDeep)
        ));
        let path = "/a".repeat(MAX_DEPTH + 1);
        let mut bottomless = json!({});
        for _ in 0..=MAX_DEPTH {
            bottomless = json!({"a": bottomless});
        }
        let add = json!({"op": "add", "path": path, "value": 1});
        assert!(matches!(run(bottomless.clone(), [add]), Err(Error::TooDeep)));
        let moved = json!({"op": "move", "from": "/a", "path": "/b/c"});
        assert!(matches!(
            run(json!({"a": bottomless["a"], "b": {}}), [moved]),
            Err(Error::TooDeep)
        ));
    }
}
