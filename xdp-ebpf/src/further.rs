//! Further: the programs in which the way of a rarer packet goes on.

use aya_ebpf::programs::XdpContext;
use xdp_common::{layout::Further, verdict::Verdict};

use crate::{Env, end::End, maps};

/// Leaves this program for another. Returns only if that is not there.
#[inline(always)]
pub fn go(env: &Env, further: Further) -> End {
    // SAFETY: nothing here waits to be dropped.
    unsafe { maps::FURTHER.tail_call(&XdpContext::new(env.context), further as u32) };
    End::Drop(Verdict::DroppedNoProgram)
}
