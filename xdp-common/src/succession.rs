//! Succession: what a dataplane tells the one that comes after it, in a form that does not change with the layouts.
//!
//! A new dataplane cannot read the maps of an old one whose layouts it does not know; but the old one's programs can. So each
//! brings two more than packets need: `lvx_tell`, which answers questions about services, backends, interfaces and flows, and
//! `lvx_find`, through which a packet of a flow that has not been copied yet goes: it looks the flow up, leaves what it
//! [`Found`], and goes on in the successor. Both are pinned with the maps.
//!
//! Everything here is an agreement between versions: it is changed only by adding, and [`ABI`] with it if an older
//! dataplane would misunderstand.

mod find;
mod records;
mod tell;

pub use self::{
    find::find,
    records::{
        ABI, BackendRecord, CounterRecord, FRAME, Facts, FlowRecord, Found, InterfaceRecord, Question, RECORD, RECORDS,
        ServiceRecord, Topic, VerdictRecord, successor,
    },
    tell::tell,
};
