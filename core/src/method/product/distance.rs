//! From what was found of each module to what the report says of all.

use alloc::string::String;
use alloc::vec::Vec;

use super::{Factors, Method, Products, Rank, Residual};
use crate::error::{Error, ErrorKind, Result};
use crate::merge::report::Distance;

impl Factors {
    /// How far the average of factors is from that of products, and what to tell the user; `found` are the residuals of
    /// [`Self::jobs`], in order. `None` where one of them says nothing.
    #[must_use]
    pub fn distance(
        &self,
        how: Method,
        found: &[Option<Residual>],
    ) -> (Option<Distance>, Option<&'static str>) {
        let Some(found) = found.iter().copied().collect::<Option<Vec<Residual>>>() else {
            return (None, None);
        };
        let several = self.modules.iter().any(|module| module.sources.len() > 1);
        let is_exact = several && found.iter().all(|residual| residual.error == 0.0);
        let note = "one factor of each module is the same in all inputs, so the average of factors is exact";
        let modules = self.modules.iter().zip(&found);
        let distance = Distance::new(how, modules.map(|(module, found)| (module.name.clone(), None, *found)));
        (distance, is_exact.then_some(note))
    }
}

impl Products {
    /// How far the output is from the exact average; `lost` are the results of [`Self::jobs`], in order.
    ///
    /// # Errors
    /// [`ErrorKind::Input`] if all products are zero.
    pub fn distance(&self, rank: Rank, ranks: &[usize], lost: &[Residual]) -> Result<Option<Distance>> {
        if rank != Rank::Full && lost.iter().all(|lost| lost.norm == 0.0) {
            let detail = "there is nothing to merge: the products B·A of all inputs are zero";
            return Err(Error::new(ErrorKind::Input, detail).help(
                "B starts at zero, so they were saved before any training, or by a process that held no weights",
            ));
        }
        let name = |i: usize| -> String { self.factors.modules[i].name.clone() };
        let modules = ranks.iter().zip(lost).enumerate();
        Ok(Distance::new(Method::Exact, modules.map(|(i, (rank, lost))| (name(i), Some(*rank), *lost))))
    }
}
