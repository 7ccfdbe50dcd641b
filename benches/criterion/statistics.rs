//! The same contenders under criterion, for whoever wants distributions, outliers and comparisons between runs.
//! One after the other, not in turns: compare a contender with itself here, and contenders in the table.

use std::time::{Duration, Instant};

use aegis_benches::{
    Access, Churn, Contender, DashSet, Ours, PapayaSet, PerOrigin, Resting, Ring, SccSet, Scene, Sets, Stack,
    fill, refusal,
};
use criterion::{Criterion, criterion_group, criterion_main};

const SCENE: Scene = Scene { granule: 2_048, granules: 1, origins: 1 };

fn timed(run: impl FnOnce()) -> Duration {
    let start = Instant::now();
    run();
    start.elapsed()
}

fn pairs(criterion: &mut Criterion) {
    fn one<C: Contender>(criterion: &mut Criterion, percent: u32, name: &str, contender: C) {
        let mut churn = Churn::new(contender, SCENE, SCENE.ports() * percent / 100);
        let mut group = criterion.benchmark_group(format!("acquire+release/{percent}%"));
        group.bench_function(name, |b| b.iter_custom(|n| timed(|| churn.pairs(n))));
        group.finish();
    }
    for percent in [0, 50, 80, 95, 99] {
        let ours = |resting| Ours::new(SCENE, Access::Handle, resting);
        one(criterion, percent, "ours", ours(Resting::Default));
        one(criterion, percent, "ours, rest off", ours(Resting::Off));
        one(criterion, percent, "dashmap", Sets::<DashSet>::new(SCENE));
        one(criterion, percent, "papaya", Sets::<PapayaSet>::new(SCENE));
        one(criterion, percent, "scc", Sets::<SccSet>::new(SCENE));
        one(criterion, percent, "ring", PerOrigin::<Ring>::new(SCENE, Access::Handle));
        one(criterion, percent, "mutexed stack", PerOrigin::<Stack>::new(SCENE, Access::Handle));
    }
}

fn refusals(criterion: &mut Criterion) {
    let mut ours = Ours::new(SCENE, Access::Handle, Resting::Default);
    drop(fill(&mut ours, SCENE, SCENE.ports()));
    criterion.bench_function("refusal/ours", |b| b.iter_custom(|n| timed(|| refusal(&mut ours, n))));
}

criterion_group! {
    name = statistics;
    config = Criterion::default().warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(1));
    targets = pairs, refusals
}
criterion_main!(statistics);
