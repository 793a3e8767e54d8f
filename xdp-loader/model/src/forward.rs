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

impl Forward {
    /// What of a backend's connections is not seen under this method, in words for those who wait for their end; `None` where both
    /// directions are seen.
    #[must_use]
    pub const fn unseen(self) -> Option<&'static str> {
        match self {
            Self::Dr => Some(
                "under dr only the clients' packets are seen: the backend may still send on connections that count as over",
            ),
            Self::Nat => None,
        }
    }
}
