//! Work on whole modules over a border that only chunks cross: tensors are gathered piece by piece, results handed out so.

use alloc::format;
use alloc::vec;
use alloc::vec::Vec;

use super::Loops;
use crate::error::{Error, ErrorKind, Result};
use crate::merge::report::Distance;
use crate::method::product::{Factors, ModuleJob, Products, Rank, Residual};
use crate::plan::Tensors;
use crate::plan::{Plan, Read, Write};

/// What is done with every module.
#[derive(Debug)]
pub(super) enum Task {
    /// Find how far the average of its factors is off.
    Residual(Factors),
    /// Find the rank that keeps a share of its energy.
    Survey(Products, f64),
    /// Merge it, at its own of these ranks.
    Merge(Products, Rank, Vec<usize>),
}

/// The modules, those under way, and what was found of the others.
#[derive(Debug)]
pub(super) struct Modules {
    pub(super) task: Task,
    shapes: Vec<Shape>,
    /// by module; few, so that a list serves
    desks: Vec<Desk>,
    found: Vec<Option<Found>>,
}

/// What a module's work reads and writes, whole tensors.
#[derive(Debug)]
struct Shape {
    /// Several of each source: A, B and, where there is one, the bias.
    reads: Vec<Read>,
    writes: Vec<Write>,
}

/// A module under way.
#[derive(Debug)]
struct Desk {
    module: usize,
    inputs: Vec<Vec<u8>>,
    outputs: Vec<Vec<u8>>,
    /// Pieces to be gathered before the work can be done, and to be handed out after it.
    missing: usize,
    owed: usize,
}

/// What the work found out.
#[derive(Clone, Copy, Debug)]
enum Found {
    Rank(usize),
    Lost(Residual),
    Residual(Option<Residual>),
}

/// A piece of a module's tensors: at these bytes of the same tensor of every source, or of one that is written.
#[derive(Clone, Copy, Debug)]
pub(super) struct Piece {
    module: usize,
    is_result: bool,
    tensor: usize,
    start: u64,
}

