#include "races.h"

#include <algorithm>

#include "machine.h"

namespace seqkern::emulator {

struct Record {
  Time time;        // 0: none
  uint32_t thread;  // number in the grid
  uint32_t line;
  uint16_t file;  // in `files`
  bool atomic;
};

struct History {
  Record write;
  Record reads[2];
};

namespace {

constexpr size_t kGranule = 2;

std::vector<const char*> files;

uint16_t index_of(const char* file) {
  static const char* last_file = nullptr;
  static uint16_t last_index = 0;
  if (file == last_file && !files.empty()) return last_index;
  const auto found = std::find(files.begin(), files.end(), file);
  last_index = found - files.begin();
  if (found == files.end()) files.push_back(file);
  last_file = file;
  return last_index;
}

bool races(const Record& before, const Record& now, Time since) {
  // Of an earlier launch thread numbers mean nothing now: the comparison with `since` sees to it.
  return before.time != 0 && before.time >= since && before.thread != now.thread &&
         !(before.atomic && now.atomic) &&
         before.time >= known_until(*machine.thread, before.thread);
}

[[noreturn]] void fail_race(const Record& before, const char* did, const Record& now, Access access,
                            const std::string& where) {
  const int threads = machine.launch.threads;
  fail(
      "race in memory: it %s %s at %s, and nothing orders this after thread %d of block %d, which "
      "%s it at %s",
      is_write(access) ? "writes" : "reads", where.c_str(),
      name_of({files[now.file], static_cast<int>(now.line)}).c_str(),
      static_cast<int>(before.thread) % threads, static_cast<int>(before.thread) / threads, did,
      name_of({files[before.file], static_cast<int>(before.line)}).c_str());
}

}  // namespace

Histories::~Histories() {
  unmap_memory(reinterpret_cast<char*>(begin_), mapped_);
}

void Histories::reserve(size_t bytes) {
  const size_t needed = (bytes / kGranule + 1) * sizeof(History);
  if (needed <= mapped_) return;
  unmap_memory(reinterpret_cast<char*>(begin_), mapped_);
  begin_ = reinterpret_cast<History*>(map_memory(needed));
  mapped_ = needed;
}

void Histories::check(size_t offset, size_t size, Access access, Place place, Time since,
                      std::string (*name)(size_t, const void*), const void* context) {
  const Record now = {machine.time, static_cast<uint32_t>(grid_index(*machine.thread)),
                      static_cast<uint32_t>(place.line), index_of(place.file), is_atomic(access)};
  for (size_t i = offset / kGranule; i <= (offset + size - 1) / kGranule; ++i) {
    History& history = begin_[i];
    const auto fail_after = [&](const Record& before, const char* did) {
      fail_race(before, did, now, access, name(std::max(offset, i * kGranule), context));
    };
    if (races(history.write, now, since)) fail_after(history.write, "wrote");
    if (is_write(access)) {
      for (Record& read : history.reads) {
        if (races(read, now, since)) fail_after(read, "read");
        read.time = 0;
      }
      history.write = now;
      continue;
    }
    // In place of a read of this thread's or of one that it comes after; else beside it.
    const bool beside = races(history.reads[0], now, since);
    history.reads[beside ? 1 : 0] = now;
  }
}

}  // namespace seqkern::emulator
