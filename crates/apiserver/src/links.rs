//! Links of what is behind a proxy: a page names paths of its own server, which a client finds below the proxy's path.
//! As upstream does, `Location` headers and the attributes of HTML that hold addresses are rewritten on their way.

use crate::http::body::BodyError;
use bytes::Bytes;
use http_body::{Body as _, Frame};
use hyper::body::Incoming;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

/// A tag that is longer is passed on as it is.
const MAX_TAG_BYTES: usize = 64 << 10;
/// Elements whose content is text, whatever it looks like.
const RAW: [&str; 2] = ["script", "style"];

/// How addresses change.
#[derive(Clone, Debug)]
pub struct Links {
    /// Path of the proxy, without a slash at the end.
    pub prefix: String,
    /// What the page may call its server: its address, and the host that the client asked.
    pub hosts: [String; 2],
}

impl Links {
    /// The address as the client has to use it.
    pub fn rewrite(&self, address: &str) -> String {
        let rest = ["http://", "https://", "//"]
            .iter()
            .find_map(|start| address.strip_prefix(start));
        let path = match rest {
            Some(rest) => {
                let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
                let (host, path) = rest.split_at(end);
                if !self.hosts.iter().any(|own| own == host) {
                    return address.to_owned();
                }
                path
            }
            None => address,
        };
        if !path.starts_with('/') {
            return address.to_owned();
        }
        if path.starts_with(&self.prefix) {
            return path.to_owned();
        }
        format!("{}{path}", self.prefix)
    }
}

/// Attributes that hold an address, by element.
fn holds_address(element: &str, attribute: &str) -> bool {
    let attributes: &[&str] = match element {
        "a" | "area" | "base" | "link" => &["href"],
        "applet" => &["codebase"],
        "audio" | "embed" | "script" | "source" | "track" => &["src"],
        "blockquote" | "del" | "ins" | "q" => &["cite"],
        "body" => &["background"],
        "button" => &["formaction"],
        "command" => &["icon"],
        "form" => &["action"],
        "frame" | "iframe" => &["longdesc", "src"],
        "head" => &["profile"],
        "html" => &["manifest"],
        "img" => &["longdesc", "src", "usemap"],
        "input" => &["src", "usemap", "formaction"],
        "object" => &["classid", "codebase", "data", "usemap"],
        "video" => &["poster", "src"],
        _ => &[],
    };
    attributes.contains(&attribute)
}

/// Rewrites HTML piece by piece.
pub struct Html {
    links: Links,
    /// What has come and may be the beginning of a tag.
    rest: Vec<u8>,
    /// The element within which there are no tags.
    raw: Option<&'static str>,
}

impl Html {
    /// For one page.
    pub fn new(links: Links) -> Self {
        Self {
            links,
            rest: Vec::new(),
            raw: None,
        }
    }

    /// Takes a piece, gives what can be passed on.
    pub fn push(&mut self, piece: &[u8]) -> Vec<u8> {
        self.rest.extend_from_slice(piece);
        let text = std::mem::take(&mut self.rest);
        let mut out = Vec::with_capacity(text.len() + 64);
        let mut at = 0;
        while let Some(found) = text[at..].iter().position(|b| *b == b'<') {
            out.extend_from_slice(&text[at..at + found]);
            at += found;
            match self.token(&text[at..], &mut out) {
                Some(taken) => at += taken,
                None if text.len() - at > MAX_TAG_BYTES => {
                    out.push(b'<');
                    at += 1;
                }
                None => {
                    self.rest = text[at..].to_vec();
                    return out;
                }
            }
        }
        out.extend_from_slice(&text[at..]);
        out
    }

    /// What is left at the end.
    pub fn finish(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.rest)
    }

    /// Passes on what begins with `<` at the start of `text`; how long it was. None if its end is not there yet.
    fn token(&mut self, text: &[u8], out: &mut Vec<u8>) -> Option<usize> {
        let next = *text.get(1)?;
        if let Some(element) = self.raw {
            let name = text.get(2..2 + element.len());
            if next == b'/' && name?.eq_ignore_ascii_case(element.as_bytes()) {
                self.raw = None;
            }
            out.push(b'<');
            return Some(1);
        }
        if next == b'!' {
            // A comment hides whatever is in it.
            let comment = text.get(..4).is_some_and(|start| start == b"<!--");
            if text.len() < 4 && b"<!--".starts_with(text) {
                return None;
            }
            let length = if comment {
                4 + text[4..].windows(3).position(|end| end == b"-->")? + 3
            } else {
                1
            };
            out.extend_from_slice(&text[..length]);
            return Some(length);
        }
        if !next.is_ascii_alphabetic() {
            out.push(b'<');
            return Some(1);
        }
        let length = tag_end(text)? + 1;
        let tag = String::from_utf8_lossy(&text[1..length - 1]);
        out.push(b'<');
        out.extend_from_slice(self.tag(&tag).as_bytes());
        out.push(b'>');
        Some(length)
    }

    /// A tag without its brackets.
    fn tag(&mut self, tag: &str) -> String {
        let name_end = tag
            .find(|c: char| c.is_ascii_whitespace() || c == '/')
            .unwrap_or(tag.len());
        let (name, mut rest) = tag.split_at(name_end);
        let element = name.to_ascii_lowercase();
        self.raw = RAW.into_iter().find(|raw| *raw == element);
        let mut out = name.to_owned();
        while let Some(start) = rest.find(|c: char| !c.is_ascii_whitespace() && c != '/') {
            out.push_str(&rest[..start]);
            rest = &rest[start..];
            // The first character belongs to the name, even if it is "=".
            let end = rest
                .char_indices()
                .skip(1)
                .find(|(_, c)| c.is_ascii_whitespace() || matches!(c, '=' | '/'))
                .map_or(rest.len(), |(at, _)| at);
            let (attribute, after) = rest.split_at(end);
            out.push_str(attribute);
            rest = after;
            let Some(value) = after.trim_ascii_start().strip_prefix('=') else {
                continue;
            };
            let value = value.trim_ascii_start();
            out.push_str(&after[..after.len() - value.len()]);
            let (quote, value) = match value.chars().next() {
                Some(quote @ ('"' | '\'')) => (Some(quote), &value[1..]),
                _ => (None, value),
            };
            let end = match quote {
                Some(quote) => value.find(quote),
                None => value.find(|c: char| c.is_ascii_whitespace()),
            };
            let (value, after) = value.split_at(end.unwrap_or(value.len()));
            out.extend(quote);
            if holds_address(&element, &attribute.to_ascii_lowercase()) {
                out.push_str(&self.links.rewrite(value));
            } else {
                out.push_str(value);
            }
            rest = after;
            if let (Some(quote), false) = (quote, rest.is_empty()) {
                out.push(quote);
                rest = &rest[1..];
            }
        }
        out + rest
    }
}

