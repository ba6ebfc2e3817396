#include "apps/cli/gemm_yardstick.h"

#include <cstddef>
#include <cstring>
#include <oneapi/dnnl/dnnl.hpp>
#include <unordered_map>
#include <utility>

#include "kvplane/base/clock.h"

// From libgomp, which Debian's oneDNN uses; its header needs -fopenmp.
extern "C" void omp_set_num_threads(int);

namespace kvplane::cli {
namespace {

struct Product {
  dnnl::matmul primitive;
  std::unordered_map<int, dnnl::memory> arguments;
  uint32_t times = 0;
  double flop = 0;
};

Product MakeProduct(const dnnl::engine& engine, dnnl::stream& stream, const model::GemmShape& shape,
                    uint32_t rows, dnnl::memory::data_type type) {
  using dnnl::memory;
  const memory::desc source({rows, shape.k}, type, memory::format_tag::ab);
  const memory::desc plain({shape.k, shape.n}, type, memory::format_tag::ba);
  const memory::desc packed({shape.k, shape.n}, type, memory::format_tag::any);
  const memory::desc result({rows, shape.n}, memory::data_type::f32, memory::format_tag::ab);
  dnnl::primitive_attr attributes;
  attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
  const dnnl::matmul::primitive_desc description(dnnl::matmul::desc(source, packed, result), attributes,
                                                 engine);

  memory plain_weights(plain, engine);
  std::memset(plain_weights.get_data_handle(), 0, plain.get_size());
  memory weights(description.weights_desc(), engine);
  dnnl::reorder(plain_weights, weights).execute(stream, plain_weights, weights);
  memory input(source, engine);
  std::memset(input.get_data_handle(), 0, source.get_size());
  Product product{.primitive = dnnl::matmul(description),
                  .arguments = {{DNNL_ARG_SRC, input},
                                {DNNL_ARG_WEIGHTS, weights},
                                {DNNL_ARG_DST, memory(result, engine)},
                                {DNNL_ARG_SCRATCHPAD, memory(description.scratchpad_desc(), engine)}},
                  .times = shape.per_forward,
                  .flop = 2.0 * rows * shape.n * shape.k * shape.per_forward};
  return product;
}

}  // namespace

struct GemmYardstick::State {
  dnnl::engine engine{dnnl::engine::kind::cpu, 0};
  dnnl::stream stream{engine};
  std::vector<Product> products;
  int threads = 1;
};

GemmYardstick::GemmYardstick(std::unique_ptr<State> state) : state_(std::move(state)) {}
GemmYardstick::GemmYardstick(GemmYardstick&&) noexcept = default;
GemmYardstick& GemmYardstick::operator=(GemmYardstick&&) noexcept = default;
GemmYardstick::~GemmYardstick() = default;

base::Result<GemmYardstick> GemmYardstick::Create(const std::vector<model::GemmShape>& shapes, uint32_t rows,
                                                  uint32_t head_rows, model::ComputeType type, int threads) {
  try {
    omp_set_num_threads(threads);
    auto state = std::make_unique<State>();
    state->threads = threads;
    const auto data_type =
        type == model::ComputeType::kBf16 ? dnnl::memory::data_type::bf16 : dnnl::memory::data_type::f32;
    for (size_t i = 0; i < shapes.size(); ++i) {
      const uint32_t shape_rows = i + 1 == shapes.size() ? head_rows : rows;
      state->products.push_back(MakeProduct(state->engine, state->stream, shapes[i], shape_rows, data_type));
    }
    GemmYardstick yardstick(std::move(state));
    yardstick.Run();
    return yardstick;
  } catch (const dnnl::error& error) {
    return base::Internal("oneDNN: {}", error.what());
  }
}

YardstickResult GemmYardstick::Run() {
  omp_set_num_threads(state_->threads);
  YardstickResult result;
  const base::TimePoint start = base::Clock::System().Now();
  for (Product& product : state_->products) {
    for (uint32_t i = 0; i < product.times; ++i) product.primitive.execute(state_->stream, product.arguments);
    result.flop += product.flop;
  }
  state_->stream.wait();
  result.seconds = base::ToSeconds(base::Clock::System().Now() - start);
  return result;
}

}  // namespace kvplane::cli
