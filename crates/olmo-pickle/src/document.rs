//! Values that a pickle describes: an arena of nodes, and cursors into it.
//!
//! A finished [`Document`] is safe to walk as a tree: no value contains itself, values are nested
//! at most [`MAX_DEPTH`] deep, and the whole tree, with shared values counted wherever they occur,
//! is in proportion to the pickle.

use crate::dtype::DType;
use crate::error::{Error, shortened};

/// Place of a node in the arena.
pub(crate) type Id = u32;

/// Most levels of nested values.
pub const MAX_DEPTH: u32 = 256;

/// Most nodes of the tree per byte of the pickle, counting shared nodes at every place.
const MAX_REPEATS: u64 = 16;

/// Most dimensions of a tensor, as in PyTorch.
pub(crate) const MAX_DIMENSIONS: usize = 64;

/// One value. Containers hold the places of their elements.
#[derive(Debug)]
pub(crate) enum Node {
    None,
    Bool(bool),
    Int(i64),
    /// Two's complement, little endian.
    BigInt(Box<[u8]>),
    Float(f64),
    Str(Box<str>),
    Bytes(Box<[u8]>),
    List(Vec<Id>),
    Tuple(Box<[Id]>),
    Set(Vec<Id>),
    Dict(Vec<(Id, Id)>),
    /// Module and name, both strings.
    Class(Id, Id),
    DType(DType),
    Object(Box<ObjectNode>),
    Storage(Box<StorageNode>),
    Tensor(Box<TensorNode>),
    Array(Box<ArrayNode>),
}

/// What a class or function was called with. It was not called.
#[derive(Debug)]
pub(crate) struct ObjectNode {
    /// The class; any other value if the pickle calls the result of a call.
    pub class: Id,
    /// A tuple.
    pub args: Id,
    /// Keyword arguments, a dict.
    pub kwargs: Option<Id>,
    pub state: Option<Id>,
    /// What was appended to it.
    pub items: Vec<Id>,
    /// What was set in it by key.
    pub pairs: Vec<(Id, Id)>,
}

/// A storage of `torch.save`, which a record of the archive holds.
#[derive(Debug)]
pub(crate) struct StorageNode {
    /// The type of its elements, unless it is untyped.
    pub dtype: Option<DType>,
    /// Name of the record, a string.
    pub key: Id,
    pub bytes: u64,
}

/// A tensor: a view of a storage.
#[derive(Debug)]
pub(crate) struct TensorNode {
    pub dtype: DType,
    pub storage: Id,
    /// In elements, as the strides are.
    pub offset: u64,
    pub shape: Box<[u64]>,
    pub strides: Box<[u64]>,
}

/// A numpy array. It has no content until its state was set.
#[derive(Debug, Default)]
pub(crate) struct ArrayNode {
    pub dtype: Option<Id>,
    pub shape: Box<[u64]>,
    pub fortran: bool,
    pub data: Option<Id>,
}

impl Node {
    /// Child `index`, if the node has one.
    fn child(&self, index: usize) -> Option<Id> {
        let of_pairs = |pairs: &[(Id, Id)], index: usize| {
            let pair = pairs.get(index / 2)?;
            Some(if index.is_multiple_of(2) { pair.0 } else { pair.1 })
        };
        match self {
            Node::List(items) | Node::Set(items) => items.get(index).copied(),
            Node::Tuple(items) => items.get(index).copied(),
            Node::Dict(pairs) => of_pairs(pairs, index),
            Node::Class(module, name) => [*module, *name].get(index).copied(),
            Node::Object(object) => {
                let fixed = [Some(object.class), Some(object.args), object.kwargs, object.state];
                let known = fixed.iter().flatten().count();
                if index < known {
                    return fixed.iter().flatten().nth(index).copied();
                }
                let index = index - known;
                match object.items.get(index) {
                    Some(item) => Some(*item),
                    None => of_pairs(&object.pairs, index - object.items.len()),
                }
            }
            Node::Storage(storage) => (index == 0).then_some(storage.key),
            Node::Tensor(tensor) => (index == 0).then_some(tensor.storage),
            Node::Array(array) => [array.dtype, array.data].into_iter().flatten().nth(index),
            _ => None,
        }
    }

