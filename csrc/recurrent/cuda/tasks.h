// What is to be done for layers on a GPU whose loops may run side by side: one layer in one
// direction, both directions of a bidirectional one, or a wave: layers on top of each other, each a
// step behind the one that feeds it.
//
// Before the loop the input is projected for all steps by one product, in a wave only that of the
// first layer: the loops of those above form their projection step by step, as the backward loops
// of those below form the gradient of their output. After the backward loop the gradients of all
// weights are products over all rows, those of the biases sums. What is saved is what the CPU's and
// Triton's kernels save.
//
// The tensors of a task are matrices, possibly views: a direction of a bidirectional layer has its
// columns of the output.
#pragma once

#include <vector>

#include "recurrent/cuda/layer.h"

namespace seqkern {

struct ForwardTask {
  const CudaLayer* layer;
  OptionalTensor c0, b_ih, b_hh;
  Tensor output;                     // (rows, H)
  Tensor h_n;                        // (B, H)
  OptionalTensor c_n, gates, cells;  // (B, H), (rows, 4 H), (rows, H) as the cell has and saves it
};

// In a wave, which goes down from the last layer, grad_output is that of the last layer alone.
struct BackwardTask {
  const CudaLayer* layer;
  OptionalTensor c0;
  OptionalTensor grad_output, grad_h_n, grad_c_n;
  Tensor output;
  OptionalTensor gates, cells;  // as the forward pass saved them
  // What is computed, where it is there. The gradients of the gates' pre-activations: (rows, gates
  // * H), the GRU's third one that of n's input part; and (rows, H) of its state part.
  Tensor grad_gates;
  OptionalTensor grad_state_part, grad_h0, grad_c0;
};

using ForwardTasks = std::vector<ForwardTask>;
using BackwardTasks = std::vector<BackwardTask>;

// All tasks of a call have one shape (but for the width of the input), dtype and cell. In a `wave`
// each one feeds the next. Each cell's file has the kernels for it.
void run_lstm_forward(const ForwardTasks& tasks, bool wave);
void run_lstm_backward(const BackwardTasks& tasks, bool wave);
int lstm_wave(const CudaLayer& layer, int64_t layers, bool backward);
void run_gru_forward(const ForwardTasks& tasks, bool wave);
void run_gru_backward(const BackwardTasks& tasks, bool wave);
int gru_wave(const CudaLayer& layer, int64_t layers, bool backward);
void run_rnn_forward(const ForwardTasks& tasks, bool wave);
void run_rnn_backward(const BackwardTasks& tasks, bool wave);
int rnn_wave(const CudaLayer& layer, int64_t layers, bool backward);

inline void run_tasks(const ForwardTasks& tasks, bool wave = false) {
  switch (tasks[0].layer->cell) {
    case Cell::kLstm:
      return run_lstm_forward(tasks, wave);
    case Cell::kGru:
      return run_gru_forward(tasks, wave);
    default:
      return run_rnn_forward(tasks, wave);
  }
}
inline void run_tasks(const BackwardTasks& tasks, bool wave = false) {
  switch (tasks[0].layer->cell) {
    case Cell::kLstm:
      return run_lstm_backward(tasks, wave);
    case Cell::kGru:
      return run_gru_backward(tasks, wave);
    default:
      return run_rnn_backward(tasks, wave);
  }
}

// How many of so many layers like this one, on top of each other, are to run as a wave; 1: none.
inline int wave_of(const CudaLayer& layer, int64_t layers, bool backward) {
  if (layers == 1) return 1;
  switch (layer.cell) {
    case Cell::kLstm:
      return lstm_wave(layer, layers, backward);
    case Cell::kGru:
      return gru_wave(layer, layers, backward);
    default:
      return rnn_wave(layer, layers, backward);
  }
}

// The gradients of a layer's weights in the order of the operators' results; those that were not
// asked for have no elements. grad_b_hh is grad_b_ih itself except for the GRU.
struct WeightGradients {
  Tensor w_ih, w_hh, b_ih, b_hh;
};
WeightGradients weight_gradients(const BackwardTask& task, int64_t needs);

// The gradient of the input, for the tasks that share it: `grads` has their grad_gates side by
// side.
Tensor input_gradient(const std::vector<const CudaLayer*>& layers, const Tensor& grads);

// One layer in one direction, from checked arguments to results.
ForwardResult forward_layer(const CudaLayer& layer, const ForwardExtras& extras);
BackwardResult backward_layer(const CudaLayer& layer, const BackwardExtras& extras);

}  // namespace seqkern
