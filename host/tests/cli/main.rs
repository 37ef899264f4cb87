//! The `mwa` binary as a process: what it prints, how it exits, what it leaves on disk.
//!
//! Every failing run here is checked to leave each file and folder as it was. `SNAPSHOTS=overwrite cargo test` writes
//! the texts anew; read the difference before committing it.
//!
//! What can be wrong with a run, and the test that shows what happens then:
//!
//! | input | test |
//! |---|---|
//! | the log holds bare `NaN` or `Infinity` | `metrics::bare_nan_in_the_log_is_a_bad_value_not_a_parse_error` |
//! | loss 0 beside a NaN gradient norm | `metrics::a_diverged_checkpoint_with_loss_zero_never_wins` |
//! | NaN or infinity in a tensor, with and without weight | `agreement::non_finite_values_are_refused_unless_their_weight_is_zero` |
//! | all metrics equal | `metrics::equal_metrics_give_equal_weights` |
//! | a metric of zero or less under the power scheme | `metrics::the_power_scheme_refuses_a_negative_metric` |
//! | no metric at all, or not right at a checkpoint | `metrics::without_any_metric_…`, `metrics::strict_metrics_refuses_…` |
//! | a metric for some checkpoints only | `metrics::a_metric_that_some_checkpoints_lack_is_never_mixed_with_another` |
//! | a misspelt metric | `metrics::a_misspelt_metric_lists_the_logged_ones` |
//! | a resumed run whose logs disagree | `metrics::a_resumed_run_reads_the_latest_branch_and_says_so` |
//! | checkpoint-1000 beside checkpoint-500 | `inputs::checkpoints_are_in_numeric_order` |
//! | the root's copy, `best` and `last` links, twins | `inputs::the_model_in_the_run_s_root_…`, `inputs::one_checkpoint_under_two_names_…`, `unix::symbolic_links_…` |
//! | an interrupted save, a file cut short, a temporary folder | `inputs::an_unfinished_checkpoint_is_skipped_in_a_run_and_an_error_by_name` |
//! | a git-lfs pointer, an HTML page, an empty file | `damaged::files_that_are_not_safetensors_are_called_what_they_are` |
//! | one shard of a model by itself | `inputs::a_shard_by_itself_is_no_model` |
//! | both `.safetensors` and `.bin` | `formats::safetensors_win_over_a_bin_beside_them` |
//! | a pickle with foreign globals | `formats::a_pickle_with_foreign_globals_is_never_executed` |
//! | other rank, alpha, scaling or patterns | `agreement::rank_alpha_scaling_and_patterns_must_agree` |
//! | other tensor names, known prefixes among them | `agreement::differing_tensor_names_are_shown_and_known_prefixes_named` |
//! | other shapes under the same names | `agreement::differing_shapes_name_both`; AdaLoRA's masks are tested in the core |
//! | `target_modules` in another order | `agreement::target_modules_compare_as_a_set` |
//! | another name for the base model, another base model | `agreement::a_moved_base_model_is_noted_and_another_one_an_error` |
//! | another initialisation | `agreement::initialisation_and_method_must_agree` |
//! | a ReLoRA restart in between | `agreement::relora_restarts_are_refused` |
//! | checkpoints of two seeds | `agreement::another_seed_is_another_run` |
//! | dtypes mixed | `agreement::mixed_dtypes_take_the_widest_or_the_one_asked_for` |
//! | overflow or underflow on the way to f16 | `output::a_merged_value_that_overflows_…` |
//! | integer tensors that differ | `agreement::integer_tensors_must_be_the_same` |
//! | flat or empty factors, no tensors, half a pair | `damaged::adapters_without_elements_are_refused`, `damaged::half_a_pair_is_refused` |
//! | FSDP, DeepSpeed, DCP, Megatron, NeMo, LitGPT, Lightning, MLX folders | `inputs::checkpoints_of_other_frameworks_are_recognised` |
//! | duplicate keys, overlaps, holes, huge or deep headers, shards outside | `damaged::damaged_headers_are_refused`, `formats::a_shard_index_cannot_lead_outside_or_lie`; more in the conformance suite |
//! | unaligned data, null metadata | `damaged::unaligned_data_and_null_metadata_are_fine` |
//! | weights that do not sum to 1, are NaN, too few | `metrics::weights_must_match_and_are_made_to_sum_to_one` |
//! | one checkpoint, or one with all the weight | `inputs::one_checkpoint_is_copied_byte_for_byte` |
//! | an output that exists, lies over an input, meets a full disk (here: a limit on file sizes) or Ctrl-C | `output::an_output_…`, `unix::a_file_size_limit_…`, `unix::ctrl_c_leaves_nothing_behind` |
//! | an output folder with other people's files, also such as appear meanwhile | `trust::force_…`, `trust::what_appears_…`, `trust::a_stopped_merge_…` |
//! | an output folder that holds what is read | `trust::no_file_that_is_read_is_replaced` |
//! | a killed merge; each system call failing | `trust::what_a_killed_merge_…`, `host/tests/faults` |
//! | a tampered merge, a report that names files elsewhere | `trust::verify_…` |
//! | names with terminal escapes; a full standard output | `trust::names_never_…`, `trust::a_full_standard_output_…` |
//! | adapters larger than memory | `unix::memory_stays_bounded_whatever_the_size` |
//! | more checkpoints and threads than files may be open | `unix::files_stay_below_the_limit_whatever_the_threads_and_checkpoints` |
//! | private inputs, unreadable inputs | `unix::the_umask_is_honoured`, `unix::an_unreadable_input_is_named` |
//! | kohya files with other alphas, stale hashes | `agreement::kohya_files_average_under_one_alpha_only`, `agreement::stale_hashes_are_not_carried_over` |
//! | diffusers files with and without their scale | `agreement::metadata_that_sets_the_scale_must_be_in_every_file` |
//! | several adapters in a checkpoint | `inputs::an_adapter_inside_can_be_chosen` |
//! | odd file and tensor names | `damaged::odd_tensor_names_pass_through` |
//! | adapters of another base, shape or method; bases that are quantised; numbers that are not finite | `apply::what_does_not_fit_…` |
//! | adapters that another container cannot hold; half a pair, unknown names, wrong or absent base models | `convert::what_a_container_cannot_hold_…` |
//! | the same merge twice, other thread counts | `output::the_same_merge_gives_the_same_bytes_in_every_file` |
//! | logs of several programs, and such as disagree; a log that is damaged, missing, or of two runs | `logs::metrics_are_found_…`, `logs::a_log_can_be_named_…` |
//! | Lightning's table, whose steps count from 0 | `metrics::lightning_counts_steps_from_zero` |
//!
//! Not merged, but recognised with the way to convert them: quantised GGUF, MLX's `.npz`, DCP, DeepSpeed,
//! FSDP shards, Megatron, NeMo, LitGPT. Files that change while they are read, and files over 4 GiB on 32-bit
//! machines, cannot be made reliably by a test of the command line.

mod adapter;
mod aggregate;
mod agreement;
mod apply;
mod blend;
mod convert;
mod curved;
mod damaged;
mod extract;
mod formats;
mod hunt;
mod inputs;
mod logs;
mod masks;
mod metrics;
mod newcomer;
mod output;
mod place;
mod recover;
mod robust;
#[cfg(unix)]
mod search;
mod shards;
mod texts;
mod training;
#[cfg(unix)]
mod trust;
#[cfg(unix)]
mod unix;
mod versions;
mod weights;
