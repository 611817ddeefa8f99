#pragma once
// Counts a corpus and encodes it in one pass over the text.
//
// Every thread numbers words in a table of its own as they appear, and parks these numbers in a
// spool file. Once all is read the tables are merged, the vocabulary is chosen, and one streaming
// pass turns the parked numbers into ids: falling count, ties by the bytes of the word, so the
// result does not depend on the number of threads.

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "text/block_reader.h"
#include "text/corpus_file.h"
#include "text/spool.h"
#include "text/word_table.h"

namespace seqkern::text {

class Counter {
 public:
  // The spool is an empty temporary file, which the caller keeps open and deletes.
  explicit Counter(int spool);

  // Where a text is no UTF-8.
  struct Invalid {
    uint64_t byte;      // from 0
    uint64_t line;      // from 1
    std::string bytes;  // a few from there on
  };

  // Takes what `reader` has left: a sentence a line, words between white space. If `strict`, stops
  // at what is no UTF-8 and returns the first such place. Throws FileError.
  std::optional<Invalid> read_text(BlockReader& reader, unsigned threads, bool strict);

  // One sentence of given words, one by one.
  void add_word(std::string_view word);
  void end_sentence();

  // After the last word: brings the tables together. Nothing may be added any more.
  void merge();

  // The words with at least `min_count` occurrences, the first `max_vocabulary` of them, in the
  // order of their ids: merged numbers for `word` and `count`.
  std::vector<uint32_t> choose(uint64_t min_count, uint64_t max_vocabulary) const;
  std::string_view word(uint32_t number) const { return merged_->word(number); }
  uint64_t count(uint32_t number) const { return merged_->count(number); }

  // Gives ids to words: by their merged numbers, or by themselves.
  void set_ids(const std::vector<uint32_t>& numbers);
  void set_ids(const std::vector<std::string_view>& words);

  // How many of the text's words have ids.
  uint64_t known() const;

  // What lies in the spool file, and whether that lies in memory instead of on a disk.
  uint64_t spooled() { return spool_.bytes(); }
  bool in_memory() const { return spool_.in_memory(); }

  struct Totals {
    uint64_t words = 0;      // known or not
    uint64_t sentences = 0;  // with at least one word, known or not
    CorpusHeader corpus{};
  };

  // Writes the words that have ids to an empty file; longer sentences are cut after `max_sentence`
  // of them. Stops early, with an unfinished file, once cancelled. Throws FileError.
  Totals encode(int file, uint64_t max_sentence, const std::atomic<bool>& cancelled);

 private:
  struct Reading;
  void read_blocks(Reading& reading, uint32_t table);
  void flush();
  void join_invalid();

  uint64_t seed_;
  Spool spool_;
  std::vector<std::unique_ptr<WordTable>> tables_;
  std::vector<uint32_t> pending_;  // numbers of given words, on their way to the spool
  uint64_t blocks_ = 0;            // of given words
  std::unique_ptr<WordTable> merged_;
  std::vector<std::vector<uint32_t>> merged_numbers_;  // by table and number
  std::vector<int32_t> ids_;                           // by merged number; negative: unknown
};

}  // namespace seqkern::text
