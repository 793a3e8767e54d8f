//! Forwarding methods.

use super::names::named;

named! {
    // `fullnat` and `tunnel` come later; each is one more line here and an arm where the compiler asks for it.
    /// How packets are brought to a backend.
    Forward, "forwarding method" {
        /// Direct routing: only the MAC addresses change, the backend answers the client itself.
        #[default]
        Dr = "dr",
        /// Address and port are rewritten both ways; the backend's answers come back through the balancer.
        Nat = "nat",
    }
}
