//! The interpreter: the stack, the memo, and what each opcode does
//! (<https://github.com/python/cpython/blob/main/Lib/pickletools.py> describes them).
//!
//! It never calls anything. Each opcode makes at most a few nodes, so the memory it needs is in
//! proportion to the pickle.

use std::collections::HashMap;

use super::cursor::{Cursor, decimal, unescape_unicode, unquote};
use crate::document::{Id, Node};
use crate::error::{Error, shortened};

/// Marks a place of the memo that has no value.
const NOTHING: Id = Id::MAX;

/// The state of reading one pickle.
pub(super) struct Machine<'i> {
    cursor: Cursor<'i>,
    pub(super) nodes: Vec<Node>,
    stack: Vec<Id>,
    /// Heights of the stack at the marks.
    marks: Vec<usize>,
    memo: Vec<Id>,
    /// Opcodes so far.
    opcodes: usize,
    /// What may still be copied from other values, in elements or bytes.
    pub(super) copies: usize,
    /// Nodes of common values, which every opcode for them shares.
    shared: HashMap<Shared, Id>,
    /// Whether references to storages are understood.
    pub(super) storages: bool,
}

/// A value without content of its own.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Shared {
    None,
    Bool(bool),
    Byte(u8),
    EmptyTuple,
}

impl<'i> Machine<'i> {
    pub(super) fn new(input: &'i [u8], storages: bool) -> Self {
        Self {
            cursor: Cursor { input, at: 0 },
            nodes: Vec::new(),
            stack: Vec::new(),
            marks: Vec::new(),
            memo: Vec::new(),
            opcodes: 0,
            copies: input.len(),
            shared: HashMap::new(),
            storages,
        }
    }

    /// All nodes, and the place of the outermost value.
    pub(super) fn run(mut self) -> Result<(Vec<Node>, Id), Error> {
        loop {
            let start = self.cursor.at;
            let done = self.step().map_err(|error| error.within(&format!("byte {start} of the pickle")))?;
            if done {
                break;
            }
        }
        if self.cursor.remaining() > 0 {
            let count = self.cursor.remaining();
            return Err(Error::invalid(format!("{count} bytes follow the end of the pickle")));
        }
        match (self.stack.as_slice(), self.marks.as_slice()) {
            ([root], []) => Ok((self.nodes, *root)),
            (stack, _) => Err(Error::invalid(format!("the pickle ends with {} values, not one", stack.len()))),
        }
    }

    /// Adds a node.
    pub(super) fn add(&mut self, node: Node) -> Result<Id, Error> {
        // Most opcodes that make a node have two bytes or more, or are followed by one that stores
        // it.
        if self.nodes.len() > self.cursor.input.len() / 2 + 1024 {
            return Err(Error::invalid("the pickle has more values than its length justifies"));
        }
        self.nodes.push(node);
        Ok((self.nodes.len() - 1) as Id)
    }

    /// Adds a node and puts it on the stack.
    fn push(&mut self, node: Node) -> Result<(), Error> {
        let id = self.add(node)?;
        self.stack.push(id);
        Ok(())
    }

    fn push_shared(&mut self, value: Shared) -> Result<(), Error> {
        let id = match self.shared.get(&value) {
            Some(id) => *id,
            None => {
                let id = self.add(match value {
                    Shared::None => Node::None,
                    Shared::Bool(value) => Node::Bool(value),
                    Shared::Byte(value) => Node::Int(i64::from(value)),
                    Shared::EmptyTuple => Node::Tuple(Box::default()),
                })?;
                self.shared.insert(value, id);
                id
            }
        };
        self.stack.push(id);
        Ok(())
    }

    fn push_int(&mut self, value: i64) -> Result<(), Error> {
        match u8::try_from(value) {
            Ok(value) => self.push_shared(Shared::Byte(value)),
            Err(_) => self.push(Node::Int(value)),
        }
    }

    /// An integer of any length: two's complement, little endian.
    fn push_long(&mut self, length: usize) -> Result<(), Error> {
        let bytes = self.cursor.take(length)?;
        if bytes.len() <= 8 {
            let negative = bytes.last().is_some_and(|byte| byte & 0x80 != 0);
            let mut all = [if negative { 0xff } else { 0 }; 8];
            all[..bytes.len()].copy_from_slice(bytes);
            return self.push_int(i64::from_le_bytes(all));
        }
        self.push(Node::BigInt(bytes.into()))
    }

