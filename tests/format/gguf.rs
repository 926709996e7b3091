use std::sync::Arc;

use etalon::format::{Bytes, GgmlType, Gguf, Mapped, Scalar, Value, pack, unpack};
use etalon::quant::Packed;

use super::{GgufBuilder, array, fixture, floats};

fn parse(builder: &GgufBuilder) -> etalon::Result<Gguf> {
    Gguf::parse(Arc::new(Bytes::new("test.gguf", builder.build())))
}

fn error(builder: &GgufBuilder) -> String {
    parse(builder).unwrap_err().to_string()
}

/// Every value as the `gguf` package decodes it, bit for bit, in at most 1.05 times the file's bytes.
#[test]
fn block_types_keep_their_values() {
    let gguf = Gguf::parse(Arc::new(Mapped::open(&fixture("gguf/types.gguf")).unwrap())).unwrap();
    let (mut quantised, mut written) = (0, 0);
    for info in gguf.tensors.values() {
        let kind = info.name.strip_prefix("blk.0.").unwrap();
        assert_eq!(info.ty.name(), kind);
        let expected = array(&format!("gguf/{kind}.npy"));
        assert_eq!(info.shape, expected.shape, "{kind}");
        if info.ty.quant_format().is_none() {
            continue;
        }
        let packed = pack(info.ty, &gguf.bytes(info).unwrap(), info.shape[0], info.shape[1]).unwrap();
        for (at, (a, b)) in packed.decode().iter().zip(expected.as_f32().unwrap()).enumerate() {
            assert_eq!(a.to_bits(), b.to_bits(), "{kind}, element {at}: {a} for {b}");
        }
        let ratio = packed.bytes() as f64 / info.bytes as f64;
        assert!(ratio <= 1.05, "{kind} takes {ratio} of the file's bytes");
        assert_eq!(codes_packed_again(&packed), packed, "{kind}");
        if GgmlType::holding(&packed.format) == Some(info.ty) {
            assert_eq!(unpack(&packed).unwrap(), (info.ty, gguf.bytes(info).unwrap().into_owned()), "{kind}");
            written += 1;
        } else {
            assert!(unpack(&packed).is_err(), "{kind}");
        }
        quantised += 1;
    }
    assert_eq!((quantised, written), (11, 3));
}

/// `code` and `Packed::pack` are each other's inverse.
fn codes_packed_again(packed: &Packed) -> Packed {
    let codes: Vec<u8> = (0..packed.rows * packed.cols).map(|i| packed.code(i / packed.cols, i % packed.cols) as u8).collect();
    Packed::pack(packed.format, packed.rows, packed.cols, &codes, packed.scales.clone()).unwrap()
}

#[test]
fn metadata_is_typed() {
    let gguf = Gguf::parse(Arc::new(Mapped::open(&fixture("gguf/types.gguf")).unwrap())).unwrap();
    assert_eq!(gguf.u32("test.u32").unwrap(), 7);
    assert_eq!(gguf.f32("test.f32").unwrap(), 0.1);
    assert!(gguf.bool("test.bool").unwrap());
    assert_eq!(gguf.str("test.string").unwrap(), "tokens \u{2192}");
    assert_eq!(gguf.strings("test.strings").unwrap(), ["a", "", "\u{e9}"]);
    assert_eq!(gguf.u32s("test.numbers").unwrap(), [3, 1, 2]);
    assert!(matches!(gguf.metadata["test.numbers"], Value::Numbers { kind: Scalar::I32, .. }));
    assert!(gguf.u32("test.f32").unwrap_err().to_string().contains("test.f32"));
    assert!(gguf.str("test.none").unwrap_err().to_string().contains("test.none: the key is missing"));
}

#[test]
fn version_2_is_read_and_others_are_named() {
    let mut bytes = GgufBuilder::default().u32("k", 1).tensor("t", &[4], 0, floats(4)).build();
    let mut with_version = |version: [u8; 4]| {
        bytes[4..8].copy_from_slice(&version);
        Gguf::parse(Arc::new(Bytes::new("test.gguf", bytes.clone())))
    };
    assert!(with_version([2, 0, 0, 0]).is_ok());
    assert!(with_version([1, 0, 0, 0]).unwrap_err().to_string().contains("version 1"));
    assert!(with_version([0, 0, 0, 3]).unwrap_err().to_string().contains("big-endian"));
    assert!(with_version([9, 0, 0, 0]).unwrap_err().to_string().contains("version"));
}

#[test]
fn impossible_tensors_are_named() {
    let good = || GgufBuilder::default().tensor("first", &[8], 0, floats(8));
    assert!(parse(&good()).is_ok());
    for (what, builder, word) in [
        ("the same name", good().tensor("first", &[8], 0, floats(8)), "two tensors"),
        ("overlap", good().tensor_at("second", &[8], 0, 0, floats(8)), "second: overlaps"),
        ("past the end", good().tensor_at("second", &[8], 0, 1 << 40, floats(8)), "second"),
        ("overflowing offset", good().tensor_at("second", &[8], 0, !31, floats(8)), "second"),
        ("unaligned", good().tensor_at("second", &[8], 0, 33, floats(8)), "second"),
        ("unknown type", good().tensor("second", &[8], 77, floats(8)), "second: GGML type 77"),
        ("no dimensions", good().tensor("second", &[], 0, floats(8)), "second"),
        ("five dimensions", good().tensor("second", &[1, 1, 1, 1, 8], 0, floats(8)), "second"),
        ("a dimension of 0", good().tensor("second", &[8, 0], 0, floats(8)), "second"),
        ("huge dimensions", good().tensor("second", &[1 << 40, 1 << 40], 0, floats(8)), "second"),
        ("half a block", good().tensor("second", &[8], 2, floats(8)), "second"),
        ("a key twice", good().u32("key", 1).u32("key", 2), "key"),
        ("an unknown value type", good().key("key", 13, &[0; 8]), "key"),
        ("a nested array", good().array("key", 9, 1, &[0; 16]), "key"),
        ("a long array", good().array("key", 4, 1 << 60, &[0; 16]), "key"),
        ("many strings", good().array("key", 8, 1 << 60, &[0; 16]), "key"),
        ("alignment 0", good().u32("general.alignment", 0), "general.alignment"),
        ("alignment 24", good().u32("general.alignment", 24), "general.alignment"),
    ] {
        let message = error(&builder);
        assert!(message.contains(word), "{what}: {message}");
    }
}
