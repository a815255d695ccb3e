//! Field numbers of the API's messages. `tags.txt` holds one type a line: `NAME FIELD=NUMBER ...`; fields of a struct
//! that JSON shows as its parent's stand in `+NUMBER( ... )`.

use std::collections::HashMap;
use std::sync::OnceLock;

const TEXT: &str = include_str!("tags.txt");

/// What a number stands for.
#[derive(Debug)]
pub enum Tag {
    /// A field by its JSON name.
    Field(&'static str),
    /// A message whose fields belong to the parent.
    Inline(Tags),
}

/// Numbers of one message.
pub type Tags = HashMap<u32, Tag>;

/// The numbers of a type of the facts.
pub fn of(name: &str) -> Option<&'static Tags> {
    static TAGS: OnceLock<HashMap<&'static str, Tags>> = OnceLock::new();
    let all = TAGS.get_or_init(|| {
        let lines = TEXT.lines().filter_map(|line| {
            let mut words = line.split(' ');
            Some((words.next()?, group(&mut words)))
        });
        lines.collect()
    });
    all.get(name)
}

fn group(words: &mut std::str::Split<'static, char>) -> Tags {
    let mut tags = Tags::new();
    while let Some(word) = words.next() {
        if word == ")" {
            break;
        }
        if let Some(number) = word.strip_prefix('+').and_then(|w| w.strip_suffix('(')) {
            if let Ok(number) = number.parse() {
                tags.insert(number, Tag::Inline(group(words)));
            }
        } else if let Some((name, number)) = word.split_once('=')
            && let Ok(number) = number.parse()
        {
            tags.insert(number, Tag::Field(name));
        }
    }
    tags
}