    fn push_text(&mut self, length: usize) -> Result<(), Error> {
        let text = self.cursor.text(length)?;
        self.push(Node::Str(text.into()))
    }

    fn push_bytes(&mut self, length: usize) -> Result<(), Error> {
        let bytes = self.cursor.take(length)?;
        self.push(Node::Bytes(bytes.into()))
    }

    /// A string of Python 2, which has no encoding: text if it is UTF-8.
    fn push_old_string(&mut self, bytes: &[u8]) -> Result<(), Error> {
        match std::str::from_utf8(bytes) {
            Ok(text) => self.push(Node::Str(text.into())),
            Err(_) => self.push(Node::Bytes(bytes.into())),
        }
    }

    /// Takes the topmost value after the last mark.
    fn pop(&mut self) -> Result<Id, Error> {
        let floor = self.marks.last().copied().unwrap_or(0);
        if self.stack.len() <= floor {
            return Err(Error::invalid("an opcode needs a value that is not there"));
        }
        self.stack.pop().ok_or_else(|| Error::invalid("an opcode needs a value that is not there"))
    }

    /// The topmost value after the last mark.
    fn top(&self) -> Result<Id, Error> {
        let floor = self.marks.last().copied().unwrap_or(0);
        let top = self.stack.get(floor..).and_then(<[Id]>::last);
        top.copied().ok_or_else(|| Error::invalid("an opcode needs a value that is not there"))
    }

    /// Takes all values after the last mark, and the mark.
    fn pop_to_mark(&mut self) -> Result<Vec<Id>, Error> {
        let mark = self.marks.pop().ok_or_else(|| Error::invalid("an opcode needs a mark that is not there"))?;
        Ok(self.stack.split_off(mark))
    }

    fn pop_pairs(&mut self) -> Result<Vec<(Id, Id)>, Error> {
        let values = self.pop_to_mark()?;
        let (pairs, rest) = values.as_chunks::<2>();
        if !rest.is_empty() {
            return Err(Error::invalid("a key of a dict has no value"));
        }
        Ok(pairs.iter().map(|[key, value]| (*key, *value)).collect())
    }

    /// Puts a tuple of the topmost `count` values in their place.
    fn tuple(&mut self, count: usize) -> Result<(), Error> {
        let mut items = Vec::with_capacity(count);
        for _ in 0..count {
            items.push(self.pop()?);
        }
        items.reverse();
        self.push(Node::Tuple(items.into()))
    }

    fn remember(&mut self, place: usize) -> Result<(), Error> {
        let value = self.top()?;
        // Pickles number their memo without gaps, from 0 or 1.
        if place > self.opcodes {
            return Err(Error::invalid(format!("the memo has no place {place} yet")));
        }
        if place >= self.memo.len() {
            self.memo.resize(place + 1, NOTHING);
        }
        self.memo[place] = value;
        Ok(())
    }

    fn recall(&mut self, place: usize) -> Result<(), Error> {
        match self.memo.get(place) {
            Some(id) if *id != NOTHING => {
                self.stack.push(*id);
                Ok(())
            }
            _ => Err(Error::invalid(format!("the memo has no value {place}"))),
        }
    }

    /// Module and name from two lines of text.
    fn class_from_lines(&mut self) -> Result<Id, Error> {
        let module = self.cursor.line()?;
        let name = self.cursor.line()?;
        let module = self.add(Node::Str(module.into()))?;
        let name = self.add(Node::Str(name.into()))?;
        self.class(module, name)
    }