    /// Its part in the size of the tree, without its children: one, and one for each eight bytes.
    fn weight(&self) -> u64 {
        let bytes = match self {
            Node::BigInt(bytes) | Node::Bytes(bytes) => bytes.len(),
            Node::Str(text) => text.len(),
            Node::Tensor(tensor) => tensor.shape.len(),
            _ => 0,
        };
        1 + bytes as u64 / 8
    }

    /// The kind of value, for messages, with an article.
    pub(crate) fn kind_name(&self) -> &'static str {
        match self {
            Node::None => "None",
            Node::Bool(_) => "a bool",
            Node::Int(_) | Node::BigInt(_) => "an int",
            Node::Float(_) => "a float",
            Node::Str(_) => "a string",
            Node::Bytes(_) => "bytes",
            Node::List(_) => "a list",
            Node::Tuple(_) => "a tuple",
            Node::Set(_) => "a set",
            Node::Dict(_) => "a dict",
            Node::Class(..) => "a class",
            Node::DType(_) => "a dtype",
            Node::Object(_) => "an object",
            Node::Storage(_) => "a storage",
            Node::Tensor(_) => "a tensor",
            Node::Array(_) => "a numpy array",
        }
    }
}

/// The value that a pickle describes.
#[derive(Debug)]
pub struct Document {
    nodes: Vec<Node>,
    root: Id,
}

impl Document {
    /// Checks what the module promises, for a pickle of `length` bytes.
    pub(crate) fn new(nodes: Vec<Node>, root: Id, length: usize) -> Result<Self, Error> {
        check_tree(&nodes, root, length)?;
        Ok(Self { nodes, root })
    }

    /// The outermost value.
    pub fn root(&self) -> Value<'_> {
        Value { document: self, id: self.root }
    }

    /// Every class that an object in the pickle has, in the order of the pickle, with repeats.
    pub(crate) fn object_classes(&self) -> impl Iterator<Item = ClassName<'_>> {
        let values = self.nodes.iter().enumerate().map(|(id, node)| (Value { document: self, id: id as Id }, node));
        values.filter(|(_, node)| matches!(node, Node::Object(_))).filter_map(|(value, _)| value.class())
    }
}

/// Walks the tree without recursion: children before parents.
fn check_tree(nodes: &[Node], root: Id, length: usize) -> Result<(), Error> {
    #[derive(Clone, Copy, PartialEq)]
    enum State {
        New,
        Open,
        Done,
    }
    let limit = (length as u64).saturating_mul(MAX_REPEATS).saturating_add(4096);
    let mut states = vec![State::New; nodes.len()];
    // Of the tree below each node: its size, and its levels.
    let mut sizes: Vec<(u64, u32)> = vec![(0, 1); nodes.len()];
    let mut open: Vec<(Id, usize)> = vec![(root, 0)];
    while let Some((id, next)) = open.last_mut() {
        let at = *id as usize;
        if *next == 0 {
            states[at] = State::Open;
            sizes[at].0 = nodes[at].weight();
        }
        match nodes[at].child(*next) {
            Some(child) => match states[child as usize] {
                State::New => open.push((child, 0)),
                State::Open => {
                    let kind = nodes[child as usize].kind_name();
                    return Err(Error::invalid(format!("{kind} contains itself")));
                }
                State::Done => {
                    let (size, levels) = sizes[child as usize];
                    *next += 1;
                    sizes[at].0 = sizes[at].0.saturating_add(size);
                    sizes[at].1 = sizes[at].1.max(levels + 1);
                    if sizes[at].0 > limit {
                        let reason = "shared values make it far larger than its length justifies";
                        return Err(Error::invalid(reason));
                    }
                }
            },
            None => {
                states[at] = State::Done;
                open.pop();
            }
        }
        if open.len() > MAX_DEPTH as usize || sizes[at].1 > MAX_DEPTH {
            return Err(Error::invalid(format!("values are nested more than {MAX_DEPTH} deep")));
        }
    }
    Ok(())
}

