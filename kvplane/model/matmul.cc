#include "kvplane/model/matmul.h"

#include <algorithm>
#include <cstring>
#include <deque>
#include <new>
#include <oneapi/dnnl/dnnl.hpp>
#include <optional>
#include <string>
#include <vector>

#include "kvplane/base/check.h"
#include "kvplane/base/clock.h"

// Declared here because clang would mix in libomp through <omp.h>; oneDNN of Debian uses libgomp.
extern "C" void omp_set_num_threads(int count);

namespace kvplane::model {
namespace {

using dnnl::memory;

// Below this many seconds of estimated work, waking other workers costs more than it saves.
constexpr double kSplitFromSeconds = 60e-6;
// Rough speeds for that estimate only: they choose who computes, never what.
constexpr double kFlopsPerSecond = 4e11;
constexpr double kBytesPerSecond = 6e10;
// Columns per unit of packed weights; splits fall on its multiples.
constexpr uint32_t kColumnUnit = 64;

// Every worker that calls oneDNN is one OpenMP thread: no nested teams.
void UseOneOpenMpThread() {
  thread_local const bool done = [] {
    omp_set_num_threads(1);
    return true;
  }();
  static_cast<void>(done);
}

memory::data_type DnnlType(ComputeType compute) {
  return compute == ComputeType::kBf16 ? memory::data_type::bf16 : memory::data_type::f32;
}

memory::desc PlainDesc(uint32_t rows, uint32_t columns, memory::data_type type) {
  return memory::desc(memory::dims{rows, columns}, type, memory::format_tag::ab);
}

memory::desc AnyWeights(uint32_t n, uint32_t k, memory::data_type type) {
  return memory::desc(memory::dims{k, n}, type, memory::format_tag::any);
}

dnnl::matmul::primitive_desc Describe(const dnnl::engine& engine, uint32_t rows, uint32_t n, uint32_t k,
                                      memory::data_type type, const memory::desc& weights) {
  dnnl::primitive_attr attributes;
  attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
  const dnnl::matmul::desc product(PlainDesc(rows, k, type), weights,
                                   PlainDesc(rows, n, memory::data_type::f32));
  return dnnl::matmul::primitive_desc(product, attributes, engine);
}

// One primitive with, per worker, the memory objects it is executed with.
struct Bucket {
  struct Slot {
    memory x;
    memory y;
    memory scratchpad;
  };
  dnnl::matmul primitive;
  std::vector<Slot> slots;  // [workers]
};

// All primitives of one [n, k].
struct Shape {
  uint32_t n = 0;
  uint32_t k = 0;
  memory::desc weights;
  std::vector<Bucket> buckets;  // [kRowBuckets]
};

size_t BucketOf(size_t rows) {
  size_t index = 0;
  while (kRowBuckets[index] < rows) ++index;
  return index;
}

struct alignas(64) Worker {
  dnnl::stream stream;
  std::vector<std::byte> scratchpad;
  std::vector<std::byte> x;    // padded input rows
  std::vector<float> y;        // padded output rows
  std::vector<float> columns;  // output of one split
  double seconds = 0;
};

// Where the columns of a packed matrix lie: units of kColumnUnit columns one after the other. Nothing when
// the library chose a layout in which a range of columns is not a range of bytes.
std::optional<size_t> BytesPerUnit(const memory::desc& desc, uint32_t n) {
  const dnnl_blocking_desc_t& blocking = desc.data.format_desc.blocking;
  dnnl_dim_t block = 1;
  for (int i = 0; i < blocking.inner_nblks; ++i) {
    if (blocking.inner_idxs[i] == 1) block *= blocking.inner_blks[i];
  }
  const bool columns_outermost = blocking.strides[1] >= blocking.strides[0] && block == kColumnUnit;
  if (!columns_outermost || desc.data.offset0 != 0 || n % kColumnUnit != 0) return std::nullopt;
  return static_cast<size_t>(blocking.strides[1]) * (desc.data.data_type == dnnl_bf16 ? 2 : 4);
}

bool SameBlocks(const memory::desc& a, const memory::desc& b) {
  const dnnl_blocking_desc_t& x = a.data.format_desc.blocking;
  const dnnl_blocking_desc_t& y = b.data.format_desc.blocking;
  return x.inner_nblks == y.inner_nblks &&
         std::equal(x.inner_blks, x.inner_blks + x.inner_nblks, y.inner_blks) &&
         std::equal(x.inner_idxs, x.inner_idxs + x.inner_nblks, y.inner_idxs);
}

void WidenRows(const WeightRows& part, float* to) {
  const size_t count = size_t{part.rows} * part.k;
  for (size_t i = 0; i < count; ++i) {
    if (part.dtype == tensor::DType::kF32) {
      std::memcpy(to + i, part.bytes + i * 4, 4);
      continue;
    }
    uint16_t bits;
    std::memcpy(&bits, part.bytes + i * 2, 2);
    to[i] = part.dtype == tensor::DType::kBf16 ? tensor::Bf16ToFloat(bits) : tensor::F16ToFloat(bits);
  }
}

// The parts one below the other in the compute type.
std::vector<std::byte> Stack(std::span<const WeightRows> parts, ComputeType compute) {
  size_t count = 0;
  for (const WeightRows& part : parts) count += size_t{part.rows} * part.k;
  std::vector<std::byte> out(count * (compute == ComputeType::kBf16 ? 2 : 4));
  std::vector<float> wide;
  std::byte* to = out.data();
  for (const WeightRows& part : parts) {
    const size_t values = size_t{part.rows} * part.k;
    if (compute == ComputeType::kF32) {
      wide.resize(values);
      WidenRows(part, wide.data());
      std::memcpy(to, wide.data(), values * 4);
      to += values * 4;
    } else if (part.dtype == tensor::DType::kBf16) {
      std::memcpy(to, part.bytes, values * 2);
      to += values * 2;
    } else {
      wide.resize(values);
      WidenRows(part, wide.data());
      for (size_t i = 0; i < values; ++i, to += 2) {
        const uint16_t bits = tensor::FloatToBf16(wide[i]);
        std::memcpy(to, &bits, 2);
      }
    }
  }
  return out;
}

double TimeOneProduct(const dnnl::engine& engine, memory::data_type type) {
  constexpr uint32_t kRows = 64;
  constexpr uint32_t kSide = 1024;
  constexpr int kRuns = 8;
  const auto described = Describe(engine, kRows, kSide, kSide, type, AnyWeights(kSide, kSide, type));
  const dnnl::matmul product(described);
  dnnl::stream stream(engine);
  memory x(described.src_desc(), engine);
  memory w(described.weights_desc(), engine);
  memory y(described.dst_desc(), engine);
  memory scratchpad(described.scratchpad_desc(), engine);
  std::memset(x.get_data_handle(), 0, described.src_desc().get_size());
  std::memset(w.get_data_handle(), 0, described.weights_desc().get_size());
  double best = 1e9;
  for (int run = 0; run < kRuns; ++run) {
    const base::TimePoint start = base::Clock::System().Now();
    product.execute(
        stream,
        {{DNNL_ARG_SRC, x}, {DNNL_ARG_WEIGHTS, w}, {DNNL_ARG_DST, y}, {DNNL_ARG_SCRATCHPAD, scratchpad}});
    stream.wait();
    best = std::min(best, base::ToSeconds(base::Clock::System().Now() - start));
  }
  return best;
}

}  // namespace

struct PackedMatrix::State {
  memory weights;
  Shape* whole = nullptr;
  Shape* split = nullptr;             // null: columns cannot be split
  std::vector<memory> split_weights;  // views into `weights`; the last may be narrower: `split_tail`
  Shape* split_tail = nullptr;
};

PackedMatrix::PackedMatrix() = default;
PackedMatrix::~PackedMatrix() = default;
PackedMatrix::PackedMatrix(PackedMatrix&&) noexcept = default;
PackedMatrix& PackedMatrix::operator=(PackedMatrix&&) noexcept = default;
uint32_t PackedMatrix::n() const { return state_->whole->n; }
uint32_t PackedMatrix::k() const { return state_->whole->k; }
size_t PackedMatrix::bytes() const { return state_->whole->weights.get_size(); }

bool Bf16MatmulSupported() {
  try {
    const dnnl::engine engine(dnnl::engine::kind::cpu, 0);
    const auto type = memory::data_type::bf16;
    const dnnl::matmul product(Describe(engine, 4, 64, 64, type, AnyWeights(64, 64, type)));
    return true;
  } catch (const dnnl::error&) {
    return false;
  }
}

ComputeType FasterComputeType() {
  UseOneOpenMpThread();
  if (!Bf16MatmulSupported()) return ComputeType::kF32;
  try {
    const dnnl::engine engine(dnnl::engine::kind::cpu, 0);
    const double bf16 = TimeOneProduct(engine, memory::data_type::bf16);
    const double f32 = TimeOneProduct(engine, memory::data_type::f32);
    return bf16 < f32 ? ComputeType::kBf16 : ComputeType::kF32;
  } catch (const dnnl::error&) {
    return ComputeType::kF32;
  }
}

struct Matmul::State {
  ComputeType compute;
  dnnl::engine engine{dnnl::engine::kind::cpu, 0};
  std::deque<Shape> shapes;  // stable addresses
  std::vector<Worker> workers;

