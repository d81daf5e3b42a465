//! Writes pickles: protocol 2, which `torch.save` uses, and protocol 4, which `.metadata` has.

use std::collections::HashMap;

use crate::dtype::DType;

/// A value to write. Values must not be nested deeper than
/// [`MAX_DEPTH`](crate::MAX_DEPTH), or nothing can read the result.
#[derive(Clone, Debug, PartialEq)]
pub enum Item {
    None,
    Bool(bool),
    Int(i64),
    Float(f64),
    Str(String),
    Bytes(Vec<u8>),
    List(Vec<Item>),
    Tuple(Vec<Item>),
    Dict(Vec<(Item, Item)>),
    /// A `collections.OrderedDict`.
    OrderedDict(Vec<(Item, Item)>),
    /// A type of elements.
    DType(DType),
    /// The result of calling the class or function `name` of `module`, both without line breaks.
    Call {
        module: &'static str,
        name: &'static str,
        args: Vec<Item>,
    },
    /// An object of a class, created without its `__init__`, and its state if it has one.
    Object {
        module: &'static str,
        name: &'static str,
        state: Option<Box<Item>>,
    },
    /// A contiguous tensor that fills the storage with this number (see
    /// [`ArchiveWriter`](crate::archive::ArchiveWriter)).
    Tensor {
        dtype: DType,
        shape: Vec<u64>,
        storage: usize,
    },
}

impl Item {
    /// A string.
    pub fn text(text: &str) -> Item {
        Item::Str(text.to_owned())
    }

    /// A dict with strings as keys.
    pub fn dict<'k>(entries: impl IntoIterator<Item = (&'k str, Item)>) -> Item {
        Item::Dict(entries.into_iter().map(|(key, value)| (Item::text(key), value)).collect())
    }

    /// A `torch.Size`.
    pub fn size(sizes: &[u64]) -> Item {
        let sizes = sizes.iter().map(|size| Item::Int(i64::try_from(*size).unwrap_or(i64::MAX))).collect();
        Item::Call { module: "torch", name: "Size", args: vec![Item::Tuple(sizes)] }
    }
}

/// Version of the pickle format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    Two,
    Four,
}

/// The pickle of `item`.
pub fn write(item: &Item, protocol: Protocol) -> Vec<u8> {
    let mut writer = Writer { protocol, out: Vec::new(), memo: HashMap::new() };
    writer.out.extend([0x80, if protocol == Protocol::Two { 2 } else { 4 }]);
    writer.item(item);
    writer.out.push(b'.');
    writer.out
}

/// A value that is written once and then recalled.
#[derive(PartialEq, Eq, Hash)]
enum Memoized {
    Text(String),
    Class(&'static str, &'static str),
}

struct Writer {
    protocol: Protocol,
    out: Vec<u8>,
    memo: HashMap<Memoized, u32>,
}

impl Writer {
    /// Recalls a value, if it was written before.
    fn recall(&mut self, value: &Memoized) -> bool {
        let Some(&place) = self.memo.get(value) else { return false };
        match u8::try_from(place) {
            Ok(place) => self.out.extend([b'h', place]),
            Err(_) => {
                self.out.push(b'j');
                self.out.extend(place.to_le_bytes());
            }
        }
        true
    }

    /// Remembers the value on top of the stack.
    fn remember(&mut self, value: Memoized) {
        let place = self.memo.len() as u32;
        match (self.protocol, u8::try_from(place)) {
            (Protocol::Four, _) => self.out.push(0x94),
            (Protocol::Two, Ok(place)) => self.out.extend([b'q', place]),
            (Protocol::Two, Err(_)) => {
                self.out.push(b'r');
                self.out.extend(place.to_le_bytes());
            }
        }
        self.memo.insert(value, place);
    }

    /// A length: one byte after `short`, or eight after `long`, or four after `usual`. Zero means
    /// that the protocol has no such opcode.
    fn length(&mut self, length: usize, [short, usual, long]: [u8; 3]) {
        match (u8::try_from(length), u32::try_from(length)) {
            (Ok(length), _) if short != 0 => self.out.extend([short, length]),
            (_, Err(_)) if long != 0 => {
                self.out.push(long);
                self.out.extend((length as u64).to_le_bytes());
            }
            (_, length) => {
                self.out.push(usual);
                self.out.extend(length.unwrap_or(u32::MAX).to_le_bytes());
            }
        }
    }

    fn text(&mut self, text: &str) {
        let key = Memoized::Text(text.to_owned());
        if self.recall(&key) {
            return;
        }
        self.plain_text(text);
        self.remember(key);
    }

    /// A string that is not remembered.
    fn plain_text(&mut self, text: &str) {
        match self.protocol {
            Protocol::Two => self.length(text.len(), [0, b'X', 0]),
            Protocol::Four => self.length(text.len(), [0x8c, b'X', 0x8d]),
        }
        self.out.extend(text.as_bytes());
    }

