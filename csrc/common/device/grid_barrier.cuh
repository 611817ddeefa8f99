// A barrier among all blocks of a cooperative launch.
#pragma once

#include "common/device/barriers.cuh"
#include "common/device/flags.cuh"
#include "common/device/launch.cuh"

namespace seqkern::device {

// One word of each block in global memory, all 0 before the launch: block b writes the number of
// barriers that it has reached into arrived[b], and every block looks at all of them. Nothing is
// atomic, so no block waits in a queue, and the words are never set back.
class GridBarrier {
 public:
  SEQKERN_DEVICE explicit GridBarrier(uint32_t* arrived) : arrived_(arrived) {}

  // All threads of all blocks: what they wrote before is seen by all of them after.
  SEQKERN_DEVICE void wait(Place place = here()) {
    arrive(place);
    await(place);
  }

  // The first half: this block's part is done. Between the halves a block may do what others
  // neither wait for nor touch.
  SEQKERN_DEVICE void arrive(Place place = here()) {
    ++reached_;
    barrier(place);  // the release below is for what all threads of the block wrote
    if (thread() == 0) store_release(arrived_ + block(), reached_, place);
  }

  // The second half: so is everybody else's.
  SEQKERN_DEVICE void await(Place place = here()) {
    for (int other = thread(); other < blocks(); other += threads()) {
      // The difference is right also after 2^32 barriers.
      while (static_cast<int32_t>(load_acquire(arrived_ + other, place) - reached_) < 0) {
      }
    }
    barrier(place);
  }

 private:
  uint32_t* arrived_;
  uint32_t reached_ = 0;
};

}  // namespace seqkern::device
