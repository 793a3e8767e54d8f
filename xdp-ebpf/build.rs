//! Tells bpf-linker which instructions it may use.

fn main() {
    println!("cargo::rustc-check-cfg=cfg(bpf_target_arch, values(\"x86_64\"))");
    // Headers stand at odd places of a frame. The kernels that XDP is used on load misaligned words as they are; without
    // this, LLVM takes each apart into bytes. 32-bit compare-and-exchange needs alu32 (BPF v3, kernel 5.12).
    println!("cargo::rustc-link-arg-bins=--cpu-features=+alu32,+allows-misaligned-mem-access");
}
