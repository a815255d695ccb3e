//! The types of the API as published: names, shapes, list types, merge keys.
//!
//! `facts.txt` is written by `examples/generate.rs` and embedded in the binary. It is decoded once, on first use;
//! all names borrow from the embedded text, so the decoded form is a few hundred kilobytes. Lines:
//!
//! ```text
//! facts 1                                             format version
//! res GROUP VERSION PLURAL KIND SINGULAR SCOPE VERBS  resource; then short=, categories=
//!  sub NAME KIND VERBS [GROUP/VERSION]                its subresource
//! type NAME                                           definition; then as=SCALAR, map=atomic, gvk=G/V/K
//!  FIELD[!] SHAPE                                     field (! is required); then list=, keys=, map=, patch=, mergekey=
//! ```
//!
//! A shape is a scalar (`string`, `int32`, ..), `@definition`, `[]shape` or `{}shape` (a map with string keys).

use std::sync::OnceLock;

const TEXT: &str = include_str!("facts.txt");
const FORMAT: &str = "facts 1";

/// Index of a [`Type`] in the facts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TypeId(u16);

impl TypeId {
    /// Position of the type in [`Facts::types`].
    pub(crate) fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// A leaf of the type system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scalar {
    /// Text.
    String,
    /// true or false.
    Boolean,
    /// 32-bit integer.
    Int32,
    /// 64-bit integer.
    Int64,
    /// Floating point number.
    Double,
    /// Bytes, base64 in JSON.
    Byte,
    /// RFC 3339 with seconds.
    Time,
    /// RFC 3339 with microseconds.
    MicroTime,
    /// A resource quantity: string, or a bare number in JSON.
    Quantity,
    /// A number or a string.
    IntOrString,
    /// An object whose fields are not known here (raw extension, managed fields).
    Object,
    /// Any JSON.
    Any,
}

impl Scalar {
    fn parse(text: &str) -> Option<Scalar> {
        Some(match text {
            "string" => Scalar::String,
            "boolean" => Scalar::Boolean,
            "int32" => Scalar::Int32,
            "int64" | "integer" => Scalar::Int64,
            "double" | "number" => Scalar::Double,
            "byte" => Scalar::Byte,
            "date-time" => Scalar::Time,
            "int-or-string" => Scalar::IntOrString,
            "object" => Scalar::Object,
            "any" => Scalar::Any,
            _ => return None,
        })
    }
}

/// What a shape's containers hold in the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inner {
    /// A leaf.
    Scalar(Scalar),
    /// A named definition.
    Type(TypeId),
}

/// How the inner type is wrapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wrap {
    /// The value itself.
    One,
    /// A list of it.
    List,
    /// A map from strings to it.
    Map,
    /// A map from strings to lists of it.
    MapOfLists,
}

/// The JSON shape of a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Containers around the inner type.
    pub wrap: Wrap,
    /// The inner type.
    pub inner: Inner,
}

impl Shape {
    /// The shape of one named definition.
    pub fn of(id: TypeId) -> Shape {
        Shape {
            wrap: Wrap::One,
            inner: Inner::Type(id),
        }
    }

    /// The shape of an item of this list or map; of the value itself where it is neither.
    pub fn item(self) -> Shape {
        let wrap = match self.wrap {
            Wrap::One | Wrap::List | Wrap::Map => Wrap::One,
            Wrap::MapOfLists => Wrap::List,
        };
        Shape {
            wrap,
            inner: self.inner,
        }
    }
}

/// How a list is merged by server-side apply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum ListType {
    /// Not declared: atomic for apply.
    #[default]
    Unset,
    /// Replaced as a whole.
    Atomic,
    /// A set of scalars.
    Set,
    /// Objects identified by the map keys.
    Map,
}

/// A field of a definition.
#[derive(Clone, Debug)]
pub struct Field {
    /// JSON name.
    pub name: &'static str,
    /// JSON shape.
    pub shape: Shape,
    /// Listed as required by the published schema.
    pub required: bool,
    /// List type for server-side apply.
    pub list: ListType,
    /// Comma-separated map keys for server-side apply.
    keys: &'static str,
    /// A map or struct that is replaced as a whole.
    pub atomic_map: bool,
    /// Comma-separated strategies of strategic merge patch: `merge`, `replace`, `retainKeys`.
    patch: &'static str,
    /// Key by which strategic merge patch matches list items.
    pub merge_key: Option<&'static str>,
}

impl Field {
    /// Map keys of a list of type map.
    pub fn map_keys(&self) -> impl Iterator<Item = &'static str> {
        self.keys.split(',').filter(|k| !k.is_empty())
    }

    /// The strategies of strategic merge patch as published.
    pub fn patch_strategy(&self) -> Option<&'static str> {
        (!self.patch.is_empty()).then_some(self.patch)
    }

    /// Whether strategic merge patch merges this list by key or as a set.
    pub fn patch_merges(&self) -> bool {
        self.patch.split(',').any(|s| s == "merge")
    }

    /// Whether strategic merge patch replaces the value instead of merging it.
    pub fn patch_replaces(&self) -> bool {
        self.patch == "replace"
    }

    /// Whether a patch carries the full set of keys of this union.
    pub fn patch_retains_keys(&self) -> bool {
        self.patch.split(',').any(|s| s == "retainKeys")
    }
}

