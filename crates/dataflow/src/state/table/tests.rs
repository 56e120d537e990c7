use super::super::bytes::{Reader, Writer};
use super::*;
use arrow_array::{Int32Array, UInt64Array};
use arrow_schema::DataType;
use std::collections::HashMap;
use weir_base::Rng;

fn check(types: &[DataType], columns: impl Fn(&[Option<u64>]) -> Vec<ArrayRef>) {
    let form = KeyForm::of(types).unwrap();
    let mut layout = Layout::default();
    let hash = GroupTable::reserve(&form, &mut layout);
    let mut table = GroupTable::new(&form, hash, &layout);
    let rng = Rng::seeded(7);
    let mut model: HashMap<Option<u64>, u32> = HashMap::new();
    let mut order = Vec::new();
    for round in 0..30 {
        let keys: Vec<Option<u64>> =
            (0..500).map(|_| Some(rng.below(3_000)).filter(|k| k % 41 != 0)).collect();
        let batch = form.encode(&columns(&keys), keys.len()).unwrap();
        let listed: Vec<u32> = (0..500).filter(|i| i % 3 != 1).collect();
        let picked = if round % 2 == 0 { Picked::all(500) } else { Picked::Listed(&listed) };
        let mut groups = Vec::new();
        table.intern(&batch, picked, &mut groups).unwrap();
        for (i, group) in groups.iter().enumerate() {
            let key = keys[picked.at(i)];
            let expected = *model.entry(key).or_insert_with(|| {
                order.push(key);
                order.len() as u32 - 1
            });
            assert_eq!(*group, expected, "{key:?} in round {round}");
        }
        if round == 20 {
            // As a restore does: key by key.
            let mut saved = Writer::default();
            (0..table.len() as u32).for_each(|g| table.key(g).save(&mut saved));
            let mut again = GroupTable::new(&form, hash, &layout);
            let mut from = Reader(&saved.0);
            for group in 0..table.len() as u32 {
                let key = Key::load(&mut from).unwrap();
                assert_eq!(again.intern_one(key, key.hash()).unwrap(), group);
                assert_eq!(again.intern_one(key, key.hash()).unwrap(), group);
            }
            assert_eq!(from.0, [0u8; 0]);
            table = again;
        }
    }
    let mut groups: Vec<u32> = (0..table.len() as u32).collect();
    assert_eq!(&table.key_columns(&form, &groups).unwrap(), &columns(&order));
    groups = table.sorted(&form);
    let by_key = |w: &[u32]| compare(&form, table.key(w[0]), table.key(w[1])) == Ordering::Less;
    assert!(groups.windows(2).all(by_key));
    let mut sorted = order.clone();
    sorted.sort();
    assert_eq!(&table.key_columns(&form, &groups).unwrap(), &columns(&sorted));
}

#[test]
fn integers() {
    check(&[DataType::UInt64], |k| vec![Arc::new(k.iter().copied().collect::<UInt64Array>())]);
    check(&[DataType::Int32], |k| {
        vec![Arc::new(k.iter().map(|v| v.map(|v| v as i32 - 10)).collect::<Int32Array>())]
    });
}

#[test]
fn strings_and_several_columns() {
    let text = |k: &[Option<u64>]| -> ArrayRef {
        Arc::new(k.iter().map(|v| v.map(|v| format!("key {v:09}"))).collect::<StringArray>())
    };
    check(&[DataType::Utf8], |k| vec![text(k)]);
    check(&[DataType::UInt64, DataType::Utf8], |k| {
        vec![Arc::new(k.iter().map(|v| v.map(|v| v / 7)).collect::<UInt64Array>()), text(k)]
    });
}

#[test]
fn marks_are_given_once_until_cleaned() {
    let form = KeyForm::of(&[DataType::UInt64]).unwrap();
    let mut layout = Layout::default();
    GroupTable::reserve(&form, &mut layout);
    let mut table = GroupTable::new(&form, None, &layout);
    let keys: ArrayRef = Arc::new(UInt64Array::from_iter_values(0..200));
    let mut groups = Vec::new();
    table.intern(&form.encode(&[keys], 200).unwrap(), Picked::all(200), &mut groups).unwrap();
    table.mark(&[3, 3, 150]);
    table.mark(&[150, 2]);
    assert_eq!(table.changed(), [3, 150, 2]);
    table.clean();
    assert_eq!(table.changed(), [0u32; 0]);
    table.mark(&[150]);
    assert_eq!(table.changed(), [150]);
}
