// Paired estimates with standard errors out of the scores of single sequences.
//
// Sequences are the samples: tokens of one window are not independent, windows and questions are. Standard
// errors of functions of a mean are first-order (delta method).
//
// Thread safety: pure functions.
#pragma once

#include <cstdint>
#include <span>

#include "kvplane/profile/paired_run.h"

namespace kvplane::cli {

struct Estimate {
  uint64_t n = 0;  // sequences
  double mean = 0;
  double standard_error = 0;  // 0 when n < 2
};

// Bytes of all prefixes, in objects.
struct CodedSize {
  double ratio = 0;           // raw / coded
  double bits_per_value = 0;  // of bf16 values: 16 / ratio
};
CodedSize MeasureSize(std::span<const profile::SequenceScore> judged);

struct TextQuality {
  Estimate kl;                    // nats per token
  Estimate top1;                  // share
  Estimate ppl_change;            // percent
  Estimate exp_minus_added_loss;  // 1: no damage
};
// uncompressed and judged: the same windows in the same order.
TextQuality MeasureText(std::span<const profile::SequenceScore> uncompressed,
                        std::span<const profile::SequenceScore> judged);
// exp of the mean loss.
double Perplexity(std::span<const profile::SequenceScore> scores);

struct TaskQuality {
  Estimate accuracy;           // share of answers exactly right
  Estimate relative_accuracy;  // percent of the uncompressed run's, a ratio of paired sums; n = 0: none right
};
TaskQuality MeasureTask(std::span<const profile::SequenceScore> uncompressed,
                        std::span<const profile::SequenceScore> judged);

}  // namespace kvplane::cli