impl Modules {
    /// `plan` is where [`Task::Merge`] writes.
    pub(super) fn new(task: Task, plan: Option<&Plan>) -> Self {
        let shape = |job: ModuleJob<'_>| Shape {
            reads: job.reads().collect(),
            writes: job.writes().cloned().collect(),
        };
        let shapes: Vec<_> = match &task {
            Task::Residual(factors) => factors.jobs().map(shape).collect(),
            Task::Survey(products, _) => products.surveys().map(shape).collect(),
            Task::Merge(products, rank, ranks) => {
                let plan = plan.expect("a merge has a plan");
                products.jobs(plan, *rank, ranks).into_iter().map(shape).collect()
            }
        };
        Self { task, found: vec![None; shapes.len()], shapes, desks: Vec::new() }
    }

    /// The first piece of all.
    pub(super) fn first(&self) -> Option<Piece> {
        let first = Piece { module: 0, is_result: false, tensor: 0, start: 0 };
        (!self.shapes.is_empty()).then_some(first)
    }

    /// The piece after this one.
    pub(super) fn after(&self, piece: Piece, chunk: u64) -> Option<Piece> {
        let shape = &self.shapes[piece.module];
        let first = Piece { is_result: false, tensor: 0, start: 0, ..piece };
        let further = Piece { start: piece.start + chunk, ..piece };
        let tensor = Piece { tensor: piece.tensor + 1, ..first };
        let candidates =
            [further, Piece { is_result: piece.is_result, ..tensor }, Piece { is_result: true, ..first }];
        // results come once, after all that is read
        let count = if piece.is_result { 2 } else { 3 };
        let within = candidates.into_iter().take(count).find(|next| next.start < shape.longest(next));
        let module = piece.module + 1;
        within.or((module < self.shapes.len()).then_some(Piece { module, ..first }))
    }

    /// What a piece reads and writes.
    pub(super) fn ranges(&self, piece: Piece, chunk: u64) -> (Vec<Read>, Vec<Write>) {
        let shape = &self.shapes[piece.module];
        let cut = |range: &core::ops::Range<u64>| {
            let start = (range.start + piece.start).min(range.end);
            start..(start + chunk).min(range.end)
        };
        if piece.is_result {
            let write = &shape.writes[piece.tensor];
            return (Vec::new(), vec![Write { range: cut(&write.range), ..*write }]);
        }
        let reads = shape.of_sources(piece.tensor).map(|(_, read)| Read { range: cut(&read.range), ..*read });
        (reads.filter(|read| !read.range.is_empty()).collect(), Vec::new())
    }

    /// Take or give the bytes of a piece; the last that was missing does the work.
    pub(super) fn run(
        &mut self,
        piece: Piece,
        chunk: u64,
        chunks: &[&[u8]],
        plan: Option<&Plan>,
        loops: &Loops,
    ) -> Result<Vec<u8>> {
        if piece.is_result {
            return self.hand_out(piece, chunk);
        }
        let at = match self.desk(piece.module) {
            Some(at) => at,
            None => {
                self.desks.push(self.shapes[piece.module].desk(piece.module, chunk)?);
                self.desks.len() - 1
            }
        };
        let desk = &mut self.desks[at];
        let mut chunks = chunks.iter();
        for (at, read) in self.shapes[piece.module].of_sources(piece.tensor) {
            if piece.start < read.range.end - read.range.start {
                let bytes = chunks.next().expect("the session checked the chunks");
                let start = index(piece.start)?;
                desk.inputs[at][start..start + bytes.len()].copy_from_slice(bytes);
            }
        }
        if desk.missing == 1 {
            self.work(at, plan, loops)?;
        }
        let desk = &mut self.desks[at];
        desk.missing -= 1;
        if desk.missing + desk.owed == 0 {
            self.desks.swap_remove(at);
        }
        Ok(Vec::new())
    }

    fn desk(&self, module: usize) -> Option<usize> {
        self.desks.iter().position(|desk| desk.module == module)
    }

    fn hand_out(&mut self, piece: Piece, chunk: u64) -> Result<Vec<u8>> {
        let done = self.desk(piece.module).filter(|at| self.desks[*at].missing == 0);
        let at = done.ok_or_else(|| {
            Error::new(ErrorKind::Usage, "the job writes what jobs before it compute, and not all were run")
                .help("run the jobs that read before those that write")
        })?;
        let desk = &mut self.desks[at];
        let output = &desk.outputs[piece.tensor];
        let start = index(piece.start)?;
        let bytes = output[start..output.len().min(start.saturating_add(index(chunk)?))].to_vec();
        desk.owed -= 1;
        if desk.owed == 0 {
            self.desks.swap_remove(at);
        }
        Ok(bytes)
    }

    /// All of a module is here.
    fn work(&mut self, at: usize, plan: Option<&Plan>, loops: &Loops) -> Result<()> {
        let desk = &mut self.desks[at];
        let module = desk.module;
        let inputs: Vec<_> = desk.inputs.iter().map(Vec::as_slice).collect();
        let shape = &self.shapes[module];
        let found = match &self.task {
            Task::Survey(products, share) => {
                let job = products.surveys().nth(module).expect("one per shape");
                Found::Rank((loops.rank_for)(&job, &inputs, *share)?)
            }
            Task::Residual(factors) => {
                let job = factors.jobs().nth(module).expect("one per shape");
                let mut read = |read: &Read, bytes: &mut [u8]| shape.read(&inputs, read, bytes);
                Found::Residual((loops.residual)(&job, WINDOW, &mut read)?)
            }
            Task::Merge(products, rank, ranks) => {
                let places = Tensors::new(plan.expect("a merge has a plan").outputs());
                let job = products.job(module, &places, *rank, ranks);
                let lengths = shape.writes.iter().map(|write| write.range.end - write.range.start);
                desk.outputs = lengths.map(room).collect::<Result<_>>()?;
                let mut outputs: Vec<_> = desk.outputs.iter_mut().map(Vec::as_mut_slice).collect();
                Found::Lost((loops.merge)(&job, &inputs, &mut outputs)?)
            }
        };
        self.found[module] = Some(found);
        desk.inputs = Vec::new();
        Ok(())
    }

    /// The ranks that a survey found.
    pub(super) fn ranks(&self) -> Vec<usize> {
        let rank =
            |found: &Option<Found>| if let Some(Found::Rank(rank)) = found { Some(*rank) } else { None };
        self.found.iter().filter_map(rank).collect()
    }

    /// How far the output is off, and what to tell the user; nothing before all modules were worked on.
    pub(super) fn distance(&self) -> Result<(Option<Distance>, Option<&'static str>)> {
        if self.found.iter().any(Option::is_none) {
            return Ok((None, None));
        }
        let found = self.found.iter().flatten();
        match &self.task {
            Task::Survey(..) => Ok((None, None)),
            Task::Residual(factors) => {
                let residual =
                    |found: &Found| if let Found::Residual(residual) = found { *residual } else { None };
                Ok(factors.distance(&found.map(residual).collect::<Vec<_>>()))
            }
            Task::Merge(products, rank, ranks) => {
                let lost = |found: &Found| if let Found::Lost(lost) = found { Some(*lost) } else { None };
                Ok((products.distance(*rank, ranks, &found.filter_map(lost).collect::<Vec<_>>())?, None))
            }
        }
    }
}

