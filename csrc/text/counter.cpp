#include "text/counter.h"

#include <algorithm>
#include <exception>
#include <mutex>
#include <random>
#include <thread>

#include "text/characters.h"

namespace seqkern::text {
namespace {

constexpr uint32_t kLineEnd = 0xFFFFFFFFu;
constexpr size_t kPendingBlock = 1 << 16;

uint64_t random_seed() {
  std::random_device device;
  return static_cast<uint64_t>(device()) << 32 | device();
}

// What became of a block.
struct Numbered {
  uint64_t lines = 0;             // line feeds, up to `invalid`
  const char* invalid = nullptr;  // the first byte that is no UTF-8
};

// The numbers of a block's words. If `strict`, looks for what is no UTF-8 and stops there: among
// words that the table did not have yet, which are so few that this costs nothing.
Numbered number_words(const Block& block, WordTable& table, bool strict,
                      std::vector<uint32_t>& numbers) {
  const char* p = block.text.data();
  const char* const checked = p + block.unchecked;
  const char* const end = p + block.size;
  Numbered result;
  for (;;) {
    while (p < end && is_space(*p)) {
      if (*p == '\n') {
        ++result.lines;
        // An empty line ends no sentence twice.
        if (numbers.empty() || numbers.back() != kLineEnd) numbers.push_back(kLineEnd);
      }
      ++p;
    }
    if (p >= end) return result;
    uint64_t high = 0;
    const char* stop = find_space(p, high);
    if (!has_high(high)) {
      numbers.push_back(table.add(p, static_cast<size_t>(stop - p)));
      p = stop;
      continue;
    }
    for (const char* start = p; start < stop;) {
      size_t space = 0;
      const char* q = start;
      while (q < stop && (space = wide_space(q)) == 0) ++q;
      if (q > start) {
        const auto length = static_cast<size_t>(q - start);
        const uint32_t known = table.size();
        const uint32_t number = table.add(start, length);
        if (strict && (number == known || length >= kLongestWord)) {
          const char* from = std::max(start, checked);
          const std::string_view word(from, static_cast<size_t>(q - from));
          const size_t valid = check_utf8(word).valid;
          if (valid < word.size()) {
            result.invalid = from + valid;
            return result;
          }
        }
        numbers.push_back(number);
      }
      start = q + space;
    }
    p = stop;
  }
}

}  // namespace

// What the threads that read a text share.
struct Counter::Reading {
  BlockReader& reader;
  bool strict;

  struct Lines {
    uint64_t block;
    uint64_t count;
  };

  std::mutex mutex{};
  std::exception_ptr failure{};
  std::vector<Lines> lines{};  // of each block, so that a line can be named
  std::optional<Invalid> invalid{};
  uint64_t invalid_block = 0;

