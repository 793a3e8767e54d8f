//! The predecessor: the dataplane in force when a daemon starts, whatever its layouts. It is asked through its own programs
//! ([`xdp_common::succession`]).

use std::{collections::BTreeMap, path::PathBuf};

use aya::{
    TestRun as _, TestRunOptions,
    maps::{Map, MapData, ProgramArray},
    programs::{ProgramFd, Xdp},
};
use aya_obj::programs::XdpAttachType;
use xdp_common::{
    layout::{BackendCounters, INTERFACE_BUCKETS, MAX_INTERFACES},
    succession::{
        ABI, BackendRecord, CounterRecord, FRAME, Facts, FlowRecord, InterfaceRecord, Question, RECORDS, ServiceRecord,
        Topic, VerdictRecord, successor,
    },
};

use super::{
    Error, counters,
    generation::{Generation, PROGRAMS},
    repair::repair,
};

/// The dataplane in force before this daemon's.
pub struct Predecessor {
    generation: Generation,
    lvx: Xdp,
    find: Xdp,
    tell: Xdp,
    facts: Facts,
    cpus: u32,
}

impl Predecessor {
    /// The dataplane of a generation. Pins that somebody has removed are put back, as far as the kernel lets them be found; if
    /// that does not do, it cannot be asked any more.
    ///
    /// # Errors
    ///
    /// If it does not answer although it is there.
    pub fn open(generation: Generation, cpus: u32) -> Result<Option<Self>, Error> {
        repair(&generation);
        if PROGRAMS.iter().any(|name| !generation.program(name).exists()) {
            return Ok(None);
        }
        let program = |name| Xdp::from_pin(generation.program(name), XdpAttachType::Interface);
        let (lvx, find, tell) = (program("lvx")?, program("lvx_find")?, program("lvx_tell")?);
        let mut predecessor = Self {
            generation,
            lvx,
            find,
            tell,
            facts: Facts::default(),
            cpus,
        };
        predecessor.facts = predecessor.ask::<Facts>(Topic::Facts, 0, 0)?.pop().unwrap_or_default();
        if predecessor.facts.backends == 0 {
            return Err(Error::Predecessor("it tells nothing of itself".to_owned()));
        }
        Ok(Some(predecessor))
    }

    /// The dataplane as a whole.
    #[must_use]
    pub fn facts(&self) -> &Facts {
        &self.facts
    }

    /// The pin of one of its maps, if that is there.
    #[must_use]
    pub fn map(&self, name: &str) -> Option<PathBuf> {
        Some(self.generation.map(name)).filter(|path| path.exists())
    }

    /// Its pins.
    #[must_use]
    pub fn generation(&self) -> &Generation {
        &self.generation
    }

    /// The program that is attached.
    pub fn lvx(&mut self) -> &mut Xdp {
        &mut self.lvx
    }

    /// The descriptors of the programs that packets come to from its successor: the one that is attached, and the one that
    /// finds flows.
    ///
    /// # Errors
    ///
    /// If they are not there.
    pub fn programs(&self) -> Result<[&ProgramFd; 2], Error> {
        Ok([self.lvx.fd()?, self.find.fd()?])
    }

    /// Says in which programs packets go on whose flow was looked up.
    ///
    /// # Errors
    ///
    /// If the kernel does not take them.
    pub fn set_successor(&self, programs: &[(u32, &ProgramFd)]) -> Result<(), Error> {
        let map = MapData::from_pin(self.generation.map("SUCCESSOR"))?;
        let mut successor = ProgramArray::try_from(Map::ProgramArray(map))?;
        for (place, program) in programs {
            successor.set(*place, program, 0)?;
        }
        Ok(())
    }

    /// Takes the programs of a successor out again: it holds them, and their maps, in memory.
    ///
    /// # Errors
    ///
    /// If the kernel does not say which there are.
    pub fn clear_successor(&self) -> Result<(), Error> {
        let map = MapData::from_pin(self.generation.map("SUCCESSOR"))?;
        let mut programs = ProgramArray::try_from(Map::ProgramArray(map))?;
        for place in 0..successor::PLACES as u32 {
            // An empty place is as it should be.
            let _ = programs.clear_index(&place);
        }
        Ok(())
    }