/// A named definition.
#[derive(Clone, Debug)]
pub struct Type {
    /// Full name, as in the published OpenAPI document.
    pub name: &'static str,
    /// The leaf that this name stands for, where it is not a struct.
    pub scalar: Option<Scalar>,
    /// The struct is replaced as a whole by server-side apply.
    pub atomic: bool,
    first_field: u32,
    fields: u16,
    gvks: &'static str,
}

impl Type {
    /// The last part of the name: `Pod`.
    pub fn short_name(&self) -> &'static str {
        self.name.rsplit('.').next().unwrap_or(self.name)
    }

    /// The package version as Go prints it: `v1` of `io.k8s.api.core.v1.Pod`.
    pub fn package(&self) -> &'static str {
        self.name.rsplit('.').nth(1).unwrap_or_default()
    }

    /// The (group, version, kind)s that this definition serves.
    pub fn gvks(&self) -> impl Iterator<Item = (&'static str, &'static str, &'static str)> {
        self.gvks.split(' ').filter_map(|word| {
            let mut parts = word.strip_prefix("gvk=")?.split('/');
            Some((parts.next()?, parts.next()?, parts.next()?))
        })
    }
}

/// All types, decoded.
#[derive(Debug)]
pub struct Facts {
    types: Vec<Type>,
    fields: Vec<Field>,
}

impl Facts {
    /// The definition behind an id.
    pub fn get(&self, id: TypeId) -> &Type {
        &self.types[id.index()]
    }

    /// Finds a definition by its full name.
    pub fn find(&self, name: &str) -> Option<TypeId> {
        let index = self.types.binary_search_by(|t| t.name.cmp(name)).ok()?;
        u16::try_from(index).ok().map(TypeId)
    }

    /// Finds the definition of a kind.
    pub fn find_kind(&self, group: &str, version: &str, kind: &str) -> Option<TypeId> {
        let index = self.types.iter().position(|t| {
            !t.gvks.is_empty()
                && t.short_name() == kind
                && t.gvks().any(|(g, v, k)| g == group && v == version && k == kind)
        })?;
        u16::try_from(index).ok().map(TypeId)
    }

    /// The fields of a definition, sorted by name.
    pub fn fields(&self, id: TypeId) -> &[Field] {
        let ty = self.get(id);
        let first = ty.first_field as usize;
        &self.fields[first..first + usize::from(ty.fields)]
    }

    /// One field of a definition.
    pub fn field(&self, id: TypeId, name: &str) -> Option<&Field> {
        let fields = self.fields(id);
        fields
            .binary_search_by(|f| f.name.cmp(name))
            .ok()
            .map(|i| &fields[i])
    }

    /// All definitions with their ids, sorted by name.
    pub fn types(&self) -> impl Iterator<Item = (TypeId, &Type)> {
        self.types.iter().enumerate().map(|(i, t)| {
            let id = u16::try_from(i).expect("parse bounds the number of types");
            (TypeId(id), t)
        })
    }

    /// The leaf that a shape is, if it is one (a name that stands for a leaf included).
    pub fn scalar(&self, shape: Shape) -> Option<Scalar> {
        match (shape.wrap, shape.inner) {
            (Wrap::One, Inner::Scalar(scalar)) => Some(scalar),
            (Wrap::One, Inner::Type(id)) => self.get(id).scalar,
            _ => None,
        }
    }

    /// The struct that a shape is, if it is one.
    pub fn structure(&self, shape: Shape) -> Option<TypeId> {
        match (shape.wrap, shape.inner) {
            (Wrap::One, Inner::Type(id)) if self.get(id).scalar.is_none() => Some(id),
            _ => None,
        }
    }
}

/// The facts of this build, decoded on first use.
pub fn facts() -> &'static Facts {
    static FACTS: OnceLock<Facts> = OnceLock::new();
    FACTS.get_or_init(|| parse(TEXT).expect("the embedded facts are checked by a test"))
}

/// The `res` and `sub` lines, for the registry.
pub(crate) fn resource_lines() -> impl Iterator<Item = &'static str> {
    TEXT.lines().skip(1).take_while(|line| !line.starts_with("type "))
}

/// The embedded text, as the source of what is derived from it.
pub(crate) fn text() -> &'static str {
    TEXT
}