    /// Executes the next opcode; whether it was the last one.
    fn step(&mut self) -> Result<bool, Error> {
        self.opcodes += 1;
        let opcode = self.cursor.u8()?;
        match opcode {
            // PROTO
            0x80 => {
                let version = self.cursor.u8()?;
                if version > 5 {
                    return Err(Error::unsupported(format!("pickle protocol {version}; this program knows 0 to 5")));
                }
            }
            // FRAME: a hint for readers of streams.
            0x95 => {
                let length = self.cursor.length_u64()?;
                if length > self.cursor.remaining() {
                    return Err(Error::invalid("a frame is longer than the rest of the pickle"));
                }
            }
            // STOP
            b'.' => return Ok(true),
            // MARK
            b'(' => self.marks.push(self.stack.len()),
            // POP, which takes a mark if nothing follows it
            b'0' => match self.marks.last() {
                Some(mark) if *mark == self.stack.len() => drop(self.marks.pop()),
                _ => drop(self.pop()?),
            },
            // POP_MARK
            b'1' => drop(self.pop_to_mark()?),
            // DUP
            b'2' => self.stack.push(self.top()?),
            // NONE, NEWTRUE, NEWFALSE
            b'N' => self.push_shared(Shared::None)?,
            0x88 => self.push_shared(Shared::Bool(true))?,
            0x89 => self.push_shared(Shared::Bool(false))?,
            // INT, LONG, FLOAT: text
            b'I' => match self.cursor.line()? {
                "00" => self.push_shared(Shared::Bool(false))?,
                "01" => self.push_shared(Shared::Bool(true))?,
                text => self.push_int(decimal(text)?)?,
            },
            b'L' => {
                let value = decimal(self.cursor.line()?)?;
                self.push_int(value)?;
            }
            b'F' => {
                let text = self.cursor.line()?;
                let value = text.trim().parse();
                let value = value.map_err(|_| Error::invalid(format!("`{}` is not a float", shortened(text))))?;
                self.push(Node::Float(value))?;
            }
            // BININT, BININT1, BININT2, LONG1, LONG4, BINFLOAT
            b'J' => {
                let value = self.cursor.i32()?;
                self.push_int(i64::from(value))?;
            }
            b'K' => {
                let value = self.cursor.u8()?;
                self.push_shared(Shared::Byte(value))?;
            }
            b'M' => {
                let value = self.cursor.u16()?;
                self.push_int(i64::from(value))?;
            }
            0x8a => {
                let length = self.cursor.length_u8()?;
                self.push_long(length)?;
            }
            0x8b => {
                let length = self.cursor.length_u32()?;
                self.push_long(length)?;
            }
            b'G' => {
                let value = self.cursor.f64()?;
                self.push(Node::Float(value))?;
            }
            // STRING, BINSTRING, SHORT_BINSTRING
            b'S' => {
                let bytes = unquote(self.cursor.line()?)?;
                self.push_old_string(&bytes)?;
            }
            b'T' => {
                let length = self.cursor.length_u32()?;
                let bytes = self.cursor.take(length)?;
                self.push_old_string(bytes)?;
            }
            b'U' => {
                let length = self.cursor.length_u8()?;
                let bytes = self.cursor.take(length)?;
                self.push_old_string(bytes)?;
            }
            // UNICODE, SHORT_BINUNICODE, BINUNICODE, BINUNICODE8
            b'V' => {
                let text = unescape_unicode(self.cursor.line_bytes()?)?;
                self.push(Node::Str(text.into()))?;
            }
            0x8c => {
                let length = self.cursor.length_u8()?;
                self.push_text(length)?;
            }
            b'X' => {
                let length = self.cursor.length_u32()?;
                self.push_text(length)?;
            }
            0x8d => {
                let length = self.cursor.length_u64()?;
                self.push_text(length)?;
            }
            // SHORT_BINBYTES, BINBYTES, BINBYTES8, BYTEARRAY8
            b'C' => {
                let length = self.cursor.length_u8()?;
                self.push_bytes(length)?;
            }
            b'B' => {
                let length = self.cursor.length_u32()?;
                self.push_bytes(length)?;
            }
            0x8e | 0x96 => {
                let length = self.cursor.length_u64()?;
                self.push_bytes(length)?;
            }
            _ => self.step_on_values(opcode)?,
        }
        Ok(false)
    }

