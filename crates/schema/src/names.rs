//! Rules for names, labels and keys, with upstream's messages.
//!
//! Each function returns the messages of all rules that a value breaks; none if it is valid.

const LABEL_MAX: usize = 63;
const SUBDOMAIN_MAX: usize = 253;

const DNS1123_LABEL: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";
const DNS1123_SUBDOMAIN: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
const DNS1035_LABEL: &str = "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation is '[a-z]([-a-z0-9]*[a-z0-9])?')";
const QUALIFIED: &str = "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";
const QUALIFIED_WHOLE: &str = "a qualified name must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]') with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')";
const LABEL_VALUE: &str = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')";
const ENV_NAME: &str =
    "a valid environment variable name must consist only of printable ASCII characters other than '='";
const CONFIG_KEY: &str = "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')";

fn lower(b: u8) -> bool {
    b.is_ascii_lowercase() || b.is_ascii_digit()
}

fn max_length(length: usize) -> String {
    format!("must be no more than {length} characters")
}

fn is_dns_label(value: &str) -> bool {
    let bytes = value.as_bytes();
    matches!((bytes.first(), bytes.last()), (Some(&first), Some(&last)) if lower(first) && lower(last))
        && bytes.iter().all(|&b| lower(b) || b == b'-')
}

fn is_qualified(value: &str) -> bool {
    let bytes = value.as_bytes();
    matches!((bytes.first(), bytes.last()),
        (Some(first), Some(last)) if first.is_ascii_alphanumeric() && last.is_ascii_alphanumeric())
        && bytes
            .iter()
            .all(|&b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

/// RFC 1123 label.
pub fn dns_label(value: &str) -> Vec<String> {
    let mut problems = Vec::new();
    if value.len() > LABEL_MAX {
        problems.push(max_length(LABEL_MAX));
    }
    if !is_dns_label(value) {
        // Upstream tells a name with dots apart, as it is usually a misplaced subdomain.
        problems.push(DNS1123_LABEL.to_owned());
    }
    problems
}

/// RFC 1123 subdomain.
pub fn dns_subdomain(value: &str) -> Vec<String> {
    let mut problems = Vec::new();
    if value.len() > SUBDOMAIN_MAX {
        problems.push(max_length(SUBDOMAIN_MAX));
    }
    if !value.split('.').all(is_dns_label) {
        problems.push(DNS1123_SUBDOMAIN.to_owned());
    }
    problems
}

/// RFC 1035 label.
pub fn dns1035_label(value: &str) -> Vec<String> {
    let mut problems = Vec::new();
    if value.len() > LABEL_MAX {
        problems.push(max_length(LABEL_MAX));
    }
    if !is_dns_label(value) || !value.starts_with(|c: char| c.is_ascii_lowercase()) {
        problems.push(DNS1035_LABEL.to_owned());
    }
    problems
}

/// Qualified name, the form of label keys: `[prefix/]name`.
pub fn qualified_name(value: &str) -> Vec<String> {
    let mut problems = Vec::new();
    let mut parts = value.split('/');
    let (first, second, third) = (parts.next().unwrap_or_default(), parts.next(), parts.next());
    let name = match (second, third) {
        (None, _) => first,
        (Some(name), None) => {
            if first.is_empty() {
                problems.push("prefix part must be non-empty".to_owned());
            } else {
                problems.extend(
                    dns_subdomain(first)
                        .into_iter()
                        .map(|p| format!("prefix part {p}")),
                );
            }
            name
        }
        (Some(_), Some(_)) => return vec![QUALIFIED_WHOLE.to_owned()],
    };
    if name.is_empty() {
        problems.push("name part must be non-empty".to_owned());
    } else if name.len() > LABEL_MAX {
        problems.push(format!("name part {}", max_length(LABEL_MAX)));
    }
    if !is_qualified(name) {
        problems.push(format!("name part {QUALIFIED}"));
    }
    problems
}

/// Label value.
pub fn label_value(value: &str) -> Vec<String> {
    let mut problems = Vec::new();
    if value.len() > LABEL_MAX {
        problems.push(max_length(LABEL_MAX));
    }
    if !value.is_empty() && !is_qualified(value) {
        problems.push(LABEL_VALUE.to_owned());
    }
    problems
}

/// Part of a path: names of RBAC objects and the like.
pub fn path_segment(value: &str) -> Vec<String> {
    if value == "." || value == ".." {
        return vec![format!("may not be '{value}'")];
    }
    ["/", "%"]
        .iter()
        .filter(|part| value.contains(**part))
        .map(|part| format!("may not contain '{part}'"))
        .collect()
}

/// Name of an environment variable.
pub fn env_var_name(value: &str) -> Vec<String> {
    if value.is_empty() || !value.bytes().all(|b| (b' '..=b'~').contains(&b) && b != b'=') {
        return vec![ENV_NAME.to_owned()];
    }
    Vec::new()
}

/// Key of a ConfigMap or Secret.
pub fn config_map_key(value: &str) -> Vec<String> {
    let mut problems = Vec::new();
    if value.len() > SUBDOMAIN_MAX {
        problems.push(max_length(SUBDOMAIN_MAX));
    }
    if value.is_empty()
        || !value
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
    {
        problems.push(CONFIG_KEY.to_owned());
    }
    if value == "." {
        problems.push("must not be '.'".to_owned());
    } else if value == ".." {
        problems.push("must not be '..'".to_owned());
    } else if value.starts_with("..") {
        problems.push("must not start with '..'".to_owned());
    }
    problems
}

/// Name of a port: IANA service name.
pub fn port_name(value: &str) -> Vec<String> {
    const NAME_MAX: usize = 15;
    let mut problems = Vec::new();
    let bytes = value.as_bytes();
    if bytes.len() > NAME_MAX {
        problems.push(format!("must be no more than {NAME_MAX} characters"));
    }
    if bytes.is_empty() || !bytes.iter().all(|&b| lower(b) || b == b'-') {
        problems.push("must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)".to_owned());
    }
    if !bytes.iter().any(u8::is_ascii_lowercase) {
        problems.push("must contain at least one letter (a-z)".to_owned());
    }
    if value.contains("--") {
        problems.push("must not contain consecutive hyphens".to_owned());
    }
    if value.starts_with('-') || value.ends_with('-') {
        problems.push("must not begin or end with a hyphen".to_owned());
    }
    problems
}

/// Number of a port.
pub fn port_number(value: i64) -> Vec<String> {
    if (1..=65_535).contains(&value) {
        Vec::new()
    } else {
        vec!["must be between 1 and 65535, inclusive".to_owned()]
    }
}

/// IP address, in the forms that a new object may use.
pub fn ip(value: &str) -> Vec<String> {
    if value.parse::<std::net::IpAddr>().is_ok() {
        Vec::new()
    } else {
        vec!["must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)".to_owned()]
    }
}

/// Network address with prefix length.
pub fn cidr(value: &str) -> Vec<String> {
    let valid = value.split_once('/').is_some_and(|(address, length)| {
        let longest = match address.parse::<std::net::IpAddr>() {
            Ok(std::net::IpAddr::V4(_)) => 32,
            Ok(std::net::IpAddr::V6(_)) => 128,
            Err(_) => return false,
        };
        length.parse::<u8>().is_ok_and(|n| n <= longest) && (length == "0" || !length.starts_with(['0', '+']))
    });
    if valid {
        Vec::new()
    } else {
        vec!["must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)".to_owned()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_and_subdomains() {
        for good in ["a", "a-b", "0a9", &"a".repeat(63)] {
            assert!(dns_label(good).is_empty(), "{good}");
        }
        for bad in ["", "A", "-a", "a-", "a.b", "a_b", "ü"] {
            assert_eq!(dns_label(bad), [DNS1123_LABEL], "{bad}");
        }
        assert_eq!(dns_label(&"a".repeat(64)), ["must be no more than 63 characters"]);
        assert!(dns_subdomain("a.b-c.d").is_empty());
        for bad in ["", "a..b", ".a", "a.", "a.-b", "A.b"] {
            assert_eq!(dns_subdomain(bad), [DNS1123_SUBDOMAIN], "{bad}");
        }
        assert!(dns1035_label("a0").is_empty());
        assert_eq!(dns1035_label("0a"), [DNS1035_LABEL]);
    }

    #[test]
    fn keys_and_values() {
        for good in ["a", "A_b.c", "example.com/A", "0"] {
            assert!(qualified_name(good).is_empty(), "{good}");
        }
        assert_eq!(qualified_name("/a"), ["prefix part must be non-empty"]);
        assert_eq!(qualified_name("a/b/c"), [QUALIFIED_WHOLE]);
        assert_eq!(qualified_name("Ex/a").len(), 1);
        assert_eq!(qualified_name("")[0], "name part must be non-empty");
        assert!(label_value("").is_empty());
        assert_eq!(label_value("a b"), [LABEL_VALUE]);
        assert!(config_map_key("a_b.c-D").is_empty());
        assert_eq!(config_map_key("..a"), ["must not start with '..'"]);
        assert!(env_var_name("a.b c").is_empty());
        assert_eq!(env_var_name("a=b"), [ENV_NAME]);
        assert_eq!(path_segment("a/b"), ["may not contain '/'"]);
    }

    #[test]
    fn ports_and_addresses() {
        assert!(port_name("http-2").is_empty());
        assert_eq!(port_name("0"), ["must contain at least one letter (a-z)"]);
        assert_eq!(port_number(0), ["must be between 1 and 65535, inclusive"]);
        assert!(ip("10.0.0.1").is_empty() && ip("::1").is_empty() && cidr("10.0.0.0/8").is_empty());
        for bad in ["10.0.0", "10.0.0.01", "x"] {
            assert_eq!(ip(bad).len(), 1, "{bad}");
        }
        for bad in ["10.0.0.0", "10.0.0.0/33", "10.0.0.0/08", "::/129"] {
            assert_eq!(cidr(bad).len(), 1, "{bad}");
        }
    }
}