/// The name of a class or function, which this program does not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClassName<'d> {
    pub module: &'d str,
    pub name: &'d str,
}

impl ClassName<'_> {
    /// Whether it is `name` of `module`.
    pub fn is(&self, module: &str, name: &str) -> bool {
        self.module == module && self.name == name
    }
}

impl std::fmt::Display for ClassName<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", shortened(self.module), shortened(self.name))
    }
}

/// A value in a document. Copies are free.
#[derive(Clone, Copy)]
pub struct Value<'d> {
    document: &'d Document,
    id: Id,
}

/// What a value is. Elements and entries are read from the [`Value`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind<'d> {
    None,
    Bool(bool),
    Int(i64),
    /// An integer that needs more than 64 bits: two's complement, little endian.
    BigInt(&'d [u8]),
    Float(f64),
    Str(&'d str),
    Bytes(&'d [u8]),
    List,
    Tuple,
    Set,
    Dict,
    /// A class that is a value itself.
    Class(ClassName<'d>),
    DType(DType),
    /// An object of a class that is kept by name: see [`Value::class`], [`Value::args`],
    /// [`Value::field`].
    Object,
    Storage(Storage<'d>),
    Tensor(Tensor<'d>),
    Array(Array<'d>),
}

/// A storage of `torch.save`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Storage<'d> {
    /// Type of its elements, unless it is untyped.
    pub dtype: Option<DType>,
    /// Name of its record below `data/`.
    pub key: &'d str,
    /// Length in bytes.
    pub bytes: u64,
}

/// A tensor: a view of a storage. Offset and strides are in elements.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tensor<'d> {
    pub dtype: DType,
    pub shape: &'d [u64],
    pub strides: &'d [u64],
    pub offset: u64,
    pub storage: Storage<'d>,
}

/// A numpy array.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Array<'d> {
    /// Element type with its byte order: `<u4`.
    pub dtype: (&'d str, &'d str),
    pub shape: &'d [u64],
    /// Whether the first index varies fastest.
    pub fortran: bool,
    pub bytes: &'d [u8],
}

impl<'d> Value<'d> {
    fn node(self) -> &'d Node {
        &self.document.nodes[self.id as usize]
    }

    fn at(self, id: Id) -> Value<'d> {
        Value { document: self.document, id }
    }

    /// What it is.
    pub fn kind(self) -> Kind<'d> {
        match self.node() {
            Node::None => Kind::None,
            Node::Bool(value) => Kind::Bool(*value),
            Node::Int(value) => Kind::Int(*value),
            Node::BigInt(bytes) => Kind::BigInt(bytes),
            Node::Float(value) => Kind::Float(*value),
            Node::Str(text) => Kind::Str(text),
            Node::Bytes(bytes) => Kind::Bytes(bytes),
            Node::List(_) => Kind::List,
            Node::Tuple(_) => Kind::Tuple,
            Node::Set(_) => Kind::Set,
            Node::Dict(_) => Kind::Dict,
            Node::Class(module, name) => Kind::Class(self.class_name(*module, *name)),
            Node::DType(dtype) => Kind::DType(*dtype),
            Node::Object(_) => Kind::Object,
            Node::Storage(storage) => Kind::Storage(self.storage(storage)),
            Node::Tensor(tensor) => match self.at(tensor.storage).node() {
                Node::Storage(storage) => Kind::Tensor(Tensor {
                    dtype: tensor.dtype,
                    shape: &tensor.shape,
                    strides: &tensor.strides,
                    offset: tensor.offset,
                    storage: self.storage(storage),
                }),
                _ => Kind::Object,
            },
            Node::Array(array) => self.array(array).map_or(Kind::Object, Kind::Array),
        }
    }

    fn class_name(self, module: Id, name: Id) -> ClassName<'d> {
        ClassName {
            module: self.at(module).as_str().unwrap_or_default(),
            name: self.at(name).as_str().unwrap_or_default(),
        }
    }

    fn storage(self, storage: &StorageNode) -> Storage<'d> {
        Storage { dtype: storage.dtype, key: self.at(storage.key).as_str().unwrap_or_default(), bytes: storage.bytes }
    }

    fn array(self, array: &'d ArrayNode) -> Option<Array<'d>> {
        let dtype = self.at(array.dtype?);
        let Node::Bytes(bytes) = self.at(array.data?).node() else { return None };
        let name = dtype.args()?.item(0)?.as_str()?;
        // The state of a numpy.dtype: version, byte order, and what structures need.
        let order = dtype.state().and_then(|state| state.item(1)).and_then(Value::as_str).unwrap_or("|");
        Some(Array { dtype: (order, name), shape: &array.shape, fortran: array.fortran, bytes })
    }

    /// Whether it is `None`.
    pub fn is_none(self) -> bool {
        matches!(self.node(), Node::None)
    }

    pub fn as_bool(self) -> Option<bool> {
        if let Node::Bool(value) = self.node() { Some(*value) } else { None }
    }

    pub fn as_i64(self) -> Option<i64> {
        if let Node::Int(value) = self.node() { Some(*value) } else { None }
    }

    /// An int that is not negative.
    pub fn as_u64(self) -> Option<u64> {
        match self.node() {
            Node::Int(value) => u64::try_from(*value).ok(),
            // 2⁶³ and above take nine bytes, the last of them zero.
            Node::BigInt(bytes) if bytes.len() == 9 && bytes[8] == 0 => {
                bytes[..8].try_into().ok().map(u64::from_le_bytes)
            }
            _ => None,
        }
    }

    /// A float, or an int.
    pub fn as_f64(self) -> Option<f64> {
        match self.node() {
            Node::Float(value) => Some(*value),
            Node::Int(value) => Some(*value as f64),
            _ => None,
        }
    }

    pub fn as_str(self) -> Option<&'d str> {
        if let Node::Str(text) = self.node() { Some(text) } else { None }
    }

    pub fn as_tensor(self) -> Option<Tensor<'d>> {
        if let Kind::Tensor(tensor) = self.kind() { Some(tensor) } else { None }
    }

    fn ids(self) -> &'d [Id] {
        match self.node() {
            Node::List(items) | Node::Set(items) => items,
            Node::Tuple(items) => items,
            Node::Object(object) => &object.items,
            _ => &[],
        }
    }

    /// Elements of a list, tuple or set, and what was appended to an object; else nothing.
    pub fn items(self) -> impl ExactSizeIterator<Item = Value<'d>> {
        self.ids().iter().map(move |id| self.at(*id))
    }

    /// The element number `index`.
    pub fn item(self, index: usize) -> Option<Value<'d>> {
        self.ids().get(index).map(|id| self.at(*id))
    }

    /// Key and value of each entry of a dict, and of what was set in an object by key; else
    /// nothing. A key can occur again; the last value counts.
    pub fn entries(self) -> impl ExactSizeIterator<Item = (Value<'d>, Value<'d>)> {
        let pairs: &[(Id, Id)] = match self.node() {
            Node::Dict(pairs) => pairs,
            Node::Object(object) => &object.pairs,
            _ => &[],
        };
        pairs.iter().map(move |(key, value)| (self.at(*key), self.at(*value)))
    }

    /// The value of a dict for a string as its key. Takes time in proportion to the dict.
    pub fn get(self, key: &str) -> Option<Value<'d>> {
        self.entries().filter(|(name, _)| name.as_str() == Some(key)).map(|(_, value)| value).last()
    }

    /// The class of an object, or the class itself.
    pub fn class(self) -> Option<ClassName<'d>> {
        match self.node() {
            Node::Class(module, name) => Some(self.class_name(*module, *name)),
            Node::Object(object) => match self.at(object.class).node() {
                Node::Class(module, name) => Some(self.class_name(*module, *name)),
                _ => None,
            },
            _ => None,
        }
    }

    /// Whether it is an object of class `name` of `module`.
    pub fn is_object_of(self, module: &str, name: &str) -> bool {
        matches!(self.node(), Node::Object(_)) && self.class().is_some_and(|class| class.is(module, name))
    }

    /// Arguments of an object's constructor, a tuple.
    pub fn args(self) -> Option<Value<'d>> {
        if let Node::Object(object) = self.node() { Some(self.at(object.args)) } else { None }
    }

    /// Keyword arguments of an object's constructor, a dict.
    pub fn kwargs(self) -> Option<Value<'d>> {
        if let Node::Object(object) = self.node() { object.kwargs.map(|id| self.at(id)) } else { None }
    }

    /// State of an object: a dict of its fields, or the result of its `__getstate__`.
    pub fn state(self) -> Option<Value<'d>> {
        if let Node::Object(object) = self.node() { object.state.map(|id| self.at(id)) } else { None }
    }

    /// A field of an object, from its state: a dict, or a pair whose second part is the dict of
    /// slots.
    pub fn field(self, name: &str) -> Option<Value<'d>> {
        let state = self.state()?;
        let slots = || matches!(state.node(), Node::Tuple(_)).then(|| state.item(1)).flatten();
        state.get(name).or_else(|| state.item(0)?.get(name)).or_else(|| slots()?.get(name))
    }

    /// A path of Python's `pathlib`, as text.
    pub fn as_path(self) -> Option<String> {
        let class = self.class()?;
        if !class.module.starts_with("pathlib") || !class.name.ends_with("Path") {
            return None;
        }
        let mut path = String::new();
        for part in self.args()?.items() {
            if !path.is_empty() && !path.ends_with('/') {
                path.push('/');
            }
            path.push_str(part.as_str()?);
        }
        Some(path)
    }

    /// A few words for messages: `a list`, `an object of class a.B`.
    pub fn describe(self) -> String {
        match (self.node(), self.class()) {
            (Node::Object(_), Some(class)) => format!("an object of class {class}"),
            (Node::Class(..), Some(class)) => format!("the class {class}"),
            (node, _) => node.kind_name().to_owned(),
        }
    }
}

