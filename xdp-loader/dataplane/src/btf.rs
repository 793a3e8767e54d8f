//! Where fields of the kernel's own structures stand, by its type information (Documentation/bpf/btf.rst).

use std::collections::BTreeMap;

/// `BTF_MAGIC`, as this machine writes it.
const MAGIC: u16 = 0xEB9F;
/// Bytes of a type before what depends on its kind: name, info, and a size or another type.
const TYPE: usize = 12;
/// `BTF_KIND_STRUCT` and its kin (linux/btf.h).
mod kind {
    pub const INT: u32 = 1;
    pub const ARRAY: u32 = 3;
    pub const STRUCT: u32 = 4;
    pub const UNION: u32 = 5;
    pub const ENUM: u32 = 6;
    pub const FUNC_PROTO: u32 = 13;
    pub const VAR: u32 = 14;
    pub const DATASEC: u32 = 15;
    pub const DECL_TAG: u32 = 17;
    pub const ENUM64: u32 = 19;
}

/// The fields asked for, and their offsets in bytes: structure and field by name. None where the information does not have
/// all of them, or is not what it should be.
pub(crate) fn offsets<const N: usize>(btf: &[u8], fields: [(&str, &str); N]) -> Option<[u32; N]> {
    if u16::from_ne_bytes(btf.get(..2)?.try_into().ok()?) != MAGIC {
        return None;
    }
    let header = word(btf, 4)? as usize;
    let section = |at: usize| -> Option<&[u8]> {
        let (start, length) = (word(btf, at)? as usize + header, word(btf, at + 4)? as usize);
        btf.get(start..start + length)
    };
    let (types, names) = (section(8)?, section(16)?);
    let mut found: BTreeMap<usize, u32> = BTreeMap::new();
    let mut at = 0;
    while at < types.len() && found.len() < N {
        let (name, info) = (word(types, at)?, word(types, at + 4)?);
        let (entries, kind, by_bits) = (info as usize & 0xFFFF, info >> 24 & 0x1F, info >> 31 != 0);
        at += TYPE;
        if kind == kind::STRUCT {
            let name = text(names, name)?;
            for (wanted, (_, field)) in fields.iter().enumerate().filter(|(_, (of, _))| *of == name) {
                for member in (0..entries).map(|entry| at + TYPE * entry) {
                    if text(names, word(types, member)?)? == *field {
                        // Structures with bit fields tell the width of each above its offset.
                        let bits = word(types, member + 8)? & if by_bits { 0xFF_FFFF } else { u32::MAX };
                        found.insert(wanted, bits / 8);
                    }
                }
            }
        }
        at += match kind {
            kind::INT | kind::VAR | kind::DECL_TAG => 4,
            kind::ARRAY => 12,
            kind::STRUCT | kind::UNION | kind::DATASEC | kind::ENUM64 => 12 * entries,
            kind::ENUM | kind::FUNC_PROTO => 8 * entries,
            _ => 0,
        };
    }
    let all: Vec<u32> = found.into_values().collect();
    all.try_into().ok()
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// A name, up to the zero that ends it.
fn text(names: &[u8], at: u32) -> Option<&str> {
    let name = names.get(at as usize..)?.split(|byte| *byte == 0).next()?;
    std::str::from_utf8(name).ok()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test that fails should fail loudly")]

    use super::*;

    fn words(words: &[u32]) -> Vec<u8> {
        words.iter().flat_map(|word| word.to_ne_bytes()).collect()
    }

    /// A header, these types and these names.
    fn btf(types: &[u32], names: &[u8]) -> Vec<u8> {
        let (types, header) = (words(types), 24);
        let (length, names_length) = (types.len() as u32, names.len() as u32);
        let magic = [&MAGIC.to_ne_bytes()[..], &[1, 0]].concat();
        let sizes = words(&[header, 0, length, length, names_length]);
        [magic, sizes, types, names.to_vec()].concat()
    }

    #[test]
    fn a_field_is_found_behind_types_of_other_kinds() {
        let names = b"\0int\0pair\0one\0two\0";
        let types = [
            // An int, an array of it, and an enumeration without a name with one value.
            [1, kind::INT << 24, 4].as_slice(),
            &[32],
            &[0, kind::ARRAY << 24, 0, 1, 1, 2],
            &[0, kind::ENUM << 24 | 1, 4, 10, 0],
            // Fields at 32 and, in a structure with bit fields, at 64 bits.
            &[5, kind::STRUCT << 24 | 2, 8, 10, 1, 0, 14, 1, 32],
            &[1, kind::STRUCT << 24 | 1 << 31 | 1, 16, 10, 1, 7 << 24 | 64],
        ]
        .concat();
        let btf = btf(&types, names);
        assert_eq!(offsets(&btf, [("pair", "two"), ("int", "one")]), Some([4, 8]));
        assert_eq!(offsets(&btf, [("pair", "three")]), None);
        assert_eq!(offsets(&btf[..60], [("pair", "two")]), None, "cut short");
        assert_eq!(offsets(b"no BTF at all", [("pair", "two")]), None);
    }

    #[test]
    fn this_kernel_tells_where_a_devices_index_stands() {
        let Ok(btf) = std::fs::read("/sys/kernel/btf/vmlinux") else {
            return;
        };
        let [ifindex] = offsets(&btf, [("net_device", "ifindex")]).unwrap();
        assert!(ifindex > 0 && ifindex.is_multiple_of(4), "{ifindex}");
    }
}
