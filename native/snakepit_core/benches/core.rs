//! Timings of the core's operations: `cargo bench -p snakepit_core`.

mod work;

use criterion::{Criterion, criterion_group, criterion_main};

fn core(c: &mut Criterion) {
    for (name, mut operation) in work::operations() {
        let mut n = 0;
        c.bench_function(name, |b| {
            b.iter(|| {
                n += 1;
                operation(n);
            })
        });
    }
}

criterion_group!(benches, core);
criterion_main!(benches);
