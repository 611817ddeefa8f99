// The operators of skip-gram and CBOW on the CPU: the loss with what its gradients need, the
// gradients, and the step of gradient descent that needs no gradient.
#include "embedding/cpu/objective_cpu.h"

#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <tuple>

#include "common/ceil_div.h"

namespace seqkern {
namespace {

// Examples that are worked on together: their losses are added up first, and then those of all
// blocks in their order, so that the loss does not depend on the number of threads.
constexpr int64_t kBlock = 64;

// The tensors of a batch, checked, and their call.
struct Batch {
  Tensor in_weight, out_weight, inputs, targets;
  OptionalTensor negatives, offsets, nodes, codes;
  ObjectiveCall call{};
  int64_t examples = 0;

  ScalarType dtype() const { return in_weight.scalar_type(); }
  bool counts(int64_t e) const;
  int64_t counted() const;
  uint32_t term_row(int64_t e, int64_t t) const;
};

void check_paths(const Batch& b) {
  check(b.offsets && b.nodes && b.codes,
        "either negatives or path_offsets, path_nodes and path_codes should be given");
  check(b.offsets->scalar_type() == ScalarType::Long && b.offsets->dim() == 1 &&
            b.offsets->is_contiguous() && b.offsets->numel() > 0,
        "path_offsets should be contiguous int64 numbers in 1 dimension, one more than words");
  check(
      b.nodes->scalar_type() == ScalarType::Int && b.nodes->dim() == 1 && b.nodes->is_contiguous(),
      "path_nodes should be contiguous int32 numbers in 1 dimension");
  check(b.codes->scalar_type() == ScalarType::Byte && b.codes->is_contiguous(),
        "path_codes should be contiguous uint8 numbers");
  check_shape("path_codes", *b.codes, shape_of(*b.nodes));
  for (int64_t e = 0; e < b.examples; ++e) {
    const int64_t word = b.call.targets[e];
    if (word == b.call.padding_idx) continue;
    const int64_t first = b.call.offsets[word], end = b.call.offsets[word + 1];
    check(first >= 0 && first <= end && end <= b.nodes->numel() && end - first <= b.call.terms,
          "the path of word ", word, " should lie within path_nodes and have at most ",
          b.call.terms, " nodes, but it is [", first, ", ", end, ")");
    for (int64_t place = first; place < end; ++place)
      check(b.call.nodes[place] >= 0 && b.call.nodes[place] < b.out_weight.size(0),
            "path_nodes holds ", b.call.nodes[place], ", which is not in [0, ",
            b.out_weight.size(0), ")");
  }
}

Batch batch_of(const Tensor& in_weight, const Tensor& out_weight, const Tensor& inputs,
               const Tensor& targets, const OptionalTensor& negatives,
               const OptionalTensor& offsets, const OptionalTensor& nodes,
               const OptionalTensor& codes, int64_t terms, bool mean, int64_t padding_idx) {
  Batch b{in_weight,
          out_weight,
          as_contiguous(inputs),
          as_contiguous(targets),
          as_contiguous(negatives),
          as_contiguous(offsets),
          as_contiguous(nodes),
          as_contiguous(codes)};
  check_table("in_weight", in_weight);
  check_table("out_weight", out_weight);
  check(in_weight.scalar_type() == out_weight.scalar_type(),
        "in_weight and out_weight should have the same dtype");
  check(in_weight.size(1) == out_weight.size(1),
        "in_weight and out_weight should have the same number of features, but they have ",
        in_weight.size(1), " and ", out_weight.size(1));
  check(inputs.dim() == 2, "inputs should have 2 dimensions, but has the shape ",
        shape_text(inputs));
  b.examples = inputs.size(0);
  check_indices("inputs", b.inputs, shape_of(inputs), in_weight.size(0), padding_idx);
  check(terms >= 0, "terms should not be negative, but it is ", terms);
  int64_t words = out_weight.size(0);
  if (!negatives && offsets) words = offsets->numel() - 1;
  check_indices("targets", b.targets, {b.examples}, words, padding_idx);
  if (negatives)
    check_indices("negatives", *b.negatives, {b.examples, terms - 1}, words, padding_idx);

  ObjectiveCall& c = b.call;
  c.in_weight = in_weight.const_data_ptr();
  c.out_weight = out_weight.const_data_ptr();
  c.in_stride = in_weight.stride(0);
  c.out_stride = out_weight.stride(0);
  c.dim = in_weight.size(1);
  c.inputs = static_cast<const int64_t*>(b.inputs.const_data_ptr());
  c.inputs_each = inputs.size(1);
  c.targets = static_cast<const int64_t*>(b.targets.const_data_ptr());
  c.negatives = static_cast<const int64_t*>(data(b.negatives));
  if (!negatives) c.offsets = static_cast<const int64_t*>(data(b.offsets));
  c.nodes = static_cast<const int32_t*>(data(b.nodes));
  c.codes = static_cast<const uint8_t*>(data(b.codes));
  c.terms = terms;
  c.padding_idx = padding_idx;
  c.mean = mean;
  if (!negatives) check_paths(b);
  return b;
}

bool Batch::counts(int64_t e) const {
  if (call.targets[e] == call.padding_idx) return false;
  const int64_t* words = call.inputs + e * call.inputs_each;
  return std::any_of(words, words + call.inputs_each,
                     [&](int64_t word) { return word != call.padding_idx; });
}

int64_t Batch::counted() const {
  int64_t count = 0;
  for (int64_t e = 0; e < examples; ++e) count += counts(e);
  return count;
}

// The row of out_weight that term t of an example that counts reads.
uint32_t Batch::term_row(int64_t e, int64_t t) const {
  const int64_t target = call.targets[e];
  if (!call.offsets) {
    const int64_t word = t == 0 ? target : call.negatives[e * (call.terms - 1) + t - 1];
    return word == call.padding_idx ? kNoRow : static_cast<uint32_t>(word);
  }
  const int64_t place = call.offsets[target] + t;
  return place < call.offsets[target + 1] ? static_cast<uint32_t>(call.nodes[place]) : kNoRow;
}

// The loss, summed, of all examples; writes what the call wants.
double run_examples(const Batch& b) {
  const ObjectiveKernels& kernels = objective_kernels(storage_of("in_weight", b.dtype()));
  const int64_t blocks = ceil_div(b.examples, kBlock);
  std::vector<double> sums(static_cast<size_t>(blocks));
  const int64_t bytes = kernels.scratch_bytes(b.call);
  const auto run = [&](int64_t first, int64_t last) {
    const std::unique_ptr<char[]> scratch(new char[static_cast<size_t>(bytes)]);
    for (int64_t block = first; block < last; ++block)
      sums[static_cast<size_t>(block)] = kernels.examples(
          b.call, block * kBlock, std::min(b.examples, (block + 1) * kBlock), scratch.get());
  };
  torch::stable::parallel_for(0, blocks, 1, run);
  double total = 0;
  for (const double sum : sums) total += sum;
  return total;
}

Tensor number(double value, ScalarType dtype) {
  const Tensor out = empty({}, dtype);
  if (dtype == ScalarType::Double)
    *static_cast<double*>(out.mutable_data_ptr()) = value;
  else
    *static_cast<float*>(out.mutable_data_ptr()) = static_cast<float>(value);
  return out;
}

double value_of(const char* name, const Tensor& t) {
  check(t.numel() == 1, name, " should be one number");
  if (t.scalar_type() == ScalarType::Double) return *static_cast<const double*>(t.const_data_ptr());
  check(t.scalar_type() == ScalarType::Float, name, " should be float32 or float64");
  return *static_cast<const float*>(t.const_data_ptr());
}

// What the derivatives are made of: rows for every example, and errors for every term.
struct Saved {
  Tensor hidden, grad_inputs, coefficients;
};

Saved empty_saved(const Batch& b) {
  const ScalarType dtype = compute_dtype(b.dtype());
  return {empty({b.examples, b.call.dim}, dtype), empty({b.examples, b.call.dim}, dtype),
          empty({b.examples, b.call.terms}, dtype)};
}

void save_to(ObjectiveCall& call, const Saved& saved) {
  call.hidden = saved.hidden.mutable_data_ptr();
  call.grad_inputs = saved.grad_inputs.mutable_data_ptr();
  call.coefficients = saved.coefficients.mutable_data_ptr();
}

void check_saved(const Batch& b, const Saved& saved) {
  const ScalarType dtype = compute_dtype(b.dtype());
  const std::tuple<const char*, const Tensor&, int64_t> all[] = {
      {"hidden", saved.hidden, b.call.dim},
      {"grad_inputs", saved.grad_inputs, b.call.dim},
      {"coefficients", saved.coefficients, b.call.terms}};
  for (const auto& [name, tensor, columns] : all) {
    check_shape(name, tensor, {b.examples, columns});
    check(tensor.scalar_type() == dtype && tensor.is_contiguous(), name,
          " should be contiguous and as the forward gave it");
  }
}

// ---- both tables' sums, with the groups that they go to ----

RowGroups input_groups(const Batch& b) {
  const int64_t each = b.call.inputs_each, count = b.examples * each;
  const std::unique_ptr<uint32_t[]> keys(new uint32_t[static_cast<size_t>(count)]);
  for (int64_t e = 0; e < b.examples; ++e) {
    const bool counts = b.counts(e);
    for (int64_t i = e * each; i < (e + 1) * each; ++i)
      keys[static_cast<size_t>(i)] = counts && b.call.inputs[i] != b.call.padding_idx
                                         ? static_cast<uint32_t>(b.call.inputs[i])
                                         : kNoRow;
  }
  return group_rows(keys.get(), count, b.in_weight.size(0));
}

RowGroups term_groups(const Batch& b) {
  const int64_t count = b.examples * b.call.terms;
  const std::unique_ptr<uint32_t[]> keys(new uint32_t[static_cast<size_t>(count)]);
  for (int64_t e = 0; e < b.examples; ++e) {
    const bool counts = b.counts(e);
    for (int64_t t = 0; t < b.call.terms; ++t)
      keys[static_cast<size_t>(e * b.call.terms + t)] = counts ? b.term_row(e, t) : kNoRow;
  }
  return group_rows(keys.get(), count, b.out_weight.size(0));
}

RowSums input_sums(const Batch& b, const Saved& saved, double scale) {
  RowSums sums{};
  sums.source = saved.grad_inputs.const_data_ptr();
  sums.dim = b.call.dim;
  sums.per_owner = static_cast<uint32_t>(b.call.inputs_each);
  sums.scale = scale;
  return sums;
}

RowSums term_sums(const Batch& b, const Saved& saved, double scale) {
  RowSums sums{};
  sums.source = saved.hidden.const_data_ptr();
  sums.dim = b.call.dim;
  sums.per_owner = static_cast<uint32_t>(b.call.terms);
  sums.weights = saved.coefficients.const_data_ptr();
  sums.scale = scale;
  return sums;
}

// ---- the operators ----

// loss: the mean over the examples that count; scale: 1 / their number, or 0 where there are none.
std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> embedding_objective(
    const Tensor& in_weight, const Tensor& out_weight, const Tensor& inputs, const Tensor& targets,
    const OptionalTensor& negatives, const OptionalTensor& path_offsets,
    const OptionalTensor& path_nodes, const OptionalTensor& path_codes, int64_t terms, bool mean,
    int64_t padding_idx, bool save) {
  Batch b = batch_of(in_weight, out_weight, inputs, targets, negatives, path_offsets, path_nodes,
                     path_codes, terms, mean, padding_idx);
  const ScalarType dtype = compute_dtype(b.dtype());
  Saved saved{empty({0}, dtype), empty({0}, dtype), empty({0}, dtype)};
  if (save) {
    saved = empty_saved(b);
    save_to(b.call, saved);
  }
  const double total = run_examples(b);
  const int64_t counted = b.counted();
  const double scale = counted ? 1.0 / static_cast<double>(counted) : 0.0;
  return {number(total * scale, dtype), number(scale, dtype), saved.hidden, saved.grad_inputs,
          saved.coefficients};
}

// The gradients of both tables; one that `needs` (bits 1, 2) leaves out is (0).
std::tuple<Tensor, Tensor> embedding_objective_backward(
    const Tensor& grad_loss, const Tensor& scale, const Tensor& hidden, const Tensor& grad_inputs,
    const Tensor& coefficients, const Tensor& in_weight, const Tensor& out_weight,
    const Tensor& inputs, const Tensor& targets, const OptionalTensor& negatives,
    const OptionalTensor& path_offsets, const OptionalTensor& path_nodes,
    const OptionalTensor& path_codes, int64_t terms, bool mean, int64_t padding_idx,
    int64_t needs) {
  const Batch b = batch_of(in_weight, out_weight, inputs, targets, negatives, path_offsets,
                           path_nodes, path_codes, terms, mean, padding_idx);
  const Saved saved{hidden, grad_inputs, coefficients};
  check_saved(b, saved);
  const double factor = value_of("grad_loss", grad_loss) * value_of("scale", scale);
  Tensor grad_in = empty({0}, b.dtype()), grad_out = empty({0}, b.dtype());
  if (needs & 1)
    grad_in =
        dense_sums(input_sums(b, saved, factor), input_groups(b), in_weight.size(0), b.dtype());
  if (needs & 2)
    grad_out =
        dense_sums(term_sums(b, saved, factor), term_groups(b), out_weight.size(0), b.dtype());
  return {grad_in, grad_out};
}

// The same by the rows that have a gradient: their numbers in rising order, and their gradients.
std::tuple<Tensor, Tensor, Tensor, Tensor> embedding_objective_backward_sparse(
    const Tensor& grad_loss, const Tensor& scale, const Tensor& hidden, const Tensor& grad_inputs,
    const Tensor& coefficients, const Tensor& in_weight, const Tensor& out_weight,
    const Tensor& inputs, const Tensor& targets, const OptionalTensor& negatives,
    const OptionalTensor& path_offsets, const OptionalTensor& path_nodes,
    const OptionalTensor& path_codes, int64_t terms, bool mean, int64_t padding_idx,
    int64_t needs) {
  const Batch b = batch_of(in_weight, out_weight, inputs, targets, negatives, path_offsets,
                           path_nodes, path_codes, terms, mean, padding_idx);
  const Saved saved{hidden, grad_inputs, coefficients};
  check_saved(b, saved);
  const double factor = value_of("grad_loss", grad_loss) * value_of("scale", scale);
  const auto none = [&] {
    return SparseRows{empty({0}, ScalarType::Long), empty({0, b.call.dim}, b.dtype())};
  };
  const SparseRows in =
      needs & 1 ? sparse_sums(input_sums(b, saved, factor), input_groups(b), b.dtype()) : none();
  const SparseRows out =
      needs & 2 ? sparse_sums(term_sums(b, saved, factor), term_groups(b), b.dtype()) : none();
  return {in.rows, in.values, out.rows, out.values};
}

// One step of gradient descent on the summed loss, all of it at the tables as they were; returns
// the mean loss.
Tensor embedding_objective_update_(const Tensor& in_weight, const Tensor& out_weight,
                                   const Tensor& inputs, const Tensor& targets,
                                   const OptionalTensor& negatives,
                                   const OptionalTensor& path_offsets,
                                   const OptionalTensor& path_nodes,
                                   const OptionalTensor& path_codes, int64_t terms, bool mean,
                                   int64_t padding_idx, double lr) {
  Batch b = batch_of(in_weight, out_weight, inputs, targets, negatives, path_offsets, path_nodes,
                     path_codes, terms, mean, padding_idx);
  const std::pair<const char*, const Tensor&> tables[] = {{"in_weight", in_weight},
                                                          {"out_weight", out_weight}};
  for (const auto& [name, table] : tables)
    check(table.size(0) <= 1 || table.stride(0) >= table.size(1), name,
          " should have rows that do not overlap, but they are ", table.stride(0), " apart");
  const Saved saved = empty_saved(b);
  save_to(b.call, saved);
  const double total = run_examples(b);
  add_sums(term_sums(b, saved, -lr), term_groups(b), out_weight);
  add_sums(input_sums(b, saved, -lr), input_groups(b), in_weight);
  const int64_t counted = b.counted();
  return number(counted ? total / static_cast<double>(counted) : 0.0, compute_dtype(b.dtype()));
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(seqkern, CPU, m) {
  m.impl("embedding_objective", TORCH_BOX(&embedding_objective));
  m.impl("embedding_objective_backward", TORCH_BOX(&embedding_objective_backward));
  m.impl("embedding_objective_backward_sparse", TORCH_BOX(&embedding_objective_backward_sparse));
  m.impl("embedding_objective_update_", TORCH_BOX(&embedding_objective_update_));
}

}  // namespace seqkern
