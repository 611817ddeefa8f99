// What is to be done for layers on a GPU whose loops may run side by side: one layer in one
// direction, or both directions of a bidirectional one.
//
// Before the loop the input is projected for all steps by one product; after the backward loop the
// gradients of all weights are products over all rows, those of the biases sums. What is saved is
// what the CPU's and Triton's kernels save.
//
// The tensors of a task are matrices, possibly views: a direction of a bidirectional layer has its
// columns of the output.
#pragma once

#include <vector>

#include "recurrent/layer_cuda.h"

namespace seqkern {

struct ForwardTask {
  const CudaLayer* layer;
  OptionalTensor c0, b_ih, b_hh;
  Tensor output;                     // (rows, H)
  Tensor h_n;                        // (B, H)
  OptionalTensor c_n, gates, cells;  // (B, H), (rows, 4 H), (rows, H) as the cell has and saves it
};

struct BackwardTask {
  const CudaLayer* layer;
  OptionalTensor c0;
  OptionalTensor grad_output, grad_h_n, grad_c_n;
  Tensor output;                // with the strides of grad_output
  OptionalTensor gates, cells;  // as the forward pass saved them
  // What is computed, where it is there. The gradients of the gates' pre-activations: (rows, gates
  // * H), the GRU's third one that of n's input part; and (rows, H) of its state part.
  Tensor grad_gates;
  OptionalTensor grad_state_part, grad_h0, grad_c0;
};

using ForwardTasks = std::vector<ForwardTask>;
using BackwardTasks = std::vector<BackwardTask>;

// All tasks of a call have one shape, dtype and cell. Each cell's file has the kernels for it.
void run_lstm_forward(const ForwardTasks& tasks);
void run_lstm_backward(const BackwardTasks& tasks);
void run_gru_forward(const ForwardTasks& tasks);
void run_gru_backward(const BackwardTasks& tasks);
void run_rnn_forward(const ForwardTasks& tasks);
void run_rnn_backward(const BackwardTasks& tasks);

inline void run_tasks(const ForwardTasks& tasks) {
  switch (tasks[0].layer->cell) {
    case Cell::kLstm:
      return run_lstm_forward(tasks);
    case Cell::kGru:
      return run_gru_forward(tasks);
    default:
      return run_rnn_forward(tasks);
  }
}
inline void run_tasks(const BackwardTasks& tasks) {
  switch (tasks[0].layer->cell) {
    case Cell::kLstm:
      return run_lstm_backward(tasks);
    case Cell::kGru:
      return run_gru_backward(tasks);
    default:
      return run_rnn_backward(tasks);
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
