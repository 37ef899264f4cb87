//! DeepSpeed's universal checkpoints: a folder for each parameter, with its f32 weights in a file of their own.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use super::zero::{MODEL, Model, from_module, rest, whole};
use super::{Found, Opened, Part, alike, assembled, no_squares, steps, torn};
use crate::error::{Error, ErrorKind};
use crate::files::{Files, Maybe, all, is_file, join, size};
use crate::format::torch::choose::{Chosen, entry};
use crate::format::torch::pickle::{Id, Node};
use crate::format::torch::{self, Lies, optimizer};
use crate::text::index::Index;

pub(super) fn open(files: &dyn Files, folder: &str, key: Option<&str>) -> Maybe<Opened> {
    if let Some(key) = key {
        let detail = format!("has no weights under `{key}`: a universal checkpoint is read as f32");
        return Err(Error::new(ErrorKind::Input, detail).file(folder).help("leave out --weights-key").into());
    }
    let names = files.list(folder)?;
    let models: Vec<_> = names.iter().filter(|name| name.ends_with(MODEL)).collect();
    // each rank of tensor parallelism has its part of the module, and the same of the rest
    let Some(first) = models.first() else {
        return Err(torn(format!("lacks its *{MODEL} files")).file(folder).into());
    };
    let path = join(folder, first);
    let model = Model::read(files, &path).map_err(|stop| stop.file(&path))?;
    let is_cut = models.len() > 1 || names.iter().any(|name| name.starts_with("layer_"));
    let zero = join(folder, "zero");
    let each = |name: &String| {
        let path = join(&join(&zero, name), "fp32.pt");
        Ok(is_file(files, &path)?.then(|| (name.clone(), path)))
    };
    let mut atoms: Vec<_> = all(files.list(&zero)?.iter().map(each))?.into_iter().flatten().collect();
    // another name of a parameter was written from the module, which is rounded
    let names: Vec<String> = atoms.iter().map(|(name, _)| name.clone()).collect();
    let is_alias = |name: &String| model.shared.iter().any(|(alias, of)| alias == name && names.contains(of));
    atoms.retain(|(name, _)| !is_alias(name));
    let read = |(_, path): &(String, String)| {
        let len = size(files, path)?;
        let found = torch::picked(files, path, len, &mut |pickle| take(pickle));
        let mut found = found.map_err(|stop| stop.file(path))?;
        Ok((len, found.remove(0).1))
    };
    let mut parts = Vec::from([(path.clone(), size(files, &path)?)]);
    let mut tensors = Vec::new();
    for ((name, path), (len, lies)) in atoms.iter().zip(all(atoms.iter().map(read))?) {
        parts.push((path.clone(), len));
        tensors.push(whole(name.clone(), parts.len() - 1, lies));
    }
    let index = Index::new(atoms.iter().map(|(name, _)| name.as_str()));
    for (name, shape) in model.groups.iter().flatten() {
        let Some(at) = index.place(name) else {
            let detail = "has no zero/NAME/fp32.pt, though it is among the parameters of the model";
            return Err(torn(detail).file(folder).tensor(name).into());
        };
        if !is_cut && tensors[at].shape != *shape {
            let detail = format!("is {:?}, but by the model's file {shape:?}", tensors[at].shape);
            return Err(torn(detail).file(&*atoms[at].1).tensor(name).into());
        }
    }
    // of a model that is cut, the module has parts alone
    let module =
        model.module.into_iter().filter(|(name, _)| !is_cut || model.buffers.contains(name)).collect();
    let masters = tensors.len();
    let others = from_module(&rest(&mut tensors, module, &model.shared, 0));
    let note = format!(
        "the f32 weights of DeepSpeed's universal checkpoint are taken for {masters} tensors{others}"
    );
    let files = assembled(parts, tensors).map_err(|error| error.file(folder))?;
    Ok(Opened { files, step: model.step, notes: Vec::from([note]) })
}