    fn class(&mut self, module: &'static str, name: &'static str) {
        let key = Memoized::Class(module, name);
        if self.recall(&key) {
            return;
        }
        match self.protocol {
            Protocol::Two => {
                self.out.push(b'c');
                for line in [module, name] {
                    self.out.extend(line.as_bytes());
                    self.out.push(b'\n');
                }
            }
            Protocol::Four => {
                self.text(module);
                self.text(name);
                self.out.push(0x93);
            }
        }
        self.remember(key);
    }

    fn int(&mut self, value: i64) {
        if let Ok(value) = u8::try_from(value) {
            self.out.extend([b'K', value]);
        } else if let Ok(value) = u16::try_from(value) {
            self.out.push(b'M');
            self.out.extend(value.to_le_bytes());
        } else if let Ok(value) = i32::try_from(value) {
            self.out.push(b'J');
            self.out.extend(value.to_le_bytes());
        } else {
            self.out.extend([0x8a, 8]);
            self.out.extend(value.to_le_bytes());
        }
    }

    fn all(&mut self, items: &[Item]) {
        for item in items {
            self.item(item);
        }
    }

    fn tuple(&mut self, items: &[Item]) {
        match items.len() {
            0 => self.out.push(b')'),
            count @ 1..=3 => {
                self.all(items);
                self.out.push(0x84 + count as u8);
            }
            _ => {
                self.out.push(b'(');
                self.all(items);
                self.out.push(b't');
            }
        }
    }

    /// Entries of the dict on top of the stack.
    fn entries(&mut self, entries: &[(Item, Item)]) {
        if entries.is_empty() {
            return;
        }
        self.out.push(b'(');
        for (key, value) in entries {
            self.item(key);
            self.item(value);
        }
        self.out.push(b'u');
    }

    fn bytes(&mut self, bytes: &[u8]) {
        if self.protocol == Protocol::Four {
            self.length(bytes.len(), [b'C', b'B', 0x8e]);
            return self.out.extend(bytes);
        }
        // Protocol 2 has no bytes: text in latin1.
        self.class("_codecs", "encode");
        let text: String = bytes.iter().map(|byte| char::from(*byte)).collect();
        self.plain_text(&text);
        self.text("latin1");
        self.out.extend([0x86, b'R']);
    }

    fn tensor(&mut self, dtype: DType, shape: &[u64], storage: usize) {
        let elements: u64 = shape.iter().product();
        let class = dtype.storage_class();
        self.class("torch._utils", if class.is_some() { "_rebuild_tensor_v2" } else { "_rebuild_tensor_v3" });
        self.out.extend(b"((");
        self.text("storage");
        match class {
            Some(class) => self.class("torch", class),
            None => self.class("torch.storage", "UntypedStorage"),
        }
        self.text(&storage.to_string());
        self.text("cpu");
        let length = if class.is_some() { elements } else { elements * dtype.size() as u64 };
        self.int(length as i64);
        // The reference, then offset, shape, strides, whether it needs a gradient, and hooks.
        self.out.extend(b"tQ");
        self.int(0);
        let numbers = |numbers: &[u64]| numbers.iter().map(|size| Item::Int(*size as i64)).collect::<Vec<_>>();
        self.tuple(&numbers(shape));
        self.tuple(&numbers(&contiguous_strides(shape)));
        self.out.push(0x89);
        self.class("collections", "OrderedDict");
        self.out.extend(b")R");
        if class.is_none() {
            self.class("torch", dtype.name());
        }
        self.out.extend(b"tR");
    }

    fn item(&mut self, item: &Item) {
        match item {
            Item::None => self.out.push(b'N'),
            Item::Bool(value) => self.out.push(if *value { 0x88 } else { 0x89 }),
            Item::Int(value) => self.int(*value),
            Item::Float(value) => {
                self.out.push(b'G');
                self.out.extend(value.to_be_bytes());
            }
            Item::Str(text) => self.text(text),
            Item::Bytes(bytes) => self.bytes(bytes),
            Item::List(items) => {
                self.out.push(b']');
                if !items.is_empty() {
                    self.out.push(b'(');
                    self.all(items);
                    self.out.push(b'e');
                }
            }
            Item::Tuple(items) => self.tuple(items),
            Item::Dict(entries) => {
                self.out.push(b'}');
                self.entries(entries);
            }
            Item::OrderedDict(entries) => {
                self.class("collections", "OrderedDict");
                self.out.extend(b")R");
                self.entries(entries);
            }
            Item::DType(dtype) => self.class("torch", dtype.name()),
            Item::Call { module, name, args } => {
                self.class(module, name);
                self.tuple(args);
                self.out.push(b'R');
            }
            Item::Object { module, name, state } => {
                self.class(module, name);
                self.out.extend(b")\x81");
                if let Some(state) = state {
                    self.item(state);
                    self.out.push(b'b');
                }
            }
            Item::Tensor { dtype, shape, storage } => self.tensor(*dtype, shape, *storage),
        }
    }
}

/// Strides, in elements, of a contiguous tensor, as PyTorch writes them.
pub(crate) fn contiguous_strides(shape: &[u64]) -> Vec<u64> {
    let mut strides = vec![1; shape.len()];
    for at in (1..shape.len()).rev() {
        strides[at - 1] = strides[at] * shape[at].max(1);
    }
    strides
}