fn parse(text: &'static str) -> Option<Facts> {
    if text.lines().next()? != FORMAT {
        return None;
    }
    let names: Vec<&'static str> = text
        .lines()
        .filter_map(|l| l.strip_prefix("type ")?.split(' ').next())
        .collect();
    u16::try_from(names.len()).ok()?;
    let mut facts = Facts {
        types: Vec::with_capacity(names.len()),
        fields: Vec::new(),
    };
    for line in text.lines().skip_while(|line| !line.starts_with("type ")) {
        if let Some(definition) = line.strip_prefix("type ") {
            let first_field = u32::try_from(facts.fields.len()).ok()?;
            facts.types.push(parse_type(definition, first_field)?);
        } else {
            facts.fields.push(parse_field(line.trim_start(), &names)?);
            facts.types.last_mut()?.fields += 1;
        }
    }
    let mut start = 0;
    for ty in &facts.types {
        let end = start + usize::from(ty.fields);
        facts.fields[start..end].sort_by_key(|f| f.name);
        start = end;
    }
    facts.fields.shrink_to_fit();
    Some(facts)
}

fn parse_type(line: &'static str, first_field: u32) -> Option<Type> {
    let (name, rest) = line.split_once(' ').unwrap_or((line, ""));
    let mut ty = Type {
        name,
        scalar: None,
        atomic: false,
        first_field,
        fields: 0,
        gvks: rest,
    };
    for word in rest.split(' ') {
        if let Some(scalar) = word.strip_prefix("as=") {
            ty.scalar = Some(match ty.short_name() {
                "Quantity" => Scalar::Quantity,
                "MicroTime" => Scalar::MicroTime,
                _ => Scalar::parse(scalar)?,
            });
        } else if word == "map=atomic" {
            ty.atomic = true;
        }
    }
    if !rest.contains("gvk=") {
        ty.gvks = "";
    }
    Some(ty)
}

fn parse_field(line: &'static str, names: &[&'static str]) -> Option<Field> {
    let mut words = line.split(' ');
    let name = words.next()?;
    let required = name.ends_with('!');
    let mut field = Field {
        name: name.trim_end_matches('!'),
        shape: parse_shape(words.next()?, names)?,
        required,
        list: ListType::Unset,
        keys: "",
        atomic_map: false,
        patch: "",
        merge_key: None,
    };
    for word in words {
        match word.split_once('=')? {
            ("list", "atomic") => field.list = ListType::Atomic,
            ("list", "set") => field.list = ListType::Set,
            ("list", "map") => field.list = ListType::Map,
            ("keys", keys) => field.keys = keys,
            ("map", kind) => field.atomic_map = kind == "atomic",
            ("patch", strategies) => field.patch = strategies,
            ("mergekey", key) => field.merge_key = Some(key),
            _ => return None,
        }
    }
    Some(field)
}

fn parse_shape(text: &str, names: &[&'static str]) -> Option<Shape> {
    let (wrap, rest) = if let Some(rest) = text.strip_prefix("{}[]") {
        (Wrap::MapOfLists, rest)
    } else if let Some(rest) = text.strip_prefix("{}") {
        (Wrap::Map, rest)
    } else if let Some(rest) = text.strip_prefix("[]") {
        (Wrap::List, rest)
    } else {
        (Wrap::One, text)
    };
    let inner = match rest.strip_prefix('@') {
        Some(name) => {
            let index = names.binary_search(&name).ok()?;
            Inner::Type(TypeId(u16::try_from(index).ok()?))
        }
        None => Inner::Scalar(Scalar::parse(rest)?),
    };
    Some(Shape { wrap, inner })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn embedded_facts_decode() {
        let facts = parse(TEXT).expect("facts decode");
        assert!(facts.types.len() > 500);
        assert!(facts.types.is_sorted_by_key(|t| t.name));
        let pod = facts.find_kind("", "v1", "Pod").unwrap();
        assert_eq!(facts.get(pod).name, "io.k8s.api.core.v1.Pod");
        let spec = facts.structure(facts.field(pod, "spec").unwrap().shape).unwrap();
        let containers = facts.field(spec, "containers").unwrap();
        assert_eq!(containers.merge_key, Some("name"));
        assert!(containers.required && containers.patch_merges());
        assert_eq!(containers.shape.wrap, Wrap::List);
        assert!(facts.field(spec, "nosuch").is_none());
    }

    #[test]
    fn leaves_with_names_are_leaves() {
        let facts = facts();
        let shape = |name| Shape::of(facts.find(name).unwrap());
        let quantity = shape("io.k8s.apimachinery.pkg.api.resource.Quantity");
        assert_eq!(facts.scalar(quantity), Some(Scalar::Quantity));
        let micro = shape("io.k8s.apimachinery.pkg.apis.meta.v1.MicroTime");
        assert_eq!(facts.scalar(micro), Some(Scalar::MicroTime));
        assert_eq!(facts.structure(quantity), None);
    }

    #[test]
    fn other_formats_are_refused() {
        assert!(parse("facts 2\n").is_none());
        assert!(parse("facts 1\ntype a\n b nosuch\n").is_none());
    }
}
