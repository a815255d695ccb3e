//! Bootstrap tokens: what a new node shows before it has a certificate. A Secret in `kube-system` holds each.

use super::{AUTHENTICATED, User};
use crate::store::Store;
use crate::time;
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::Value;

/// The group of all of them.
const BOOTSTRAPPERS: &str = "system:bootstrappers";
const KIND: &str = "bootstrap.kubernetes.io/token";
/// Lengths of the two parts of a token: `abcdef.0123456789abcdef`.
const LENGTHS: (usize, usize) = (6, 16);

/// The parts of a token, if it has the form of one.
fn parse(token: &str) -> Option<(&str, &str)> {
    let (id, secret) = token.split_once('.')?;
    let plain = |text: &str| text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    ((id.len(), secret.len()) == LENGTHS && plain(id) && plain(secret)).then_some((id, secret))
}

/// Whether a token has the form of a bootstrap token.
pub fn is_one(token: &str) -> bool {
    parse(token).is_some()
}

/// The user of a token that is good.
pub fn verify(store: &Store, token: &str) -> Option<User> {
    let (id, _) = parse(token)?;
    let secret = store.cached_by_name("", "secrets", "kube-system", &format!("bootstrap-token-{id}"))?;
    check(&secret.value(), token, time::unix_seconds())
}

fn check(object: &Value, token: &str, now: i64) -> Option<User> {
    let (id, secret) = parse(token)?;
    let data = |field: &str| -> String {
        let bytes = BASE64.decode(object["data"][field].as_str().unwrap_or_default());
        String::from_utf8(bytes.unwrap_or_default()).unwrap_or_default()
    };
    let usable = object["type"] == KIND
        && object["metadata"]["deletionTimestamp"].is_null()
        && data("token-id") == id
        && data("usage-bootstrap-authentication") == "true";
    if !usable || !same(data("token-secret").as_bytes(), secret.as_bytes()) {
        return None;
    }
    let expiration = data("expiration");
    if !expiration.is_empty() && time::parse(&expiration).is_none_or(|end| end <= now) {
        return None;
    }
    let mut groups = vec![BOOTSTRAPPERS.to_owned()];
    for group in data("auth-extra-groups")
        .split(',')
        .map(str::trim)
        .filter(|g| !g.is_empty())
    {
        // Any other group would make the Secret a way to any right.
        if !group.starts_with("system:bootstrappers:") {
            return None;
        }
        groups.push(group.to_owned());
    }
    groups.push(AUTHENTICATED.to_owned());
    Some(User {
        name: format!("system:bootstrap:{id}"),
        groups,
        ..User::default()
    })
}

/// Equality in a time that does not tell where two texts differ.
fn same(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |all, (a, b)| all | (a ^ b)) == 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const TOKEN: &str = "abcdef.0123456789abcdef";

    fn secret(change: impl FnOnce(&mut Value)) -> Value {
        let encode = |text: &str| BASE64.encode(text);
        let mut secret = json!({"type": KIND, "metadata": {}, "data": {
            "token-id": encode("abcdef"), "token-secret": encode("0123456789abcdef"),
            "usage-bootstrap-authentication": encode("true"), "expiration": encode("2026-01-01T00:00:00Z"),
            "auth-extra-groups": encode("system:bootstrappers:workers"),
        }});
        change(&mut secret);
        secret
    }

    #[test]
    fn a_good_token_is_a_user() {
        let user = check(&secret(|_| {}), TOKEN, 0).unwrap();
        assert_eq!(user.name, "system:bootstrap:abcdef");
        assert_eq!(
            user.groups,
            [
                "system:bootstrappers",
                "system:bootstrappers:workers",
                "system:authenticated"
            ]
        );
    }

    #[test]
    fn everything_else_is_nobody() {
        let late = 4_000_000_000;
        assert!(check(&secret(|_| {}), TOKEN, late).is_none());
        assert!(check(&secret(|_| {}), "abcdef.0123456789abcdee", 0).is_none());
        assert!(check(&secret(|s| s["type"] = "Opaque".into()), TOKEN, 0).is_none());
        let masters = BASE64.encode("system:masters");
        assert!(
            check(
                &secret(|s| s["data"]["auth-extra-groups"] = masters.into()),
                TOKEN,
                0
            )
            .is_none()
        );
        let unused = |s: &mut Value| {
            s["data"]
                .as_object_mut()
                .unwrap()
                .remove("usage-bootstrap-authentication");
        };
        assert!(check(&secret(unused), TOKEN, 0).is_none());
        for bad in [
            "abcdef",
            "ABCDEF.0123456789abcdef",
            "abcdef.0123",
            "../../.0123456789abcdef",
        ] {
            assert!(!is_one(bad), "{bad}");
        }
    }
}
