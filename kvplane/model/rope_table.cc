#include "kvplane/model/rope_table.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace kvplane::model {
namespace {

constexpr double kTwoPi = 2.0 * std::numbers::pi;

void ScaleLlama3(const RopeConfig& config, std::vector<float>* frequencies) {
  const double context = config.original_context;
  const double long_wavelength = context / config.low_freq_factor;
  const double short_wavelength = context / config.high_freq_factor;
  for (float& frequency : *frequencies) {
    const double f = frequency;
    const double wavelength = kTwoPi / f;
    if (wavelength > long_wavelength) {
      frequency = static_cast<float>(f / config.factor);
    } else if (wavelength >= short_wavelength) {
      const double keep = (context / wavelength - config.low_freq_factor) /
                          (config.high_freq_factor - config.low_freq_factor);
      frequency = static_cast<float>((1.0 - keep) * f / config.factor + keep * f);
    }
  }
}

// The (fractional) index of the frequency that makes `rotations` turns over the original context.
double RotationIndex(const RopeConfig& config, double rotations, uint32_t head_dim) {
  return head_dim * std::log(config.original_context / (rotations * kTwoPi)) / (2.0 * std::log(config.theta));
}

void ScaleYarn(const RopeConfig& config, uint32_t head_dim, std::vector<float>* frequencies) {
  double low = RotationIndex(config, config.beta_fast, head_dim);
  double high = RotationIndex(config, config.beta_slow, head_dim);
  if (config.truncate) {
    low = std::floor(low);
    high = std::ceil(high);
  }
  low = std::max(low, 0.0);
  high = std::min(high, static_cast<double>(head_dim - 1));
  if (low == high) high += 0.001;  // a step instead of a ramp
  for (size_t i = 0; i < frequencies->size(); ++i) {
    const double interpolate = std::clamp((static_cast<double>(i) - low) / (high - low), 0.0, 1.0);
    const double f = (*frequencies)[i];
    (*frequencies)[i] = static_cast<float>(f / config.factor * interpolate + f * (1.0 - interpolate));
  }
}

}  // namespace

std::vector<float> RopeFrequencies(const RopeConfig& config, uint32_t head_dim) {
  std::vector<float> frequencies(head_dim / 2);
  for (size_t i = 0; i < frequencies.size(); ++i) {
    const double exponent = 2.0 * static_cast<double>(i) / head_dim;
    frequencies[i] = static_cast<float>(1.0 / std::pow(config.theta, exponent));
  }
  switch (config.type) {
    case RopeType::kDefault:
      break;
    case RopeType::kLinear:
      for (float& f : frequencies) f = static_cast<float>(f / config.factor);
      break;
    case RopeType::kLlama3:
      ScaleLlama3(config, &frequencies);
      break;
    case RopeType::kYarn:
      ScaleYarn(config, head_dim, &frequencies);
      break;
  }
  return frequencies;
}

RopeTable::RopeTable(const RopeConfig& config, uint32_t head_dim)
    : frequencies_(RopeFrequencies(config, head_dim)),
      magnitude_(static_cast<float>(config.attention_factor)),
      half_(head_dim / 2) {}

void RopeTable::Reserve(uint32_t positions) {
  const size_t row = 2 * half_;
  const size_t have = table_.size() / row;
  if (positions <= have) return;
  table_.resize(size_t{positions} * row);
  for (size_t position = have; position < positions; ++position) {
    float* to = table_.data() + position * row;
    for (size_t i = 0; i < half_; ++i) {
      const float angle = static_cast<float>(position) * frequencies_[i];
      to[i] = std::cos(angle) * magnitude_;
      to[half_ + i] = std::sin(angle) * magnitude_;
    }
  }
}

}  // namespace kvplane::model
