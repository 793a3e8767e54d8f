//! What the kernel's tracepoints tell of packets that it could not transmit, run with their arguments by hand. Whose packets
//! `xdp_devmap_xmit` and `xdp_exception` tell of stands in the kernel's own structures: that is tried end to end.

use aya::{
    TestRun as _,
    maps::Array,
    programs::{RawTracePoint, RawTracePointRunOptions},
};
use lvx_dataplane::Node;
use lvx_test_kit::network::{INSIDE, OUTSIDE};
use xdp_common::verdict::Verdict;

use crate::balancer::{Balancer, sizes};

const EMSGSIZE: i32 = 90;
const ENETDOWN: i32 = 100;

/// Runs the program of a tracepoint with these arguments.
fn run(balancer: &mut Balancer, program: &str, arguments: &[u64]) {
    let program = balancer.tables.ebpf().program_mut(program).unwrap();
    let program: &mut RawTracePoint = program.try_into().unwrap();
    let mut options = RawTracePointRunOptions::default();
    options.args[..arguments.len()].copy_from_slice(arguments);
    program.test_run(options).unwrap();
}

/// What was counted as lost, on the way out and on the way in.
fn lost(balancer: &Balancer) -> [Vec<(Verdict, u64)>; 2] {
    [INSIDE, OUTSIDE].map(|ifindex| {
        let mut verdicts = balancer.verdicts(ifindex);
        verdicts.retain(|(verdict, packets)| Verdict::LOST.contains(verdict) && *packets > 0);
        verdicts
    })
}

#[test]
fn a_redirect_through_our_devmap_that_fails_is_counted_on_the_way_out_by_its_reason() {
    let mut balancer = Balancer::on(sizes(), Node::default());
    assert_eq!(
        balancer.tables.count_losses(),
        Ok(()),
        "this kernel has the tracepoints"
    );
    let filter = balancer.tables.ebpf().map("LOSS_FILTER").unwrap();
    let [ours, former, ..] = Array::<_, [u32; 6]>::try_from(filter).unwrap().get(&0, 0).unwrap();
    assert_eq!(former, 0, "nobody came before");
    let slot = balancer.tables.slot_of(INSIDE).unwrap();
    let mut fail = |error: i32, devmap: u32, slot: u32| {
        let arguments = [
            0,
            0,
            0,
            i64::from(-error) as u64,
            14,
            u64::from(devmap),
            u64::from(slot),
        ];
        run(&mut balancer, "lvx_redirect_err", &arguments);
    };
    for (error, times) in [(EMSGSIZE, 3), (ENETDOWN, 1)] {
        (0..times).for_each(|_| fail(error, ours, slot));
    }
    fail(EMSGSIZE, ours + 1, slot);
    fail(EMSGSIZE, 0, slot);
    fail(EMSGSIZE, ours, 1 << 20);
    let counted = vec![(Verdict::LostTooLong, 3), (Verdict::LostLinkDown, 1)];
    assert_eq!(lost(&balancer), [counted, Vec::new()]);
}

#[test]
fn a_device_that_cannot_be_read_counts_for_nobody() {
    let mut balancer = Balancer::on(sizes(), Node::default());
    assert_eq!(balancer.tables.count_losses(), Ok(()));
    let nowhere = 0x10;
    run(&mut balancer, "lvx_devmap_xmit", &[nowhere, nowhere, 0, 5, 0]);
    run(&mut balancer, "lvx_exception", &[nowhere, nowhere, 3]);
    assert_eq!(lost(&balancer), [Vec::new(), Vec::new()]);
}