/// Where the `>` of a tag is that `text` begins with: the first that is not within a quoted value.
fn tag_end(text: &[u8]) -> Option<usize> {
    let mut quote = None;
    let mut before_value = false;
    for (at, byte) in text.iter().enumerate() {
        match (quote, byte) {
            (Some(open), byte) if open == *byte => quote = None,
            (None, b'"' | b'\'') if before_value => quote = Some(*byte),
            (None, b'>') => return Some(at),
            _ => {}
        }
        if !byte.is_ascii_whitespace() {
            before_value = *byte == b'=';
        }
    }
    None
}

/// The body of a page on its way.
pub struct Page {
    from: Incoming,
    /// None when the end has been passed on.
    html: Option<Html>,
}

impl Page {
    /// A page whose links change.
    pub fn new(from: Incoming, links: Links) -> Self {
        let html = Some(Html::new(links));
        Self { from, html }
    }

    /// The next piece, as [`http_body::Body::poll_frame`].
    pub fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        loop {
            let Some(html) = &mut self.html else {
                return Poll::Ready(None);
            };
            let piece = match ready!(Pin::new(&mut self.from).poll_frame(cx)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => html.push(&data),
                    Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
                },
                Some(Err(error)) => return Poll::Ready(Some(Err(error.into()))),
                None => {
                    let end = html.finish();
                    self.html = None;
                    end
                }
            };
            if !piece.is_empty() {
                return Poll::Ready(Some(Ok(Frame::data(piece.into()))));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn links() -> Links {
        Links {
            prefix: "/p/proxy".into(),
            hosts: ["10.0.0.1:80".into(), "api:6443".into()],
        }
    }

    fn page(text: &str) -> String {
        let mut html = Html::new(links());
        let mut out = html.push(text.as_bytes());
        out.extend(html.finish());
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn addresses_of_the_same_server_go_through_the_proxy() {
        let rewrite = |address: &str| links().rewrite(address);
        assert_eq!(rewrite("/a?b#c"), "/p/proxy/a?b#c");
        assert_eq!(rewrite("http://10.0.0.1:80/a/"), "/p/proxy/a/");
        assert_eq!(rewrite("//api:6443/a"), "/p/proxy/a");
        for same in ["a/b", "", "#x", "mailto:x", "https://other/a", "/p/proxy/a"] {
            assert_eq!(rewrite(same), same);
        }
    }

    #[test]
    fn tags_are_rewritten_and_nothing_else() {
        for (from, to) in [
            (r#"<a href="/x">t</a>"#, r#"<a href="/p/proxy/x">t</a>"#),
            (
                "<IMG alt='a>b' SRC = /i.png />",
                "<IMG alt='a>b' SRC = /p/proxy/i.png />",
            ),
            (
                "<a title=/x href='/y' download>",
                "<a title=/x href='/p/proxy/y' download>",
            ),
            ("<!-- <a href=\"/x\"> --><b>", "<!-- <a href=\"/x\"> --><b>"),
            (
                "<script src=/s.js>'<a href=\"/x\">'</script><a href=/z>",
                "<script src=/p/proxy/s.js>'<a href=\"/x\">'</script><a href=/p/proxy/z>",
            ),
            (
                "1 < 2 <3 </a href=/x> <!doctype html>",
                "1 < 2 <3 </a href=/x> <!doctype html>",
            ),
            ("<a href=\"/open", "<a href=\"/open"),
        ] {
            assert_eq!(page(from), to);
        }
    }

    proptest! {
        #[test]
        fn pieces_make_no_difference(text in "[<>/!\\-a-z=\"' ]{0,60}(<a href=\"/x\">)?[<>/a=\"' ]{0,20}", at in 0usize..80) {
            let (first, second) = text.split_at(at.min(text.len()));
            let mut html = Html::new(links());
            let mut out = html.push(first.as_bytes());
            out.extend(html.push(second.as_bytes()));
            out.extend(html.finish());
            prop_assert_eq!(String::from_utf8(out).unwrap(), page(&text));
        }

        #[test]
        fn text_without_addresses_is_passed_on_as_it_is(text in "[<>!\\-b-z=\"' ]{0,80}") {
            prop_assert_eq!(page(&text), text);
        }
    }
}
