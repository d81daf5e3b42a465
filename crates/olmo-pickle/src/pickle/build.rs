//! What classes and functions become: the rules of `globals`, applied to the values of a pickle.

use super::globals::{self, Rule};
use super::machine::Machine;
use crate::document::{ArrayNode, Id, MAX_DIMENSIONS, Node, ObjectNode, StorageNode, TensorNode};
use crate::dtype::DType;
use crate::error::{Error, shortened};

impl Machine<'_> {
    fn node(&self, id: Id) -> &Node {
        &self.nodes[id as usize]
    }

    fn text(&self, id: Id) -> Option<&str> {
        if let Node::Str(text) = self.node(id) { Some(text) } else { None }
    }

    fn number(&self, id: Id) -> Option<u64> {
        if let Node::Int(value) = self.node(id) { u64::try_from(*value).ok() } else { None }
    }

    /// Elements of a tuple or list.
    fn sequence(&self, id: Id) -> Option<&[Id]> {
        match self.node(id) {
            Node::Tuple(items) => Some(items),
            Node::List(items) => Some(items),
            _ => None,
        }
    }

    /// Takes `count` from what may be copied.
    fn charge(&mut self, count: usize) -> Result<(), Error> {
        let left = self.copies.checked_sub(count);
        self.copies = left.ok_or_else(|| Error::invalid("the pickle copies shared values too often"))?;
        Ok(())
    }

    /// The class `name` of `module`, both strings, or the element type with that name.
    pub(super) fn class(&mut self, module: Id, name: Id) -> Result<Id, Error> {
        let (Some(module_name), Some(class_name)) = (self.text(module), self.text(name)) else {
            return Err(Error::invalid("the name of a class is not a string"));
        };
        let node = match globals::rule(module_name, class_name) {
            Some(Rule::DType(dtype)) => Node::DType(dtype),
            _ => Node::Class(module, name),
        };
        self.add(node)
    }

    fn rule(&self, class: Id) -> Option<Rule> {
        let Node::Class(module, name) = self.node(class) else { return None };
        globals::rule(self.text(*module)?, self.text(*name)?)
    }

    /// The name of a class, for messages.
    fn name(&self, class: Id) -> String {
        match self.node(class) {
            Node::Class(module, name) => {
                let part = |id: Id| shortened(self.text(id).unwrap_or_default());
                format!("{}.{}", part(*module), part(*name))
            }
            other => other.kind_name().to_owned(),
        }
    }

    /// What calling `class` with `args` becomes.
    pub(super) fn construct(&mut self, class: Id, args: Id, kwargs: Option<Id>) -> Result<Id, Error> {
        if !matches!(self.node(class), Node::Class(..) | Node::Object(_)) {
            let kind = self.node(class).kind_name();
            return Err(Error::invalid(format!("{kind} is called, which is no class or function")));
        }
        if !matches!(self.node(args), Node::Tuple(_)) {
            let (name, kind) = (self.name(class), self.node(args).kind_name());
            return Err(Error::invalid(format!("the arguments of {name} are {kind}, not a tuple")));
        }
        match self.rule(class) {
            Some(rule) if kwargs.is_none() => {
                self.apply(rule, class, args).map_err(|error| error.within(&self.name(class)))
            }
            _ => self.object(class, args, kwargs),
        }
    }

    fn object(&mut self, class: Id, args: Id, kwargs: Option<Id>) -> Result<Id, Error> {
        let object = ObjectNode { class, args, kwargs, state: None, items: Vec::new(), pairs: Vec::new() };
        self.add(Node::Object(Box::new(object)))
    }

    fn argument(&self, args: Id, index: usize) -> Result<Id, Error> {
        let argument = self.sequence(args).and_then(|args| args.get(index)).copied();
        argument.ok_or_else(|| Error::invalid(format!("argument {} is missing", index + 1)))
    }

    fn wrong_argument(&self, index: usize, value: Id, expected: &str) -> Error {
        let kind = self.node(value).kind_name();
        Error::invalid(format!("argument {} is {kind}, not {expected}", index + 1))
    }

    fn apply(&mut self, rule: Rule, class: Id, args: Id) -> Result<Id, Error> {
        let count = self.sequence(args).map_or(0, <[Id]>::len);
        match rule {
            Rule::OrderedDict if count == 0 => self.add(Node::Dict(Vec::new())),
            Rule::OrderedDict => {
                let list = self.argument(args, 0)?;
                let items = self.sequence(list).ok_or_else(|| self.wrong_argument(0, list, "a list"))?;
                let pair = |item: &Id| match self.sequence(*item) {
                    Some([key, value]) => Ok((*key, *value)),
                    _ => Err(Error::invalid("an entry is not a pair")),
                };
                let pairs: Vec<(Id, Id)> = items.iter().map(pair).collect::<Result<_, _>>()?;
                self.charge(pairs.len())?;
                self.add(Node::Dict(pairs))
            }
            Rule::DefaultDict => self.add(Node::Dict(Vec::new())),
            Rule::Set if count == 0 => self.add(Node::Set(Vec::new())),
            Rule::Set => {
                let list = self.argument(args, 0)?;
                let items = self.sequence(list).ok_or_else(|| self.wrong_argument(0, list, "a list"))?.to_vec();
                self.charge(items.len())?;
                self.add(Node::Set(items))
            }
            Rule::Bytes if count == 0 => self.add(Node::Bytes(Box::default())),
            Rule::Bytes => self.object(class, args, None),
            Rule::Encode => self.encode(args),
            Rule::Size => {
                let size = self.argument(args, 0)?;
                if self.sequence(size).is_none() {
                    return Err(self.wrong_argument(0, size, "a tuple"));
                }
                Ok(size)
            }
            Rule::TensorV2 | Rule::TensorV3 => self.tensor(rule, args),
            Rule::Parameter => {
                let tensor = self.argument(args, 0)?;
                // What is no tensor of ours, such as a sparse one, keeps its own name.
                if matches!(self.node(tensor), Node::Tensor(_) | Node::Object(_)) {
                    return Ok(tensor);
                }
                Err(self.wrong_argument(0, tensor, "a tensor"))
            }
            Rule::FromType => {
                let function = self.argument(args, 0)?;
                let inner = self.argument(args, 2)?;
                match self.rule(function) {
                    Some(rule @ (Rule::TensorV2 | Rule::TensorV3 | Rule::Parameter)) => {
                        self.apply(rule, function, inner)
                    }
                    _ => self.object(class, args, None),
                }
            }
            Rule::Array => self.add(Node::Array(Box::default())),
            Rule::ArrayFromBytes => self.array_from_bytes(args),
            Rule::Scalar => self.scalar(class, args),
            Rule::Record => self.object(class, args, None),
            Rule::DType(_) | Rule::Storage(_) => Err(Error::unsupported("it is called, which only old files do")),
        }
    }

    fn encode(&mut self, args: Id) -> Result<Id, Error> {
        let (text, encoding) = (self.argument(args, 0)?, self.argument(args, 1)?);
        if !self.text(encoding).is_some_and(|name| matches!(name, "latin1" | "latin-1")) {
            return Err(Error::unsupported("an encoding other than latin1"));
        }
        let text_length = self.text(text).ok_or_else(|| self.wrong_argument(0, text, "a string"))?.len();
        self.charge(text_length)?;
        let chars = self.text(text).unwrap_or_default().chars();
        let bytes: Option<Box<[u8]>> = chars.map(|c| u8::try_from(u32::from(c)).ok()).collect();
        let bytes = bytes.ok_or_else(|| Error::invalid("a character is not in latin1"))?;
        self.add(Node::Bytes(bytes))
    }

    /// Sizes or strides.
    fn dimensions(&mut self, id: Id, what: &str) -> Result<Box<[u64]>, Error> {
        let items = self.sequence(id).ok_or_else(|| Error::invalid(format!("the {what} is not a tuple")))?;
        if items.len() > MAX_DIMENSIONS {
            let reason = format!("the {what} has {} dimensions, more than {MAX_DIMENSIONS}", items.len());
            return Err(Error::invalid(reason));
        }
        let numbers: Option<Box<[u64]>> = items.iter().map(|id| self.number(*id)).collect();
        let numbers = numbers.ok_or_else(|| Error::invalid(format!("the {what} has a value that is no size")))?;
        self.charge(numbers.len())?;
        Ok(numbers)
    }

    fn tensor(&mut self, rule: Rule, args: Id) -> Result<Id, Error> {
        let storage = self.argument(args, 0)?;
        let typed = match self.node(storage) {
            Node::Storage(storage) => storage.dtype,
            _ => return Err(self.wrong_argument(0, storage, "a storage")),
        };
        let dtype = if rule == Rule::TensorV3 {
            let dtype = self.argument(args, 6)?;
            match self.node(dtype) {
                Node::DType(dtype) => *dtype,
                _ => return Err(self.wrong_argument(6, dtype, "a dtype")),
            }
        } else {
            typed.ok_or_else(|| Error::invalid("the storage has no element type"))?
        };
        let offset = self.argument(args, 1)?;
        let offset = self.number(offset).ok_or_else(|| self.wrong_argument(1, offset, "an offset"))?;
        let (shape, strides) = (self.argument(args, 2)?, self.argument(args, 3)?);
        let shape = self.dimensions(shape, "shape")?;
        let strides = self.dimensions(strides, "stride")?;
        if shape.len() != strides.len() {
            let reason = format!("{} sizes and {} strides differ in number", shape.len(), strides.len());
            return Err(Error::invalid(reason));
        }
        self.add(Node::Tensor(Box::new(TensorNode { dtype, storage, offset, shape, strides })))
    }

    /// What a persistent id refers to: `("storage", class, key, device, number of elements)`.
    pub(super) fn storage(&mut self, name: Id) -> Result<Id, Error> {
        if !self.storages {
            let hint = "only a file of torch.save can have tensors";
            return Err(Error::unsupported("a reference to something outside of the pickle").with_hint(hint));
        }
        let parts = self.sequence(name).ok_or_else(|| Error::invalid("a reference to a storage is not a tuple"))?;
        let &[tag, class, key, _device, elements, ..] = parts else {
            return Err(Error::invalid(format!("a reference to a storage has {} parts, not 5", parts.len())));
        };
        if self.text(tag) != Some("storage") {
            return Err(Error::unsupported("a reference to something that is no storage"));
        }
        let Some(Rule::Storage(dtype)) = self.rule(class) else {
            return Err(Error::unsupported(format!("storages of class {}", self.name(class))));
        };
        if self.text(key).is_none() {
            return Err(Error::invalid("the key of a storage is not a string"));
        }
        let elements = self.number(elements).ok_or_else(|| Error::invalid("the length of a storage is no number"))?;
        let bytes = elements.checked_mul(dtype.map_or(1, DType::size) as u64);
        let bytes = bytes.ok_or_else(|| Error::invalid("the length of a storage is too large"))?;
        self.add(Node::Storage(Box::new(StorageNode { dtype, key, bytes })))
    }

    fn array_from_bytes(&mut self, args: Id) -> Result<Id, Error> {
        let (data, dtype) = (self.argument(args, 0)?, self.argument(args, 1)?);
        let (shape, order) = (self.argument(args, 2)?, self.argument(args, 3)?);
        let shape = self.dimensions(shape, "shape")?;
        let fortran = self.text(order) == Some("F");
        self.add(Node::Array(Box::new(ArrayNode { dtype: Some(dtype), shape, fortran, data: Some(data) })))
    }

    /// A number of numpy; it stays an object if its type is not a plain number.
    fn scalar(&mut self, class: Id, args: Id) -> Result<Id, Error> {
        let (dtype, data) = (self.argument(args, 0)?, self.argument(args, 1)?);
        match self.decode_scalar(dtype, data) {
            Some(node) => self.add(node),
            None => self.object(class, args, None),
        }
    }

    fn decode_scalar(&self, dtype: Id, data: Id) -> Option<Node> {
        let Node::Object(dtype) = self.node(dtype) else { return None };
        let name = self.text(*self.sequence(dtype.args)?.first()?)?;
        let order = dtype.state.and_then(|state| self.text(*self.sequence(state)?.get(1)?));
        let Node::Bytes(bytes) = self.node(data) else { return None };
        if order == Some(">") {
            return None;
        }
        Some(match name {
            "f8" => Node::Float(f64::from_le_bytes((**bytes).try_into().ok()?)),
            "f4" => Node::Float(f64::from(f32::from_le_bytes((**bytes).try_into().ok()?))),
            "i8" => Node::Int(i64::from_le_bytes((**bytes).try_into().ok()?)),
            "i4" => Node::Int(i64::from(i32::from_le_bytes((**bytes).try_into().ok()?))),
            "u4" => Node::Int(i64::from(u32::from_le_bytes((**bytes).try_into().ok()?))),
            "i2" => Node::Int(i64::from(i16::from_le_bytes((**bytes).try_into().ok()?))),
            "u2" => Node::Int(i64::from(u16::from_le_bytes((**bytes).try_into().ok()?))),
            "u8" => Node::Int(i64::try_from(u64::from_le_bytes((**bytes).try_into().ok()?)).ok()?),
            "b1" => Node::Bool(*bytes.first()? != 0),
            _ => return None,
        })
    }

    /// Sets the state of an object.
    pub(super) fn build(&mut self, target: Id, state: Id) -> Result<(), Error> {
        match &mut self.nodes[target as usize] {
            Node::Object(object) => {
                object.state = Some(state);
                Ok(())
            }
            Node::Array(_) => self.build_array(target, state),
            // Attributes of an object that became plain data, such as `_metadata` of a state dict.
            Node::Dict(_) | Node::List(_) | Node::Set(_) | Node::Tensor(_) => Ok(()),
            other => Err(Error::invalid(format!("{} cannot have a state", other.kind_name()))),
        }
    }

    /// The state of an array: version, shape, type, order, and bytes.
    fn build_array(&mut self, target: Id, state: Id) -> Result<(), Error> {
        let Some(&[_version, shape, dtype, fortran, data]) = self.sequence(state) else {
            return Err(Error::unsupported("a numpy array whose state does not have five parts"));
        };
        let shape = self.dimensions(shape, "shape")?;
        let fortran = matches!(self.node(fortran), Node::Bool(true));
        let array = ArrayNode { dtype: Some(dtype), shape, fortran, data: Some(data) };
        self.nodes[target as usize] = Node::Array(Box::new(array));
        Ok(())
    }

    /// Appends to a list, set or object.
    pub(super) fn append(&mut self, target: Id, new: &[Id]) -> Result<(), Error> {
        match &mut self.nodes[target as usize] {
            Node::List(items) | Node::Set(items) => items.extend_from_slice(new),
            Node::Object(object) => object.items.extend_from_slice(new),
            other => return Err(Error::invalid(format!("{} cannot have elements appended", other.kind_name()))),
        }
        Ok(())
    }

    /// Sets entries of a dict or object.
    pub(super) fn set_items(&mut self, target: Id, new: &[(Id, Id)]) -> Result<(), Error> {
        match &mut self.nodes[target as usize] {
            Node::Dict(pairs) => pairs.extend_from_slice(new),
            Node::Object(object) => object.pairs.extend_from_slice(new),
            other => return Err(Error::invalid(format!("{} cannot have entries set", other.kind_name()))),
        }
        Ok(())
    }
}
