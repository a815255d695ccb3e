//! What a fuzzed case is made of: numbers by lot from a seed, objects of any built-in kind by the facts of the API, and
//! damage to bytes.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use schema::Resource;
use schema::facts::{Inner, Scalar, Shape, TypeId, Wrap, facts};
use serde_json::{Map, Value, json};

/// Structs within structs: deep enough for a container of a pod of a template of a job of a template.
const MAX_DEPTH: usize = 12;
/// Items of a list or a map.
const MAX_ITEMS: u64 = 3;
/// Texts that mean something to some field, and some that mean nothing to any.
const TEXTS: [&str; 34] = [
    "a",
    "b",
    "default",
    "app.kubernetes.io/name",
    "kubernetes.io/metadata.name",
    "10.0.0.1",
    "fd00::1/64",
    "10.0.0.0/8",
    "100m",
    "1Gi",
    "25%",
    "TCP",
    "Always",
    "ClusterIP",
    "IPv4",
    "RollingUpdate",
    "Exists",
    "In",
    "*/5 * * * *",
    "http://a/b",
    "/var/../x",
    "2026-01-02T03:04:05Z",
    "v1",
    "apps/v1",
    "Pod",
    "",
    "-",
    "A_B",
    "\u{0}",
    "\u{1f980}é",
    "a\nb: c",
    "999999999999999999999999",
    "1e400",
    "0x10",
];

/// A small deterministic generator (SplitMix64).
pub(super) struct Draw(u64);

impl Draw {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(super) fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(super) fn below(&mut self, bound: usize) -> usize {
        let bound = u64::try_from(bound.max(1)).unwrap_or(u64::MAX);
        usize::try_from(self.number() % bound).unwrap_or_default()
    }