    /// Asks; the records are those of a value that `R` is the form of.
    fn ask<R: Copy>(&self, topic: Topic, first: u32, cpu: u32) -> Result<Vec<R>, Error> {
        let question = Question {
            abi: ABI,
            topic: topic as u32,
            first,
            cpu,
            ..Question::default()
        };
        let mut frame = [0_u8; FRAME];
        // SAFETY: a question is words without holes between them, and shorter than the frame.
        unsafe { frame.as_mut_ptr().cast::<Question>().write_unaligned(question) };
        let mut answer = [0_u8; FRAME];
        self.tell.test_run(TestRunOptions {
            data_in: Some(&frame),
            data_out: Some(&mut answer),
            ..TestRunOptions::default()
        })?;
        // SAFETY: any bytes are a question.
        let told = unsafe { answer.as_ptr().cast::<Question>().read_unaligned() };
        let records = told.records as usize;
        if told.abi != 0 || records * size_of::<R>() > FRAME - size_of::<Question>() {
            return Err(Error::Predecessor("it does not answer".to_owned()));
        }
        Ok((0..records)
            // SAFETY: any bytes are a record of any kind, and so many are within the answer.
            .map(|place| unsafe {
                let start = answer.as_ptr().add(size_of::<Question>());
                start.cast::<R>().add(place).read_unaligned()
            })
            .collect())
    }

    /// Asks for all of something that is numbered.
    fn ask_all<R: Copy>(&self, topic: Topic, end: u32, cpu: u32) -> Result<Vec<R>, Error> {
        let mut all = Vec::new();
        for first in (0..end).step_by(RECORDS) {
            all.extend(self.ask::<R>(topic, first, cpu)?);
        }
        Ok(all)
    }

    /// Its backends.
    ///
    /// # Errors
    ///
    /// If it does not answer, as for all below.
    pub fn backends(&self) -> Result<Vec<BackendRecord>, Error> {
        let mut backends = self.ask_all::<BackendRecord>(Topic::Backends, self.facts.backends, 0)?;
        backends.retain(|backend| backend.number != 0);
        Ok(backends)
    }

    /// One of its services.
    ///
    /// # Errors
    ///
    /// As above.
    pub fn service(&self, number: u32) -> Result<Option<ServiceRecord>, Error> {
        let mut records = self.ask::<ServiceRecord>(Topic::Services, number, 0)?;
        records.truncate(1);
        Ok(records.pop().filter(|service| service.group != 0))
    }

    /// The interfaces that have slots.
    ///
    /// # Errors
    ///
    /// As above.
    pub fn interfaces(&self) -> Result<Vec<InterfaceRecord>, Error> {
        let mut interfaces = Vec::new();
        for bucket in 0..INTERFACE_BUCKETS {
            interfaces.extend(self.ask::<InterfaceRecord>(Topic::Interfaces, bucket, 0)?);
        }
        interfaces.retain(|interface| interface.ifindex != 0);
        Ok(interfaces)
    }

    /// What was counted for all backends, by their numbers: by all CPUs, and by those who came before.
    ///
    /// # Errors
    ///
    /// As above.
    pub fn counters(&self) -> Result<BTreeMap<u32, BackendCounters>, Error> {
        let mut sums: BTreeMap<u32, BackendCounters> = BTreeMap::new();
        for cpu in 0..=self.cpus {
            for record in self.ask_all::<CounterRecord>(Topic::Counters, self.facts.backends, cpu)? {
                let counted = BackendCounters {
                    packets_in: record.packets_in,
                    bytes_in: record.bytes_in,
                    packets_out: record.packets_out,
                    bytes_out: record.bytes_out,
                    connections: record.connections,
                    ..BackendCounters::default()
                };
                let sum = sums.entry(record.number).or_default();
                *sum = counters::add(*sum, counted);
            }
        }
        sums.remove(&0);
        Ok(sums)
    }

    /// What was counted on the interface in each slot, likewise.
    ///
    /// # Errors
    ///
    /// As above.
    pub fn verdicts(&self) -> Result<Vec<VerdictRecord>, Error> {
        let mut sums = vec![[0; 128]; MAX_INTERFACES as usize];
        for cpu in 0..=self.cpus {
            for (slot, sum) in (0..).zip(&mut sums) {
                for row in self.ask::<VerdictRecord>(Topic::Verdicts, slot, cpu)? {
                    sum.iter_mut().zip(row).for_each(|(sum, count)| *sum += count);
                }
            }
        }
        Ok(sums)
    }

    /// Visits all its flows, those of IPv6 with `true`.
    ///
    /// # Errors
    ///
    /// As above.
    pub fn flows(&self, mut visitor: impl FnMut(bool, FlowRecord)) -> Result<(), Error> {
        let families = [
            (false, Topic::FlowsV4, self.facts.buckets_v4),
            (true, Topic::FlowsV6, self.facts.buckets_v6),
        ];
        for (is_v6, topic, buckets) in families {
            for bucket in 0..buckets {
                let records = self.ask::<FlowRecord>(topic, bucket, 0)?;
                records
                    .into_iter()
                    .filter(|flow| flow.backend != 0)
                    .for_each(|flow| visitor(is_v6, flow));
            }
        }
        Ok(())
    }
}
