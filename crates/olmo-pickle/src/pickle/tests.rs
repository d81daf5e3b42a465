use super::*;
use crate::document::{Kind, Value};
use crate::dtype::DType;

fn root_of(pickle: &[u8], check: impl FnOnce(Value<'_>)) {
    match parse(pickle) {
        Ok(document) => check(document.root()),
        Err(error) => panic!("{error}"),
    }
}

fn refusal(pickle: &[u8]) -> String {
    parse(pickle).expect_err("must be refused").to_string()
}

#[test]
fn every_protocol_gives_the_same_values() {
    // {'a': [1, -2, 2.5, None, True], 'b': (b'\xff', 'é')} by pickle.dumps with protocols 0 to 5.
    let zero = b"(dp0\nVa\np1\n(lp2\nI1\naI-2\naF2.5\naNaI01\nasVb\np3\n(c_codecs\nencode\np4\n(V\xff\np5\nVlatin1\np6\ntp7\nRp8\nV\xe9\np9\ntp10\ns.";
    let one = b"}q\x00(X\x01\x00\x00\x00aq\x01]q\x02(K\x01J\xfe\xff\xff\xffG@\x04\x00\x00\x00\x00\x00\x00NI01\neX\x01\x00\x00\x00bq\x03(c_codecs\nencode\nq\x04(X\x02\x00\x00\x00\xc3\xbfq\x05X\x06\x00\x00\x00latin1q\x06tq\x07Rq\x08X\x02\x00\x00\x00\xc3\xa9q\ttq\nu.";
    let two = b"\x80\x02}q\x00(X\x01\x00\x00\x00aq\x01]q\x02(K\x01J\xfe\xff\xff\xffG@\x04\x00\x00\x00\x00\x00\x00N\x88eX\x01\x00\x00\x00bq\x03c_codecs\nencode\nq\x04X\x02\x00\x00\x00\xc3\xbfq\x05X\x06\x00\x00\x00latin1q\x06\x86q\x07Rq\x08X\x02\x00\x00\x00\xc3\xa9q\t\x86q\nu.";
    let three = b"\x80\x03}q\x00(X\x01\x00\x00\x00aq\x01]q\x02(K\x01J\xfe\xff\xff\xffG@\x04\x00\x00\x00\x00\x00\x00N\x88eX\x01\x00\x00\x00bq\x03C\x01\xffq\x04X\x02\x00\x00\x00\xc3\xa9q\x05\x86q\x06u.";
    let four = b"\x80\x04\x95.\x00\x00\x00\x00\x00\x00\x00}\x94(\x8c\x01a\x94]\x94(K\x01J\xfe\xff\xff\xffG@\x04\x00\x00\x00\x00\x00\x00N\x88e\x8c\x01b\x94C\x01\xff\x94\x8c\x02\xc3\xa9\x94\x86\x94u.";
    for pickle in [&zero[..], one, two, three, four] {
        root_of(pickle, |root| {
            let a: Vec<Kind<'_>> = root.get("a").unwrap().items().map(Value::kind).collect();
            assert_eq!(a, [Kind::Int(1), Kind::Int(-2), Kind::Float(2.5), Kind::None, Kind::Bool(true)]);
            let b: Vec<Kind<'_>> = root.get("b").unwrap().items().map(Value::kind).collect();
            assert_eq!(b, [Kind::Bytes(b"\xff"), Kind::Str("é")]);
        });
    }
}

#[test]
fn nothing_is_executed_and_unknown_classes_are_listed() {
    let pickle = b"cos\nsystem\n(S'rm -rf /'\ntR.";
    let document = parse(pickle).unwrap();
    let root = document.root();
    assert!(root.is_object_of("os", "system"));
    assert_eq!(root.args().unwrap().item(0).unwrap().as_str(), Some("rm -rf /"));
    assert_eq!(unknown_classes(&document), BTreeSet::from(["os.system".to_owned()]));
    assert_eq!(root.describe(), "an object of class os.system");
}

#[test]
fn an_object_keeps_arguments_state_and_entries() {
    // NEWOBJ with a state of slots, and a subclass of dict with an entry.
    root_of(b"\x80\x02cm\nC\nK\x05\x85\x81N}U\x01fK\x07s\x86b.", |root| {
        assert_eq!(root.args().unwrap().item(0).unwrap().as_i64(), Some(5));
        assert_eq!(root.field("f").unwrap().as_i64(), Some(7));
    });
    root_of(b"\x80\x02cm\nD\n)\x81U\x01kK\x01sK\x09a.", |root| {
        assert_eq!(root.get("k").unwrap().as_i64(), Some(1));
        assert_eq!(root.item(0).unwrap().as_i64(), Some(9));
    });
}

#[test]
fn integers_of_any_length() {
    root_of(b"\x80\x02\x8a\x00.", |root| assert_eq!(root.as_i64(), Some(0)));
    root_of(b"\x80\x02\x8a\x02\xff\x7f.", |root| assert_eq!(root.as_i64(), Some(32767)));
    root_of(b"\x80\x02\x8a\x01\x80.", |root| assert_eq!(root.as_i64(), Some(-128)));
    let large = b"\x80\x02\x8a\x09\xff\xff\xff\xff\xff\xff\xff\xff\x00.";
    root_of(large, |root| assert_eq!(root.as_u64(), Some(u64::MAX)));
}

#[test]
fn paths_sets_and_numpy_numbers_become_data() {
    root_of(b"cpathlib\nPosixPath\n(U\x01/U\x01aU\x01btR.", |root| {
        assert_eq!(root.as_path().as_deref(), Some("/a/b"));
    });
    root_of(b"\x80\x02c__builtin__\nset\n](K\x01K\x02e\x85R.", |root| {
        assert_eq!(root.kind(), Kind::Set);
        assert_eq!(root.items().len(), 2);
    });
    let scalar = b"\x80\x03cnumpy.core.multiarray\nscalar\ncnumpy\ndtype\nU\x02f8K\x00K\x01\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tbC\x08\x00\x00\x00\x00\x00\x00\xf8\x3f\x86R.";
    root_of(scalar, |root| assert_eq!(root.as_f64(), Some(1.5)));
}

#[test]
fn damaged_and_hostile_pickles_are_refused_with_a_reason() {
    for (pickle, reason) in [
        (&b""[..], "ends within a value"),
        (b"\x80\x09N.", "protocol 9"),
        (b"N", "ends within a value"),
        (b".", "ends with 0 values"),
        (b"NN.", "ends with 2 values"),
        (b"(N.", "ends with"),
        (b"N.N", "1 bytes follow"),
        (b"\xff.", "0xff is no opcode"),
        (b"0.", "needs a value"),
        (b"(Na.", "needs a value"),
        (b"Nt.", "needs a mark"),
        (b"h\x05.", "no value 5"),
        (b"Nr\xff\xff\xff\x7f.", "no place 2147483647"),
        (b"X\xff\xff\xff\xffa.", "ends within a value"),
        (b"X\x01\x00\x00\x00\xff.", "not UTF-8"),
        (b"]q\x00h\x00a.", "contains itself"),
        (b"(NNNd.", "no value"),
        (b"K\x01)R.", "an int is called"),
        (b"cos\nsystem\nNR.", "the arguments of os.system are None"),
        (b"U\x01aQ.", "outside of the pickle"),
        (b"\x82\x01.", "extension registry"),
        (b"c_codecs\nencode\n)R.", "_codecs.encode: argument 1 is missing"),
        (b"NNb.", "cannot have a state"),
    ] {
        let message = refusal(pickle);
        assert!(message.contains(reason), "{pickle:?}: {message}");
    }
}

/// A pickle of a few bytes must not describe a huge or deep tree.
#[test]
fn bombs_are_refused() {
    let mut doubling = b"\x80\x02]q\x00".to_vec();
    for place in 0..64u8 {
        doubling.extend([b'0', b']', b'(', b'h', place, b'h', place, b'e', b'q', place + 1]);
    }
    doubling.push(b'.');
    assert!(refusal(&doubling).contains("shared values"), "{}", refusal(&doubling));

    let mut deep = vec![b']'; 100_000];
    deep.extend(vec![b'a'; 99_999]);
    deep.push(b'.');
    assert!(refusal(&deep).contains("nested more than"), "{}", refusal(&deep));

    // One long string, encoded again and again.
    let mut copies = b"\x80\x02](c_codecs\nencode\nq\x01X\x00\x10\x00\x00".to_vec();
    copies.extend(vec![b'x'; 0x1000]);
    copies.extend(b"U\x06latin1\x86q\x02R");
    copies.extend(b"h\x01h\x02R".repeat(1000));
    copies.extend(b"e.");
    assert!(refusal(&copies).contains("copies shared values"), "{}", refusal(&copies));
}

#[test]
fn what_is_written_is_read() {
    let item = Item::Dict(vec![
        (Item::text("numbers"), Item::List([0, 255, 256, 65536, -1, i64::MIN, i64::MAX].map(Item::Int).to_vec())),
        (
            Item::text("tuple"),
            Item::Tuple(vec![Item::Float(-0.5), Item::None, Item::Bool(false), Item::text("numbers")]),
        ),
        (Item::text("bytes"), Item::Bytes(vec![0, 127, 128, 255])),
        (Item::text("size"), Item::size(&[3, 4])),
        (Item::text("dtype"), Item::DType(DType::Bfloat16)),
        (Item::text("ordered"), Item::OrderedDict(vec![(Item::Int(1), Item::Tuple(vec![]))])),
        (
            Item::text("object"),
            Item::Object { module: "m", name: "C", state: Some(Box::new(Item::dict([("f", Item::Int(1))]))) },
        ),
    ]);
    for protocol in [Protocol::Two, Protocol::Four] {
        root_of(&write(&item, protocol), |root| {
            let numbers: Vec<i64> = root.get("numbers").unwrap().items().filter_map(Value::as_i64).collect();
            assert_eq!(numbers, [0, 255, 256, 65536, -1, i64::MIN, i64::MAX]);
            assert_eq!(root.get("tuple").unwrap().item(3).unwrap().as_str(), Some("numbers"));
            assert_eq!(root.get("bytes").unwrap().kind(), Kind::Bytes(&[0, 127, 128, 255]));
            assert_eq!(root.get("size").unwrap().items().filter_map(Value::as_u64).collect::<Vec<_>>(), [3, 4]);
            assert_eq!(root.get("dtype").unwrap().kind(), Kind::DType(DType::Bfloat16));
            assert_eq!(root.get("ordered").unwrap().entries().len(), 1);
            assert_eq!(root.get("object").unwrap().field("f").unwrap().as_i64(), Some(1));
        });
    }
}