impl std::fmt::Debug for Value<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.node() {
            Node::List(_) | Node::Tuple(_) | Node::Set(_) => f.debug_list().entries(self.items()).finish(),
            Node::Dict(_) => f.debug_map().entries(self.entries()).finish(),
            Node::Object(_) => {
                let name = self.class().map_or("object".to_owned(), |class| class.to_string());
                let mut object = f.debug_struct(&name);
                object.field("args", &self.args());
                if let Some(state) = self.state() {
                    object.field("state", &state);
                }
                object.finish()
            }
            _ => self.kind().fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lists(levels: u32) -> Vec<Node> {
        let mut nodes = vec![Node::List(Vec::new())];
        for level in 1..levels {
            nodes.push(Node::List(vec![level - 1]));
        }
        nodes
    }

    #[test]
    fn nesting_is_limited_and_shared_values_are_counted_wherever_they_occur() {
        assert!(Document::new(lists(MAX_DEPTH), MAX_DEPTH - 1, 1000).is_ok());
        let error = Document::new(lists(MAX_DEPTH + 1), MAX_DEPTH, 1000).unwrap_err();
        assert!(error.to_string().contains("nested more than 256 deep"), "{error}");
        // Each list has the one before it twice: 2⁴⁰ places.
        let mut doubling = vec![Node::None];
        doubling.extend((0..40).map(|id| Node::List(vec![id, id])));
        let error = Document::new(doubling, 40, 1000).unwrap_err();
        assert!(error.to_string().contains("shared values"), "{error}");
    }

    #[test]
    fn a_value_that_contains_itself_is_refused() {
        let nodes = vec![Node::List(vec![1]), Node::Dict(vec![(2, 0)]), Node::None];
        let error = Document::new(nodes, 0, 10).unwrap_err();
        assert!(error.to_string().contains("contains itself"), "{error}");
    }
}