  Shape* FindOrMakeShape(uint32_t n, uint32_t k);
  void MakeBucket(Shape* shape, uint32_t rows);
  void Execute(const Shape& shape, const memory& weights, const void* x, size_t rows, float* y,
               Worker& worker, size_t worker_index);
  void SplitColumns(PackedMatrix::State* matrix);
};

void Matmul::State::MakeBucket(Shape* shape, uint32_t rows) {
  const auto described = Describe(engine, rows, shape->n, shape->k, DnnlType(compute), shape->weights);
  Bucket bucket;
  bucket.primitive = dnnl::matmul(described);
  const size_t scratchpad_bytes = described.scratchpad_desc().get_size();
  for (Worker& worker : workers) {
    worker.scratchpad.resize(std::max(worker.scratchpad.size(), scratchpad_bytes + 64));
    worker.x.resize(std::max(worker.x.size(), described.src_desc().get_size()));
    worker.y.resize(std::max(worker.y.size(), size_t{rows} * shape->n));
    Bucket::Slot slot;
    slot.x = memory(described.src_desc(), engine, nullptr);
    slot.y = memory(described.dst_desc(), engine, nullptr);
    slot.scratchpad = memory(described.scratchpad_desc(), engine, nullptr);
    bucket.slots.push_back(std::move(slot));
  }
  shape->buckets.push_back(std::move(bucket));
}

Shape* Matmul::State::FindOrMakeShape(uint32_t n, uint32_t k) {
  for (Shape& shape : shapes) {
    if (shape.n == n && shape.k == k) return &shape;
  }
  Shape shape;
  shape.n = n;
  shape.k = k;
  const memory::data_type type = DnnlType(compute);
  shape.weights = Describe(engine, kRowBuckets.back(), n, k, type, AnyWeights(n, k, type)).weights_desc();
  for (const uint32_t rows : kRowBuckets) MakeBucket(&shape, rows);
  shapes.push_back(std::move(shape));
  return &shapes.back();
}

// rows <= kRowBuckets.back()
void Matmul::State::Execute(const Shape& shape, const memory& weights, const void* x, size_t rows, float* y,
                            Worker& worker, size_t worker_index) {
  const size_t index = BucketOf(rows);
  const Bucket& bucket = shape.buckets[index];
  const bool padded = kRowBuckets[index] != rows;
  if (padded) {
    const size_t bytes = rows * shape.k * (compute == ComputeType::kBf16 ? 2 : 4);
    std::memcpy(worker.x.data(), x, bytes);
    const size_t whole = bytes / rows * kRowBuckets[index];
    std::memset(worker.x.data() + bytes, 0, whole - bytes);
  }
  const Bucket::Slot& slot = bucket.slots[worker_index];
  slot.x.set_data_handle(padded ? worker.x.data() : const_cast<void*>(x));
  slot.y.set_data_handle(padded ? worker.y.data() : y);
  const auto scratchpad = reinterpret_cast<uintptr_t>(worker.scratchpad.data());
  slot.scratchpad.set_data_handle(reinterpret_cast<void*>((scratchpad + 63) & ~uintptr_t{63}));
  const dnnl_exec_arg_t arguments[] = {{DNNL_ARG_SRC, slot.x.get()},
                                       {DNNL_ARG_WEIGHTS, weights.get()},
                                       {DNNL_ARG_DST, slot.y.get()},
                                       {DNNL_ARG_SCRATCHPAD, slot.scratchpad.get()}};
  const dnnl_status_t status =
      dnnl_primitive_execute(bucket.primitive.get(), worker.stream.get(), 4, arguments);
  KVPLANE_CHECK(status == dnnl_success);
  if (padded) std::memcpy(y, worker.y.data(), rows * shape.n * sizeof(float));
}

// Prepares column ranges of about equal width, one or more per worker, as views into the packed weights.
void Matmul::State::SplitColumns(PackedMatrix::State* matrix) {
  const Shape& whole = *matrix->whole;
  const std::optional<size_t> unit_bytes = BytesPerUnit(whole.weights, whole.n);
  if (!unit_bytes || workers.size() < 2) return;
  const uint32_t units = whole.n / kColumnUnit;
  const uint32_t per_range =
      (units + static_cast<uint32_t>(workers.size()) - 1) / static_cast<uint32_t>(workers.size());
  if (per_range == units) return;
  Shape* range = FindOrMakeShape(per_range * kColumnUnit, whole.k);
  Shape* tail = units % per_range == 0 ? nullptr : FindOrMakeShape(units % per_range * kColumnUnit, whole.k);
  // A narrower matrix may get another layout, of which the whole one holds no copy.
  const auto same_layout = [&](const Shape& shape) {
    return BytesPerUnit(shape.weights, shape.n) == unit_bytes && SameBlocks(shape.weights, whole.weights);
  };
  if (!same_layout(*range) || (tail != nullptr && !same_layout(*tail))) return;
  matrix->split = range;
  matrix->split_tail = tail;
  auto* first = static_cast<std::byte*>(matrix->weights.get_data_handle());
  for (uint32_t unit = 0; unit < units; unit += per_range) {
    const Shape& shape = unit + per_range <= units ? *range : *tail;
    matrix->split_weights.emplace_back(shape.weights, engine, first + unit * *unit_bytes);
  }
}

Matmul::Matmul(std::unique_ptr<State> state) : state_(std::move(state)) {}
Matmul::~Matmul() = default;

base::Result<std::unique_ptr<Matmul>> Matmul::Create(ComputeType compute, size_t workers) {
  KVPLANE_CHECK(compute != ComputeType::kAuto && workers >= 1);
  UseOneOpenMpThread();
  if (compute == ComputeType::kBf16 && !Bf16MatmulSupported()) {
    return base::Unimplemented("this CPU has no bf16 matrix product: use the f32 compute type");
  }
  try {
    auto state = std::make_unique<State>();
    state->compute = compute;
    state->workers.resize(workers);
    for (Worker& worker : state->workers) worker.stream = dnnl::stream(state->engine);
    return std::unique_ptr<Matmul>(new Matmul(std::move(state)));
  } catch (const dnnl::error& error) {
    return base::Internal("oneDNN: {}", error.what());
  }
}

base::Result<PackedMatrix> Matmul::Pack(std::span<const WeightRows> parts) {
  KVPLANE_CHECK(!parts.empty());
  const uint32_t k = parts.front().k;
  uint32_t n = 0;
  for (const WeightRows& part : parts) {
    KVPLANE_CHECK(part.k == k);
    n += part.rows;
  }
  try {
    PackedMatrix matrix;
    matrix.state_ = std::make_unique<PackedMatrix::State>();
    matrix.state_->whole = state_->FindOrMakeShape(n, k);
    matrix.state_->weights = memory(matrix.state_->whole->weights, state_->engine);
    std::vector<std::byte> stacked = Stack(parts, state_->compute);
    const memory::desc rows_of_columns(memory::dims{k, n}, DnnlType(state_->compute), memory::format_tag::ba);
    memory plain(rows_of_columns, state_->engine, stacked.data());
    dnnl::stream& stream = state_->workers.front().stream;
    dnnl::reorder(plain, matrix.state_->weights).execute(stream, plain, matrix.state_->weights);
    stream.wait();
    state_->SplitColumns(matrix.state_.get());
    return matrix;
  } catch (const dnnl::error& error) {
    return base::Internal("oneDNN cannot pack weights [{}, {}]: {}", n, k, error.what());
  } catch (const std::bad_alloc&) {
    return base::ResourceExhausted("no memory to pack weights [{}, {}]", n, k);
  }
}

void Matmul::Run(const PackedMatrix& weights, const void* x, size_t rows, float* y, size_t worker_index) {
  UseOneOpenMpThread();
  const base::TimePoint start = base::Clock::System().Now();
  Worker& worker = state_->workers[worker_index];
  const PackedMatrix::State& matrix = *weights.state_;
  const auto* from = static_cast<const std::byte*>(x);
  constexpr size_t kLargest = kRowBuckets.back();
  for (size_t row = 0; row < rows; row += kLargest) {
    state_->Execute(*matrix.whole, matrix.weights, from + row * matrix.whole->k * element_bytes(),
                    std::min(rows - row, kLargest), y + row * matrix.whole->n, worker, worker_index);
  }
  worker.seconds += base::ToSeconds(base::Clock::System().Now() - start);
}

void Matmul::RunSplit(const PackedMatrix& weights, const void* x, size_t rows, float* y,
                      base::ThreadPool& pool) {
  const PackedMatrix::State& matrix = *weights.state_;
  KVPLANE_CHECK(rows <= kRowBuckets.back());
  const double work = std::max(2.0 * static_cast<double>(rows) * weights.n() * weights.k() / kFlopsPerSecond,
                               static_cast<double>(weights.bytes()) / kBytesPerSecond);
  if (matrix.split == nullptr || work < kSplitFromSeconds) {
    Run(weights, x, rows, y, 0);
    return;
  }
  const size_t n = matrix.whole->n;
  pool.ParallelFor(matrix.split_weights.size(), [&](size_t range, size_t worker_index) {
    UseOneOpenMpThread();
    const base::TimePoint start = base::Clock::System().Now();
    Worker& worker = state_->workers[worker_index];
    const bool tail = matrix.split_tail != nullptr && range + 1 == matrix.split_weights.size();
    const Shape& shape = tail ? *matrix.split_tail : *matrix.split;
    worker.columns.resize(std::max(worker.columns.size(), rows * shape.n));
    state_->Execute(shape, matrix.split_weights[range], x, rows, worker.columns.data(), worker, worker_index);
    for (size_t row = 0; row < rows; ++row) {
      std::memcpy(y + row * n + range * matrix.split->n, worker.columns.data() + row * shape.n,
                  shape.n * sizeof(float));
    }
    worker.seconds += base::ToSeconds(base::Clock::System().Now() - start);
  });
}

size_t Matmul::element_bytes() const { return state_->compute == ComputeType::kBf16 ? 2 : 4; }

double Matmul::seconds() const {
  double sum = 0;
  for (const Worker& worker : state_->workers) sum += worker.seconds;
  return sum;
}

void Matmul::ResetSeconds() {
  for (Worker& worker : state_->workers) worker.seconds = 0;
}

}  // namespace kvplane::model
