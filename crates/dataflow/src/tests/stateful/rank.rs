//! Ranks within result sets, against counting the rows that go before.

use crate::op::rank::Rank;
use crate::{InputId, Operator, Output};
use arrow_array::cast::AsArray;
use arrow_array::types::{Int64Type, UInt64Type};
use arrow_array::{Int64Array, RecordBatch};
use arrow_schema::{DataType, Field, Schema};
use datafusion_physical_expr::expressions::col;
use std::sync::Arc;
use weir_base::Rng;
use weir_plan::{Element, RankKind, RankSpec, Rows, SortKey};

#[test]
fn ranks_count_the_rows_before() {
    let input = Arc::new(Schema::new(vec![
        Field::new("k", DataType::Int64, false),
        Field::new("x", DataType::Int64, false),
    ]));
    let kinds = [RankKind::RowNumber, RankKind::Rank, RankKind::DenseRank];
    let outputs: Vec<_> =
        (0..3).map(|i| (kinds[i], Arc::new(Field::new(format!("r{i}"), DataType::UInt64, false)))).collect();
    let mut fields: Vec<_> = input.fields().iter().cloned().collect();
    fields.extend(outputs.iter().map(|(_, f)| f.clone()));
    let schema = Arc::new(Schema::new(fields));
    for seed in 0..50 {
        let rng = Rng::seeded(seed);
        let descending = rng.below(2) == 0;
        let partition = if rng.below(3) == 0 { vec![] } else { vec![col("k", &input).unwrap()] };
        let by_key = !partition.is_empty();
        let order = vec![SortKey { expr: col("x", &input).unwrap(), descending, nulls_first: false }];
        let spec = RankSpec { partition, order, functions: outputs.clone() };
        let mut rank = Rank::new(&spec, 2, schema.clone(), &input).unwrap();
        let rows: Vec<(i64, i64)> =
            (0..rng.below(40) + 1).map(|_| (rng.below(3) as i64, rng.below(6) as i64)).collect();
        let batch = RecordBatch::try_new(
            input.clone(),
            vec![
                Arc::new(rows.iter().map(|r| Some(r.0)).collect::<Int64Array>()),
                Arc::new(rows.iter().map(|r| Some(r.1)).collect::<Int64Array>()),
            ],
        )
        .unwrap();
        let mut out = Output::default();
        rank.rows(InputId(0), Rows::append(batch), &mut out).unwrap();
        let Some(Element::Rows(ranked)) = out.elements.pop() else { panic!("no rows") };
        let column = |i: usize| ranked.batch.column(i).as_primitive::<UInt64Type>().values().to_vec();
        let (numbers, ranks, dense) = (column(2), column(3), column(4));
        let xs = ranked.batch.column(1).as_primitive::<Int64Type>().values().to_vec();
        for (i, (k, x)) in rows.iter().enumerate() {
            assert_eq!(xs[i], *x, "rows keep their places");
            let before = |y: i64| if descending { y > *x } else { y < *x };
            let mine: Vec<(usize, i64)> = rows
                .iter()
                .enumerate()
                .filter(|(_, r)| !by_key || r.0 == *k)
                .map(|(j, r)| (j, r.1))
                .collect();
            let ahead = mine.iter().filter(|(_, y)| before(*y)).count() as u64;
            let ties = mine.iter().filter(|(j, y)| y == x && *j < i).count() as u64;
            let mut values: Vec<i64> = mine.iter().map(|(_, y)| *y).filter(|y| before(*y)).collect();
            values.sort_unstable();
            values.dedup();
            let expected = (ahead + ties + 1, ahead + 1, values.len() as u64 + 1);
            assert_eq!((numbers[i], ranks[i], dense[i]), expected, "seed {seed}, row {i}");
        }
    }
}