/// What else has weights than what [`open`] takes: the module in 16 bits, unless it is cut, and the files of parameters' other names.
pub(super) fn copies(files: &dyn Files, folder: &str) -> Maybe<Vec<Opened>> {
    let names = files.list(folder)?;
    let at = |error: Error| error.file(folder);
    let models: Vec<_> = names.iter().filter(|name| name.ends_with(MODEL)).collect();
    let is_cut = models.len() > 1 || names.iter().any(|name| name.starts_with("layer_"));
    let mut copies = Vec::new();
    let mut copy = |part: Part, tensors: Vec<(String, Lies)>| {
        let tensors = tensors.into_iter().map(|(name, lies)| whole(name, 0, lies)).collect();
        let files = assembled(Vec::from([part]), tensors).map_err(at)?;
        copies.push(Opened { files, step: None, notes: Vec::new() });
        Maybe::Ok(())
    };
    for name in models {
        let path = join(folder, name);
        let Model { module, shared, buffers, .. } =
            Model::read(files, &path).map_err(|stop| stop.file(&path))?;
        let len = size(files, &path)?;
        copy(
            (path, len),
            module.into_iter().filter(|(name, _)| !is_cut || buffers.contains(name)).collect(),
        )?;
        for (alias, _) in shared {
            let path = join(&join(&join(folder, "zero"), &alias), "fp32.pt");
            if is_file(files, &path)? {
                let len = size(files, &path)?;
                let found = torch::picked(files, &path, len, &mut |pickle| take(pickle));
                let mut found = found.map_err(|stop| stop.file(&path))?;
                copy((path, len), Vec::from([(alias, found.remove(0).1)]))?;
            }
        }
    }
    Ok(copies)
}

/// The second moments, each in a file of its own.
pub(super) fn squares(files: &dyn Files, folder: &str) -> Maybe<Found> {
    let at = |error: Error| error.file(folder);
    let names = files.list(folder)?;
    let model = names.iter().find(|name| name.ends_with(MODEL));
    let model = model.ok_or_else(|| at(torn(format!("lacks its *{MODEL} files"))))?;
    let path = join(folder, model);
    let shared = Model::read(files, &path).map_err(|stop| stop.file(&path))?.shared;
    let zero = join(folder, "zero");
    let each = |name: &String| {
        let path = join(&join(&zero, name), "exp_avg_sq.pt");
        Ok(is_file(files, &path)?.then(|| (name.clone(), path)))
    };
    let atoms: Vec<_> = all(files.list(&zero)?.iter().map(each))?.into_iter().flatten().collect();
    let one = |path: &str, choose: &mut torch::Choose<'_>| {
        let len = size(files, path)?;
        Ok((len, torch::picked(files, path, len, choose).map_err(|stop| stop.file(path))?))
    };
    let read = all(atoms.iter().map(|(_, path)| one(path, &mut |pickle| take(pickle))))?;
    let (mut parts, mut tensors) = (Vec::new(), Vec::new());
    for ((name, path), (len, mut found)) in atoms.iter().zip(read) {
        parts.push((path.clone(), len));
        tensors.push(whole(name.clone(), parts.len() - 1, found.remove(0).1));
    }
    let Some((first, _)) = atoms.first() else {
        return Err(at(no_squares("has no zero/NAME/exp_avg_sq.pt")).into());
    };
    rest(&mut tensors, Vec::new(), &shared, 0);
    let (told, step) = (join(&zero, "optimizer_state.pt"), join(&join(&zero, first), "step.pt"));
    let mut betas = Vec::new();
    if is_file(files, &told)? {
        one(&told, &mut |pickle| {
            if let Some(Node::List(groups)) =
                entry(pickle, pickle.root, "param_groups").map(|id| pickle.node(id))
            {
                let of = |group: &Id| {
                    entry(pickle, *group, "betas").and_then(|id| optimizer::betas(pickle, id)[1])
                };
                betas = groups.iter().map(of).collect();
            }
            Ok(Chosen::plain(Vec::new()))
        })?;
    }
    let mut counted = None;
    if let (Some(beta), true) = (alike(betas.into_iter()), is_file(files, &step)?) {
        let steps = steps(files, &step, size(files, &step)?).map_err(|stop| stop.file(&step))?;
        counted = steps.map(|steps| (beta, steps));
    }
    Ok(Found { parts, tensors, counted })
}

/// The weights: a tensor, or one that says how it was put together.
fn take<'a>(pickle: &'a torch::pickle::Pickle<'_>) -> crate::error::Result<Chosen<'a>> {
    let inner = entry(pickle, pickle.root, "param").unwrap_or(pickle.root);
    match pickle.node(inner) {
        Node::Tensor(tensor) => Ok(Chosen::plain(Vec::from([(String::from("param"), &**tensor)]))),
        _ => Err(torn("holds no tensor")),
    }
}