  // Blocks are handed out in their order and each is read to its end, so that whichever thread is
  // faster the first place in the text stays.
  void add(const Block& block, const Numbered& numbered) {
    const std::lock_guard<std::mutex> lock(mutex);
    lines.push_back({block.number, numbered.lines});
    if (numbered.invalid == nullptr || (invalid && invalid_block < block.number)) return;
    const auto at = static_cast<size_t>(numbered.invalid - block.text.data());
    const std::string bytes(numbered.invalid, std::min<size_t>(4, block.size - at));
    invalid = Invalid{block.place(at), 0, bytes};
    invalid_block = block.number;
    reader.cancel();
  }
};

Counter::Counter(int spool) : seed_(random_seed()), spool_(spool) {}

std::optional<Counter::Invalid> Counter::read_text(BlockReader& reader, unsigned threads,
                                                   bool strict) {
  Reading reading{reader, strict};
  const auto work = [&](uint32_t table) {
    try {
      read_blocks(reading, table);
    } catch (...) {
      const std::lock_guard<std::mutex> lock(reading.mutex);
      if (!reading.failure) reading.failure = std::current_exception();
      reader.cancel();
    }
  };
  for (unsigned i = 0; i < threads; ++i) tables_.push_back(std::make_unique<WordTable>(seed_));
  std::vector<std::thread> others;
  try {
    for (unsigned i = 1; i < threads; ++i) others.emplace_back(work, i);
  } catch (const std::system_error&) {
    // The system grants no further thread; those that there are read everything.
  }
  work(0);
  for (std::thread& thread : others) thread.join();
  if (reading.invalid) {  // a failure to read on lies behind it
    reading.invalid->line = 1;
    for (const Reading::Lines& lines : reading.lines) {
      if (lines.block <= reading.invalid_block) reading.invalid->line += lines.count;
    }
    return reading.invalid;
  }
  if (reading.failure) std::rethrow_exception(reading.failure);
  return std::nullopt;
}

void Counter::read_blocks(Reading& reading, uint32_t table) {
  Block block;
  std::vector<uint32_t> numbers;
  while (reading.reader.next(block)) {
    numbers.clear();
    const Numbered numbered = number_words(block, *tables_[table], reading.strict, numbers);
    reading.add(block, numbered);
    spool_.write(block.number, table, numbers);
  }
}

void Counter::add_word(std::string_view word) {
  if (tables_.empty()) tables_.push_back(std::make_unique<WordTable>(seed_));
  pending_.push_back(tables_[0]->add_unpadded(word));
  if (pending_.size() >= kPendingBlock) flush();
}

void Counter::end_sentence() {
  pending_.push_back(kLineEnd);
}

void Counter::flush() {
  spool_.write(blocks_++, 0, pending_);
  pending_.clear();
}

void Counter::merge() {
  flush();
  if (tables_.empty()) tables_.push_back(std::make_unique<WordTable>(seed_));
  merged_numbers_.resize(tables_.size());
  merged_ = std::move(tables_[0]);
  merged_numbers_[0].resize(merged_->size());
  for (uint32_t i = 0; i < merged_->size(); ++i) merged_numbers_[0][i] = i;
  for (size_t t = 1; t < tables_.size(); ++t) {
    const WordTable& table = *tables_[t];
    merged_numbers_[t].resize(table.size());
    for (uint32_t i = 0; i < table.size(); ++i) {
      merged_numbers_[t][i] = merged_->add_unpadded(table.word(i), table.count(i));
    }
    tables_[t].reset();
  }
  join_invalid();
}

// Gives the count of every word that is no UTF-8 to the word with U+FFFD in its place.
void Counter::join_invalid() {
  std::vector<uint32_t> joined;  // by merged number; filled only if there is such a word
  const uint32_t size = merged_->size();
  for (uint32_t i = 0; i < size; ++i) {
    if (is_utf8(merged_->word(i))) continue;
    if (joined.empty()) {
      joined.resize(size);
      for (uint32_t j = 0; j < size; ++j) joined[j] = j;
    }
    const std::string word = replace_invalid(merged_->word(i), kLongestWord);
    joined[i] = merged_->add_unpadded(word, merged_->count(i));
    merged_->set_count(i, 0);
  }
  if (joined.empty()) return;
  for (std::vector<uint32_t>& numbers : merged_numbers_) {
    for (uint32_t& number : numbers) number = joined[number];
  }
}

std::vector<uint32_t> Counter::choose(uint64_t min_count, uint64_t max_vocabulary) const {
  std::vector<uint32_t> chosen;
  for (uint32_t i = 0; i < merged_->size(); ++i) {
    // A count of 0 is left of a word that was no UTF-8.
    if (count(i) >= std::max<uint64_t>(min_count, 1)) chosen.push_back(i);
  }
  std::sort(chosen.begin(), chosen.end(), [this](uint32_t a, uint32_t b) {
    return count(a) != count(b) ? count(a) > count(b) : word(a) < word(b);
  });
  if (chosen.size() > max_vocabulary) chosen.resize(max_vocabulary);
  return chosen;
}

void Counter::set_ids(const std::vector<uint32_t>& numbers) {
  ids_.assign(merged_->size(), -1);
  for (size_t id = 0; id < numbers.size(); ++id) ids_[numbers[id]] = static_cast<int32_t>(id);
}

void Counter::set_ids(const std::vector<std::string_view>& words) {
  std::vector<uint32_t> numbers;
  for (const std::string_view word : words) numbers.push_back(merged_->add_unpadded(word, 0));
  set_ids(numbers);
}

uint64_t Counter::known() const {
  uint64_t total = 0;
  for (uint32_t i = 0; i < ids_.size(); ++i) total += ids_[i] < 0 ? 0 : count(i);
  return total;
}

Counter::Totals Counter::encode(int file, uint64_t max_sentence,
                                const std::atomic<bool>& cancelled) {
  std::vector<std::vector<int32_t>> ids;  // by table and number
  uint64_t vocabulary = 0;
  for (const int32_t id : ids_) vocabulary = std::max<uint64_t>(vocabulary, id + 1);
  for (const std::vector<uint32_t>& numbers : merged_numbers_) {
    ids.emplace_back(numbers.size());
    for (size_t i = 0; i < numbers.size(); ++i) ids.back()[i] = ids_[numbers[i]];
  }

  CorpusWriter writer(file, vocabulary);
  Totals totals;
  std::vector<uint32_t> numbers;
  uint64_t known = 0, length = 0, sentences = 0;  // length: known words since the last end
  bool any = false;                               // a word, known or not, since the last line end
  for (const Spool::Piece& piece : spool_.sorted()) {
    if (cancelled) return totals;
    spool_.read(piece, numbers);
    const std::vector<int32_t>& id_of = ids[piece.table];
    for (size_t begin = 0; begin < numbers.size(); begin += CorpusWriter::kLargest / 2) {
      const size_t end = std::min(numbers.size(), begin + CorpusWriter::kLargest / 2);
      int32_t* out = writer.room(CorpusWriter::kLargest);
      for (size_t i = begin; i < end; ++i) {
        if (numbers[i] == kLineEnd) {
          totals.sentences += any;
          any = false;
          *out = kSentenceEnd;
          out += length > 0;
          sentences += length > 0;
          length = 0;
          continue;
        }
        any = true;
        ++totals.words;
        const int32_t id = id_of[numbers[i]];
        if (id < 0) continue;
        if (length == max_sentence) {
          *out++ = kSentenceEnd;
          ++sentences;
          length = 0;
        }
        *out++ = id;
        ++known;
        ++length;
      }
      writer.advance(out);
    }
  }
  totals.sentences += any;
  if (length > 0) {
    int32_t* out = writer.room(1);
    *out++ = kSentenceEnd;
    writer.advance(out);
    ++sentences;
  }
  totals.corpus = writer.finish(known, sentences);
  return totals;
}

}  // namespace seqkern::text
