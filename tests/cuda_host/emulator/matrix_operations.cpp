// mma.sync and ldmatrix, with the layouts of the PTX ISA as common/device/matrix.cuh gives them.
#include <cstring>

#include "machine.h"
#include "shared_memory.h"

namespace seqkern::emulator {
namespace {

constexpr int kRows = 16, kColumns = 8, kMostDepth = 16;

struct Product {
  Operand operand;
  float* sum;
  const uint32_t* a;
  const uint32_t* b;
};

struct Load {
  uint32_t* registers;
  int count;
  bool transposed;
  const char* row;
  Place place;
};

float number(Operand operand, uint32_t bits) {
  if (operand == Operand::kFloat16) return float16_to_float(static_cast<uint16_t>(bits));
  bits = operand == Operand::kBfloat16 ? bits << 16 : bits & ~uint32_t{0x1fff};
  float x;
  std::memcpy(&x, &bits, sizeof(x));
  return x;
}

// The operands as matrices, row by row, of the lanes' registers.
struct Operands {
  float a[kRows][kMostDepth];
  float b[kMostDepth][kColumns];
};

void gather(Operands& to, const Product& of, int lane) {
  const int group = lane / 4, member = lane % 4;
  for (int i = 0; i < 4; ++i) {
    const int row = group + 8 * (i % 2);
    if (of.operand == Operand::kTf32) {
      to.a[row][member + 4 * (i / 2)] = number(of.operand, of.a[i]);
    } else {
      to.a[row][2 * member + 8 * (i / 2)] = number(of.operand, of.a[i] & 0xffff);
      to.a[row][2 * member + 8 * (i / 2) + 1] = number(of.operand, of.a[i] >> 16);
    }
  }
  for (int i = 0; i < 2; ++i) {
    if (of.operand == Operand::kTf32) {
      to.b[member + 4 * i][group] = number(of.operand, of.b[i]);
    } else {
      to.b[2 * member + 8 * i][group] = number(of.operand, of.b[i] & 0xffff);
      to.b[2 * member + 8 * i + 1][group] = number(of.operand, of.b[i] >> 16);
    }
  }
}

void run_product(const void* const* payloads, int lanes) {
  if (lanes != kWarp) fail("mma in a warp of %d lanes", lanes);
  const auto lane = [&](int i) -> const Product& {
    return *static_cast<const Product*>(payloads[i]);
  };
  Operands operands;
  for (int i = 0; i < kWarp; ++i) gather(operands, lane(i), i);
  const int depth = lane(0).operand == Operand::kTf32 ? 8 : 16;
  float products[kRows][kColumns] = {};
  for (int row = 0; row < kRows; ++row) {
    for (int k = 0; k < depth; ++k) {
      for (int column = 0; column < kColumns; ++column) {
        products[row][column] += operands.a[row][k] * operands.b[k][column];
      }
    }
  }
  for (int i = 0; i < kWarp; ++i) {
    for (int j = 0; j < 4; ++j) {
      lane(i).sum[j] += products[i / 4 + 8 * (j / 2)][2 * (i % 4) + j % 2];
    }
  }
}

void run_load(const void* const* payloads, int lanes) {
  if (lanes != kWarp) fail("ldmatrix in a warp of %d lanes", lanes);
  Thread* const self = machine.thread;
  const auto lane = [&](int i) -> const Load& { return *static_cast<const Load*>(payloads[i]); };
  const int count = lane(0).count;
  uint16_t elements[8][8];
  for (int matrix = 0; matrix < count; ++matrix) {
    for (int row = 0; row < 8; ++row) {
      const int namer = 8 * matrix + row;
      machine.thread = &self->warp->lanes[namer];  // who is to blame for the address
      if (!is_shared(lane(namer).row)) {
        fail("ldmatrix at %s from an address that is not in shared memory",
             name_of(lane(namer).place).c_str());
      }
      check_read(lane(namer).row, sizeof(elements[row]), lane(namer).place);
      std::memcpy(elements[row], lane(namer).row, sizeof(elements[row]));
    }
    for (int i = 0; i < kWarp; ++i) {
      const int group = i / 4, pair = 2 * (i % 4);
      const uint16_t low = lane(i).transposed ? elements[pair][group] : elements[group][pair];
      const uint16_t high =
          lane(i).transposed ? elements[pair + 1][group] : elements[group][pair + 1];
      lane(i).registers[matrix] = low | uint32_t{high} << 16;
    }
  }
  machine.thread = self;
}

}  // namespace

void multiply_add(Operand operand, float* sum, const uint32_t* a, const uint32_t* b, Place place) {
  const Product mine = {operand, sum, a, b};
  together("mma", &mine, run_product, place);
}

void load_matrix(uint32_t* registers, int count, bool transposed, const void* row, Place place) {
  const Load mine = {registers, count, transposed, static_cast<const char*>(row), place};
  together("ldmatrix", &mine, run_load, place);
}

}  // namespace seqkern::emulator
