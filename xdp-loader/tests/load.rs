use aya::{EbpfLoader, programs::Xdp, VerifierLogLevel};
#[test]
fn load() {
    let mut loader = EbpfLoader::new();
    loader.verifier_log_level(VerifierLogLevel::VERBOSE | VerifierLogLevel::STATS);
    loader.map_max_entries("ENDPOINTS_V4", 4096).map_max_entries("ENDPOINTS_V6", 4096).map_max_entries("SERVICES", 1024).map_max_entries("BACKENDS", 4096)
     .map_max_entries("TURNS", 1024).map_max_entries("FLOWS_V4", 4096).map_max_entries("FLOWS_V6", 4096).map_max_entries("HOPS_V4", 4096).map_max_entries("HOPS_V6", 4096)
     .map_max_entries("BACKEND_COUNTERS", 4096).map_max_entries("VERDICT_COUNTERS", 128);
    let (a,b,c,d)=(4095u32,4095u32,2047u32,2048u32);
    loader.override_global("FLOWS_V4_MASK",&a,true).override_global("FLOWS_V6_MASK",&b,true).override_global("ENDPOINTS_MASK",&c,true).override_global("BACKENDS_SIZE",&d,true);
    let mut bpf = loader.load(aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/lvx-xdp"))).unwrap();
    let p: &mut Xdp = bpf.program_mut("lvx").unwrap().try_into().unwrap();
    if let Err(e)=p.load() { let s=format!("{e:?}"); std::fs::write("/tmp/verifier.txt", s.replace("\\n","\n").replace("\\t","\t")).unwrap(); panic!("load failed"); }
    let i=p.info().unwrap(); println!("xlated {:?} jited {} verified {:?}", i.size_translated(), i.size_jitted(), i.verified_instruction_count());
}