    pub(super) fn percent(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    pub(super) fn one_of<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len())]
    }

    /// A built-in resource whose objects are stored.
    pub(super) fn resource(&mut self) -> &'static Resource {
        let all = schema::registry().resources();
        loop {
            let resource = self.one_of(all);
            if resource.type_id.is_some() && resource.is_stored() {
                return resource;
            }
        }
    }

    pub(super) fn text(&mut self) -> String {
        match self.below(20) {
            0 => "x".repeat(self.below(300)),
            1 => {
                let (a, b) = (*self.one_of(&TEXTS), *self.one_of(&TEXTS));
                format!("{a}{b}")
            }
            _ => (*self.one_of(&TEXTS)).to_owned(),
        }
    }

    /// Numbers at edges more often than others.
    pub(super) fn integer(&mut self) -> i64 {
        match self.below(8) {
            0 => i64::MAX,
            1 => i64::MIN,
            2 => i64::from(i32::MAX) + 1,
            3 => -1,
            4 => self.number().cast_signed(),
            _ => i64::try_from(self.below(70_000)).unwrap_or_default(),
        }
    }

    /// An object of a resource, with its kind and name.
    pub(super) fn object(&mut self, resource: &Resource) -> Value {
        let density = *self.one_of(&[5, 20, 50]);
        let mut value = match resource.type_id {
            Some(id) => self.shape(Shape::of(id), density, 0),
            None => json!({}),
        };
        value["apiVersion"] = resource.api_version().into();
        value["kind"] = resource.kind.as_ref().into();
        if !value["metadata"].is_object() {
            value["metadata"] = json!({});
        }
        value["metadata"]["name"] = "a".into();
        if resource.namespaced {
            value["metadata"]["namespace"] = "n".into();
        }
        value
    }

    fn shape(&mut self, shape: Shape, density: usize, depth: usize) -> Value {
        match shape.wrap {
            Wrap::One => match (facts().scalar(shape), shape.inner) {
                (Some(scalar), _) | (None, Inner::Scalar(scalar)) => self.scalar(scalar, depth),
                (None, Inner::Type(id)) => self.structure(id, density, depth),
            },
            Wrap::List => {
                let items = self.number() % (MAX_ITEMS + 1);
                (0..items)
                    .map(|_| self.shape(shape.item(), density, depth + 1))
                    .collect()
            }
            Wrap::Map | Wrap::MapOfLists => {
                let items = self.number() % (MAX_ITEMS + 1);
                let entries = (0..items).map(|_| (self.text(), self.shape(shape.item(), density, depth + 1)));
                Value::Object(entries.collect())
            }
        }
    }

    fn structure(&mut self, id: TypeId, density: usize, depth: usize) -> Value {
        let mut map = Map::new();
        for field in facts().fields(id) {
            let wanted = if field.required { 90 } else { density };
            if depth < MAX_DEPTH && self.percent(wanted) {
                map.insert(
                    field.name.to_owned(),
                    self.shape(field.shape, density * 3 / 4, depth + 1),
                );
            }
        }
        Value::Object(map)
    }

    fn scalar(&mut self, scalar: Scalar, depth: usize) -> Value {
        match scalar {
            Scalar::String => self.text().into(),
            Scalar::Boolean => self.percent(50).into(),
            Scalar::Int32 if self.percent(95) => (self.integer() % (1 << 31)).into(),
            Scalar::Int32 | Scalar::Int64 => self.integer().into(),
            Scalar::Double => (self.number() as f64 / 3.0).into(),
            Scalar::Byte => BASE64.encode(self.text()).into(),
            Scalar::Time => "2026-01-02T03:04:05Z".into(),
            Scalar::MicroTime => "2026-01-02T03:04:05.000006Z".into(),
            Scalar::Quantity => (*self.one_of(&["100m", "1Gi", "0", "-1", "1e3", "9E", "1n"])).into(),
            Scalar::IntOrString if self.percent(50) => (*self.one_of(&["25%", "http", "0"])).into(),
            Scalar::IntOrString => (self.integer() % (1 << 31)).into(),
            Scalar::Object => {
                let (key, value) = (self.text(), self.any(depth + 1));
                json!({key: value})
            }
            Scalar::Any => self.any(depth + 1),
        }
    }

    /// Any JSON.
    pub(super) fn any(&mut self, depth: usize) -> Value {
        match self.below(if depth < MAX_DEPTH { 9 } else { 5 }) {
            0 => Value::Null,
            1 => self.percent(50).into(),
            2 => self.integer().into(),
            3 | 4 => self.text().into(),
            5 | 6 => (0..self.below(4)).map(|_| self.any(depth + 1)).collect(),
            _ => {
                let entries = (0..self.below(4)).map(|_| (self.text(), self.any(depth + 1)));
                Value::Object(entries.collect())
            }
        }
    }

    /// Pointers (RFC 6901) into a value, of all depths.
    pub(super) fn pointer(&mut self, value: &Value) -> String {
        let mut pointer = String::new();
        let mut at = value;
        while !self.percent(20) {
            let key = match at {
                Value::Object(map) if !map.is_empty() => {
                    let index = self.below(map.len());
                    map.keys().nth(index).cloned().unwrap_or_default()
                }
                Value::Array(items) if !items.is_empty() => self.below(items.len()).to_string(),
                _ => break,
            };
            let escaped = key.replace('~', "~0").replace('/', "~1");
            pointer = format!("{pointer}/{escaped}");
            at = match at {
                Value::Object(map) => &map[&key],
                Value::Array(items) => &items[key.parse::<usize>().unwrap_or_default()],
                _ => break,
            };
        }
        if self.percent(15) {
            const ODD: [&str; 7] = ["/-", "/0", "/new", "/~1", "/99999999999999999999", "~2", "//"];
            let at = self.below(ODD.len());
            pointer.push_str(ODD[at]);
        }
        pointer
    }

    /// Damages bytes in one of the ways in which hostile clients do.
    pub(super) fn damage(&mut self, bytes: &mut Vec<u8>) {
        if bytes.is_empty() {
            return;
        }
        let at = self.below(bytes.len());
        match self.below(7) {
            0 => bytes[at] ^= 1 << self.below(8),
            1 => bytes.truncate(at),
            2 => bytes[at] = *self.one_of(b"{}[]\",:\\-0&*!|>% \n\x00\xff\x7f\x80"),
            3 => bytes.insert(at, *self.one_of(b"{}[]\",:\\-0&*!|>% \n\x00\xff\x7f\x80")),
            4 => {
                // What nests, nests deeper.
                let bracket = *self.one_of(b"[{(-&\x0a\x12");
                let many = self.below(300);
                bytes.splice(at..at, std::iter::repeat_n(bracket, many));
            }
            5 => {
                let from = self.below(bytes.len());
                let many = self.below(200).min(bytes.len() - from);
                let copied = bytes[from..from + many].to_vec();
                bytes.splice(at..at, copied);
            }
            _ => {
                let many = self.below(40).min(bytes.len() - at);
                bytes.drain(at..at + many);
            }
        }
    }
}
