//! The C face of mwa: pointers, bytes and errors translated, nothing else.
#![expect(non_camel_case_types, reason = "they are C's names")]

mod border;
mod error;
mod plan;
mod run;

pub use border::{mwa_text, mwa_text_copy, mwa_text_free};
pub use error::{mwa_error, mwa_error_free};
pub use plan::{
    mwa_header_size, mwa_input, mwa_plan, mwa_plan_config, mwa_plan_file_size, mwa_plan_free, mwa_plan_head,
    mwa_plan_new, mwa_plan_report, mwa_plan_run, mwa_read, mwa_write,
};
pub use run::{mwa_inspect, mwa_merge, mwa_progress, mwa_verify, mwa_weights};