    /// Executes an opcode that makes containers, classes and objects, or uses the memo.
    fn step_on_values(&mut self, opcode: u8) -> Result<(), Error> {
        match opcode {
            // EMPTY_LIST, LIST, APPEND, APPENDS
            b']' => self.push(Node::List(Vec::new())),
            b'l' => {
                let items = self.pop_to_mark()?;
                self.push(Node::List(items))
            }
            b'a' => {
                let item = self.pop()?;
                let target = self.top()?;
                self.append(target, &[item])
            }
            b'e' => {
                let items = self.pop_to_mark()?;
                let target = self.top()?;
                self.append(target, &items)
            }
            // EMPTY_TUPLE, TUPLE1, TUPLE2, TUPLE3, TUPLE
            b')' => self.push_shared(Shared::EmptyTuple),
            0x85..=0x87 => self.tuple(usize::from(opcode - 0x84)),
            b't' => {
                let items = self.pop_to_mark()?;
                self.push(Node::Tuple(items.into()))
            }
            // EMPTY_DICT, DICT, SETITEM, SETITEMS
            b'}' => self.push(Node::Dict(Vec::new())),
            b'd' => {
                let pairs = self.pop_pairs()?;
                self.push(Node::Dict(pairs))
            }
            b's' => {
                let value = self.pop()?;
                let key = self.pop()?;
                let target = self.top()?;
                self.set_items(target, &[(key, value)])
            }
            b'u' => {
                let pairs = self.pop_pairs()?;
                let target = self.top()?;
                self.set_items(target, &pairs)
            }
            // EMPTY_SET, ADDITEMS, FROZENSET
            0x8f => self.push(Node::Set(Vec::new())),
            0x90 => {
                let items = self.pop_to_mark()?;
                let target = self.top()?;
                self.append(target, &items)
            }
            0x91 => {
                let items = self.pop_to_mark()?;
                self.push(Node::Set(items))
            }
            // GET, BINGET, LONG_BINGET
            b'g' => {
                let place = decimal(self.cursor.line()?)?;
                self.recall(usize::try_from(place).unwrap_or(usize::MAX))
            }
            b'h' => {
                let place = self.cursor.length_u8()?;
                self.recall(place)
            }
            b'j' => {
                let place = self.cursor.length_u32()?;
                self.recall(place)
            }
            // PUT, BINPUT, LONG_BINPUT, MEMOIZE
            b'p' => {
                let place = decimal(self.cursor.line()?)?;
                self.remember(usize::try_from(place).unwrap_or(usize::MAX))
            }
            b'q' => {
                let place = self.cursor.length_u8()?;
                self.remember(place)
            }
            b'r' => {
                let place = self.cursor.length_u32()?;
                self.remember(place)
            }
            0x94 => self.remember(self.memo.len()),
            // GLOBAL, STACK_GLOBAL
            b'c' => {
                let class = self.class_from_lines()?;
                self.stack.push(class);
                Ok(())
            }
            0x93 => {
                let name = self.pop()?;
                let module = self.pop()?;
                let class = self.class(module, name)?;
                self.stack.push(class);
                Ok(())
            }
            // REDUCE and NEWOBJ, which only differ in what Python would execute
            b'R' | 0x81 => {
                let args = self.pop()?;
                let class = self.pop()?;
                let object = self.construct(class, args, None)?;
                self.stack.push(object);
                Ok(())
            }
            // NEWOBJ_EX
            0x92 => {
                let kwargs = self.pop()?;
                let args = self.pop()?;
                let class = self.pop()?;
                let object = self.construct(class, args, Some(kwargs))?;
                self.stack.push(object);
                Ok(())
            }
            // INST, OBJ
            b'i' => {
                let class = self.class_from_lines()?;
                let args = self.pop_to_mark()?;
                self.construct_from(class, args)
            }
            b'o' => {
                let mut args = self.pop_to_mark()?;
                if args.is_empty() {
                    return Err(Error::invalid("an object has no class"));
                }
                let class = args.remove(0);
                self.construct_from(class, args)
            }
            // BUILD
            b'b' => {
                let state = self.pop()?;
                let target = self.top()?;
                self.build(target, state)
            }
            // BINPERSID, PERSID
            b'Q' => {
                let name = self.pop()?;
                let storage = self.storage(name)?;
                self.stack.push(storage);
                Ok(())
            }
            b'P' => Err(Error::unsupported("a reference to something outside of the pickle, by a line of text")),
            // EXT1, EXT2, EXT4
            0x82..=0x84 => Err(Error::unsupported("a class named by a number of Python's extension registry")),
            // NEXT_BUFFER, READONLY_BUFFER
            0x97 | 0x98 => Err(Error::unsupported("a buffer that is kept outside of the pickle")),
            other => Err(Error::invalid(format!("0x{other:02x} is no opcode: this is not a pickle, or it is damaged"))),
        }
    }

    fn construct_from(&mut self, class: Id, args: Vec<Id>) -> Result<(), Error> {
        let args = self.add(Node::Tuple(args.into()))?;
        let object = self.construct(class, args, None)?;
        self.stack.push(object);
        Ok(())
    }
}