/// Most bytes that a residual takes at once: they stay in a second-level cache. The result does not depend on it.
const WINDOW: usize = 2 << 20;

impl Shape {
    /// How many tensors of each source are read.
    fn tensors(&self) -> usize {
        let first = self.reads.first().map(|read| read.input);
        self.reads.iter().take_while(|read| Some(read.input) == first).count()
    }

    /// The same tensor of every source, and its number among the reads.
    fn of_sources(&self, tensor: usize) -> impl Iterator<Item = (usize, &Read)> {
        self.reads.iter().enumerate().skip(tensor).step_by(self.tensors().max(1))
    }

    /// The length of the longest tensor that a piece may be of; 0 if there is none.
    fn longest(&self, piece: &Piece) -> u64 {
        if piece.is_result {
            return self.writes.get(piece.tensor).map_or(0, |write| write.range.end - write.range.start);
        }
        if piece.tensor >= self.tensors() {
            return 0;
        }
        let lengths = self.of_sources(piece.tensor).map(|(_, read)| read.range.end - read.range.start);
        lengths.max().unwrap_or(0)
    }

    fn desk(&self, module: usize, chunk: u64) -> Result<Desk> {
        let pieces = |is_result: bool, tensors: usize| -> u64 {
            let tensor = |tensor| Piece { module: 0, is_result, tensor, start: 0 };
            (0..tensors).map(|at| self.longest(&tensor(at)).div_ceil(chunk)).sum()
        };
        let lengths = self.reads.iter().map(|read| read.range.end - read.range.start);
        Ok(Desk {
            module,
            inputs: lengths.map(room).collect::<Result<_>>()?,
            outputs: Vec::new(),
            missing: index(pieces(false, self.tensors()))?,
            owed: index(pieces(true, self.writes.len()))?,
        })
    }

    /// Fill `bytes` with a range out of the tensors that were gathered.
    fn read(&self, inputs: &[&[u8]], wanted: &Read, bytes: &mut [u8]) -> Result<()> {
        let holds = |read: &&Read| {
            (read.input, read.file) == (wanted.input, wanted.file)
                && read.range.start <= wanted.range.start
                && wanted.range.end <= read.range.end
        };
        let at = self.reads.iter().position(|read| holds(&read)).expect("a module reads its own tensors");
        let start = index(wanted.range.start - self.reads[at].range.start)?;
        bytes.copy_from_slice(&inputs[at][start..start + bytes.len()]);
        Ok(())
    }
}

/// So many zero bytes, or an error: heads can declare anything.
fn room(length: u64) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let full = || {
        let detail = format!("a module's factors take {length} bytes at once, which do not fit into memory");
        Error::new(ErrorKind::Device, detail).help("merge on the CPU, outside of WebAssembly")
    };
    let length = usize::try_from(length).map_err(|_| full())?;
    bytes.try_reserve_exact(length).map_err(|_| full())?;
    bytes.resize(length, 0);
    Ok(bytes)
}

fn index(offset: u64) -> Result<usize> {
    usize::try_from(offset)
        .map_err(|_| Error::new(ErrorKind::Device, "a module's factors do not fit into memory"))
}
