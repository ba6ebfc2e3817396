#include "apps/cli/quality/quality_estimates.h"

#include <cmath>
#include <cstddef>

#include "kvplane/stats/moments.h"

namespace kvplane::cli {
namespace {

Estimate ToEstimate(const stats::Moments& moments) {
  const double n = static_cast<double>(moments.count());
  return {moments.count(), moments.mean(), moments.count() < 2 ? 0 : moments.stddev() / std::sqrt(n)};
}

}  // namespace

CodedSize MeasureSize(std::span<const profile::SequenceScore> judged) {
  double raw = 0;
  double coded = 0;
  for (const profile::SequenceScore& score : judged) {
    raw += static_cast<double>(score.raw_bytes);
    coded += static_cast<double>(score.coded_bytes);
  }
  return {raw / coded, 16 * coded / raw};
}

TextQuality MeasureText(std::span<const profile::SequenceScore> uncompressed,
                        std::span<const profile::SequenceScore> judged) {
  stats::Moments kl;
  stats::Moments top1;
  stats::Moments added;
  for (size_t i = 0; i < judged.size(); ++i) {
    kl.Add(judged[i].kl);
    top1.Add(judged[i].top1);
    added.Add(judged[i].loss - uncompressed[i].loss);
  }
  const Estimate added_loss = ToEstimate(added);
  const double grown = std::exp(added_loss.mean);
  TextQuality quality;
  quality.kl = ToEstimate(kl);
  quality.top1 = ToEstimate(top1);
  quality.ppl_change = {added_loss.n, 100 * (grown - 1), 100 * grown * added_loss.standard_error};
  quality.exp_minus_added_loss = {added_loss.n, 1 / grown, added_loss.standard_error / grown};
  return quality;
}

double Perplexity(std::span<const profile::SequenceScore> scores) {
  stats::Moments loss;
  for (const profile::SequenceScore& score : scores) loss.Add(score.loss);
  return std::exp(loss.mean());
}

TaskQuality MeasureTask(std::span<const profile::SequenceScore> uncompressed,
                        std::span<const profile::SequenceScore> judged) {
  stats::Moments right;
  stats::Moments reference;
  for (size_t i = 0; i < judged.size(); ++i) {
    right.Add(judged[i].exact ? 1 : 0);
    reference.Add(uncompressed[i].exact ? 1 : 0);
  }
  TaskQuality quality;
  quality.accuracy = ToEstimate(right);
  if (reference.mean() == 0) return quality;
  // The ratio R of two means has the standard error of the mean of (x - R u) / mean(u).
  const double ratio = right.mean() / reference.mean();
  stats::Moments residual;
  for (size_t i = 0; i < judged.size(); ++i) {
    residual.Add((judged[i].exact ? 1 : 0) - ratio * (uncompressed[i].exact ? 1 : 0));
  }
  quality.relative_accuracy = {judged.size(), 100 * ratio,
                               100 * ToEstimate(residual).standard_error / reference.mean()};
  return quality;
}

}  // namespace kvplane::cli
