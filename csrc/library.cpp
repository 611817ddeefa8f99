// Every operator's schema. Arguments: seqkern/<domain>/ops.py; `save`, `needs`, `packed` and what
// is saved: the domain's
// *_cpu.h and kernels.h here.
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY(seqkern, m) {
  // recurrent: one layer, one direction, all time steps
  m.def(
      "lstm_forward(Tensor input, Tensor? h0, Tensor? c0, Tensor w_ih, Tensor w_hh, Tensor? b_ih, "
      "Tensor? b_hh, Tensor? w_hr, "
      "Tensor? packed, Tensor? batch_sizes, bool reverse, bool save) "
      "-> (Tensor output, Tensor h_n, Tensor c_n, Tensor gates, Tensor cells, Tensor hidden)");
  m.def(
      "lstm_backward(Tensor? grad_output, Tensor? grad_h_n, Tensor? grad_c_n, Tensor input, "
      "Tensor? h0, Tensor? c0, "
      "Tensor w_ih, Tensor w_hh, Tensor? w_hr, Tensor? batch_sizes, Tensor output, Tensor gates, "
      "Tensor cells, "
      "Tensor hidden, bool reverse, int needs) "
      "-> (Tensor grad_input, Tensor grad_h0, Tensor grad_c0, Tensor grad_w_ih, Tensor grad_w_hh, "
      "Tensor grad_bias, "
      "Tensor grad_w_hr)");
  m.def(
      "gru_forward(Tensor input, Tensor? h0, Tensor w_ih, Tensor w_hh, Tensor? b_ih, Tensor? b_hh, "
      "Tensor? packed, "
      "Tensor? batch_sizes, bool reverse, bool save) -> (Tensor output, Tensor h_n, Tensor gates)");
  m.def(
      "gru_backward(Tensor? grad_output, Tensor? grad_h_n, Tensor input, Tensor? h0, Tensor w_ih, "
      "Tensor w_hh, "
      "Tensor? batch_sizes, Tensor output, Tensor gates, bool reverse, int needs) "
      "-> (Tensor grad_input, Tensor grad_h0, Tensor grad_w_ih, Tensor grad_w_hh, Tensor "
      "grad_b_ih, Tensor grad_b_hh)");
  m.def(
      "rnn_forward(Tensor input, Tensor? h0, Tensor w_ih, Tensor w_hh, Tensor? b_ih, Tensor? b_hh, "
      "Tensor? packed, "
      "Tensor? batch_sizes, bool relu, bool reverse, bool save) -> (Tensor output, Tensor h_n)");
  m.def(
      "rnn_backward(Tensor? grad_output, Tensor? grad_h_n, Tensor input, Tensor? h0, Tensor w_ih, "
      "Tensor w_hh, "
      "Tensor? batch_sizes, Tensor output, bool relu, bool reverse, int needs) "
      "-> (Tensor grad_input, Tensor grad_h0, Tensor grad_w_ih, Tensor grad_w_hh, Tensor "
      "grad_bias)");
  m.def("recurrent_pack(Tensor w_hh, int gates) -> Tensor");
  // recurrent: a stack of layers, both directions side by side, layers as a wave; CUDA only
  m.def(
      "recurrent_stack_forward(Tensor input, Tensor? h0, Tensor? c0, Tensor[] weights, Tensor? "
      "batch_sizes, int cell, bool bias, bool bidirectional, bool save) -> (Tensor output, Tensor "
      "h_n, Tensor c_n, Tensor hidden, Tensor gates, Tensor cells)");
  m.def(
      "recurrent_stack_backward(Tensor? grad_output, Tensor? grad_h_n, Tensor? grad_c_n, Tensor "
      "input, Tensor? h0, Tensor? c0, Tensor[] weights, Tensor? batch_sizes, Tensor output, Tensor "
      "hidden, Tensor gates, Tensor cells, int cell, bool bias, bool bidirectional, int[] needs) "
      "-> (Tensor grad_input, Tensor grad_h0, Tensor grad_c0, Tensor[] grad_weights)");

  // recurrent: one step of a cell; gradients come in the order of the forward's arguments
  m.def(
      "lstm_cell_forward(Tensor input, Tensor? h0, Tensor? c0, Tensor w_ih, Tensor w_hh, Tensor? "
      "b_ih, Tensor? b_hh, bool save) -> (Tensor h, Tensor c, Tensor? gates)");
  m.def(
      "lstm_cell_backward(Tensor? grad_h, Tensor? grad_c, Tensor input, Tensor? h0, Tensor? c0, "
      "Tensor w_ih, Tensor w_hh, Tensor gates, int needs) -> (Tensor? grad_input, Tensor? grad_h0, "
      "Tensor? grad_c0, Tensor? grad_w_ih, Tensor? grad_w_hh, Tensor? grad_b_ih, Tensor? "
      "grad_b_hh)");
  m.def(
      "gru_cell_forward(Tensor input, Tensor? h0, Tensor w_ih, Tensor w_hh, Tensor? b_ih, Tensor? "
      "b_hh, bool save) -> (Tensor h, Tensor? gates)");
  m.def(
      "gru_cell_backward(Tensor? grad_h, Tensor input, Tensor? h0, Tensor w_ih, Tensor w_hh, "
      "Tensor gates, int needs) -> (Tensor? grad_input, Tensor? grad_h0, Tensor? grad_w_ih, "
      "Tensor? grad_w_hh, Tensor? grad_b_ih, Tensor? grad_b_hh)");
  m.def(
      "rnn_cell_forward(Tensor input, Tensor? h0, Tensor w_ih, Tensor w_hh, Tensor? b_ih, Tensor? "
      "b_hh, bool relu) -> Tensor");
  m.def(
      "rnn_cell_backward(Tensor? grad_h, Tensor input, Tensor? h0, Tensor w_ih, Tensor w_hh, "
      "Tensor h, bool relu, int needs) -> (Tensor? grad_input, Tensor? grad_h0, Tensor? grad_w_ih, "
      "Tensor? grad_w_hh, Tensor? grad_b_ih, Tensor? grad_b_hh)");

  // attention: every head of a call; packed sequences with cu_seqlens
  m.def(
      "attention_forward(Tensor query, Tensor key, Tensor value, Tensor? mask, Tensor? bias, "
      "Tensor? alibi_slopes, Tensor? sinks, Tensor? cu_seqlens_q, Tensor? cu_seqlens_k, Tensor? "
      "seed, float scale, float softcap, float dropout_p, bool is_causal, int window_left, int "
      "window_right) -> (Tensor output, Tensor lse)");
  m.def(
      "attention_backward(Tensor grad_output, Tensor? grad_lse, Tensor query, Tensor key, Tensor "
      "value, Tensor output, Tensor lse, Tensor? mask, Tensor? bias, Tensor? alibi_slopes, Tensor? "
      "sinks, Tensor? cu_seqlens_q, Tensor? cu_seqlens_k, Tensor? seed, float scale, float "
      "softcap, float dropout_p, bool is_causal, int window_left, int window_right, int needs) -> "
      "(Tensor grad_query, Tensor grad_key, Tensor grad_value, Tensor grad_bias, Tensor "
      "grad_alibi_slopes)");
  // the same for dense calls with nothing but a mask without gradient, as PyTorch's function takes
  // it: fewer arguments and results take less time
  m.def(
      "attention_dense_forward(Tensor query, Tensor key, Tensor value, Tensor? attn_mask, float? "
      "scale, bool is_causal) -> (Tensor output, Tensor? lse)");
  m.def(
      "attention_dense_backward(Tensor grad_output, Tensor query, Tensor key, Tensor value, "
      "Tensor? output, Tensor? lse, Tensor? attn_mask, float? scale, bool is_causal, int needs) -> "
      "(Tensor grad_query, Tensor grad_key, Tensor grad_value)");
  // between the projections of multi-head attention, which may hold query, key and value in one;
  // weights: 0 none, 1 their mean over the heads, 2 those of each head
  m.def(
      "multi_head_attention_forward(Tensor query, Tensor? key, Tensor? value, int heads, bool "
      "batch_first, Tensor? mask, bool mask_excludes, Tensor? bias, Tensor? seed, float dropout_p, "
      "bool is_causal, int weights) -> (Tensor output, Tensor? lse, Tensor? weights)");
  m.def(
      "multi_head_attention_backward(Tensor grad_output, Tensor query, Tensor? "
      "key, Tensor? value, Tensor? output, Tensor? lse, int heads, bool batch_first, Tensor? mask, "
      "bool mask_excludes, Tensor? bias, Tensor? seed, float dropout_p, bool is_causal, bool "
      "needs_bias) -> (Tensor grad_query, Tensor grad_key, Tensor grad_value, Tensor grad_bias)");
  m.def(
      "attention_dropout_mask(Tensor seed, float dropout_p, int batch, int heads, int queries, int "
      "keys) -> Tensor");

  // embedding: the training loop of word vectors over a piece of a corpus
  m.def(
      "embedding_train_(Tensor(a!) input_rows, Tensor(b!) output_rows, Tensor tokens, Tensor keep, "
      "Tensor? noise_thresholds, Tensor? noise_aliases, Tensor? path_offsets, Tensor? path_nodes, "
      "Tensor? path_codes, Tensor? bag_offsets, Tensor? bag_rows, bool cbow, int window, bool "
      "shrink_windows, int negatives, bool share_negatives, bool cbow_mean, float lr, float "
      "final_lr, int seed, int threads, bool deterministic, bool compute_loss, int copies) -> "
      "Tensor");
  // how far apart its threads are (no fake: nothing compiled calls it)
  m.def("embedding_thread_distances(int threads) -> Tensor");

  // common: a * b + add by our own kernels, for tests (no fake: nothing compiled calls it)
  m.def("matmul(Tensor a, Tensor b, Tensor? add) -> Tensor");
  // embedding: a batch of skip-gram or CBOW examples; bags of rows; the optimizer of their tables
  m.def(
      "embedding_objective(Tensor in_weight, Tensor out_weight, Tensor inputs, Tensor targets, "
      "Tensor? negatives, Tensor? path_offsets, Tensor? path_nodes, Tensor? path_codes, int terms, "
      "bool mean, int padding_idx, bool save) -> (Tensor loss, Tensor scale, Tensor hidden, Tensor "
      "grad_inputs, Tensor coefficients)");
  m.def(
      "embedding_objective_backward(Tensor grad_loss, Tensor scale, Tensor hidden, Tensor "
      "grad_inputs, Tensor coefficients, Tensor in_weight, Tensor out_weight, Tensor inputs, "
      "Tensor targets, Tensor? negatives, Tensor? path_offsets, Tensor? path_nodes, Tensor? "
      "path_codes, int terms, bool mean, int padding_idx, int needs) -> (Tensor grad_in_weight, "
      "Tensor grad_out_weight)");
  m.def(
      "embedding_objective_backward_sparse(Tensor grad_loss, Tensor scale, Tensor hidden, Tensor "
      "grad_inputs, Tensor coefficients, Tensor in_weight, Tensor out_weight, Tensor inputs, "
      "Tensor targets, Tensor? negatives, Tensor? path_offsets, Tensor? path_nodes, Tensor? "
      "path_codes, int terms, bool mean, int padding_idx, int needs) -> (Tensor in_rows, Tensor "
      "in_values, Tensor out_rows, Tensor out_values)");
  m.def(
      "embedding_objective_update_(Tensor(a!) in_weight, Tensor(b!) out_weight, Tensor inputs, "
      "Tensor targets, Tensor? negatives, Tensor? path_offsets, Tensor? path_nodes, Tensor? "
      "path_codes, int terms, bool mean, int padding_idx, float lr) -> Tensor loss");
  m.def(
      "embedding_bags(Tensor weight, Tensor offsets, Tensor rows, Tensor words, bool mean) -> "
      "Tensor");
  m.def(
      "embedding_bags_backward(Tensor grad, Tensor weight, Tensor offsets, Tensor rows, Tensor "
      "words) -> Tensor");
  m.def(
      "embedding_bags_backward_sparse(Tensor grad, Tensor weight, Tensor offsets, Tensor rows, "
      "Tensor words) -> (Tensor rows, Tensor values)");
  m.def(
      "sparse_adam_(Tensor(a!) weight, Tensor(b!) exp_avg, Tensor(c!) exp_avg_sq, Tensor rows, "
      "Tensor values, float beta1, float beta2, float eps, float step_size) -> ()");
}
