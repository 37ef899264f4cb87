//! DeepSpeed's universal checkpoints: a folder for each parameter, with its f32 weights in a file of their own.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use super::zero::{MODEL, Model, from_module, rest, whole};
use super::{Opened, assembled, torn};
use crate::error::{Error, ErrorKind};
use crate::files::{Files, Maybe, all, is_file, join, size};
use crate::format::torch;
use crate::format::torch::choose::{Chosen, entry};
use crate::format::torch::pickle::Node;
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
        "the f32 weights of DeepSpeed's universal checkpoint are taken for {masters} tensors{others}; moments are left out"
    );
    let files = assembled(parts, tensors).map_err(|error| error.file(folder))?;
    Ok(Opened { files, step: model.step, notes: Vec::from([note]) })
}

/// The weights: a tensor, or one that says how it was put together.
fn take<'a>(pickle: &'a torch::pickle::Pickle<'_>) -> crate::error::Result<Chosen<'a>> {
    let inner = entry(pickle, pickle.root, "param").unwrap_or(pickle.root);
    match pickle.node(inner) {
        Node::Tensor(tensor) => Ok(Chosen::plain(Vec::from([(String::from("param"), &**tensor)]))),
        _ => Err(torn("holds no tensor")),
    }
}
