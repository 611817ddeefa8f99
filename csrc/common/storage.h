// The storage types that CPU kernels exist for.
#pragma once

namespace seqkern {

enum class Storage { kFloat, kDouble, kBfloat16 };
constexpr int kStorages = 3;

}  // namespace seqkern
