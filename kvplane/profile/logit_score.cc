#include "kvplane/profile/logit_score.h"

#include <algorithm>
#include <cmath>
#include <cstddef>

namespace kvplane::profile {

LogitScore ScoreLogits(std::span<const float> reference, std::span<const float> judged, int32_t target) {
  const auto reference_top = std::max_element(reference.begin(), reference.end());
  const auto judged_top = std::max_element(judged.begin(), judged.end());
  // With a, b the logits below their maxima and A, B the sums of their exponentials:
  // KL = sum p (log p - log q) = sum (e^a / A) (a - b) - log A + log B.
  double reference_sum = 0;
  double judged_sum = 0;
  double weighted_gap = 0;
  for (size_t i = 0; i < reference.size(); ++i) {
    const double a = double{reference[i]} - *reference_top;
    const double b = double{judged[i]} - *judged_top;
    const double weight = std::exp(a);
    reference_sum += weight;
    judged_sum += std::exp(b);
    weighted_gap += weight * (a - b);
  }
  LogitScore score;
  const double log_judged_sum = std::log(judged_sum);
  score.kl = weighted_gap / reference_sum - std::log(reference_sum) + log_judged_sum;
  score.loss = log_judged_sum + *judged_top - judged[static_cast<size_t>(target)];
  score.same_top = reference_top - reference.begin() == judged_top - judged.begin();
  score.top_is_target = judged_top - judged.begin() == target;
  return score;
}

}  // namespace kvplane::profile
