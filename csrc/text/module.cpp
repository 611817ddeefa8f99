// The Python module seqkern._text. It converts, releases the GIL and listens for Ctrl-C; the Python
// files in seqkern/text check arguments and name files in errors.

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <atomic>
#include <chrono>
#include <functional>
#include <future>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "text/block_reader.h"
#include "text/counter.h"
#include "text/file_error.h"
#include "text/samplers.h"
#include "text/source.h"
#include "text/subwords.h"

namespace py = pybind11;

namespace seqkern::text {
namespace {

// Runs `work` on another thread without the GIL. Meanwhile this one looks ten times a second
// whether Ctrl-C was pressed, and calls `tick`; what either raises calls `cancel`, then leaves.
void watched(const std::function<void()>& work, const std::function<void()>& cancel,
             const std::function<void()>& tick) {
  auto result = std::async(std::launch::async, work);
  try {
    for (;;) {
      {
        py::gil_scoped_release release;
        if (result.wait_for(std::chrono::milliseconds(100)) == std::future_status::ready) break;
      }
      if (PyErr_CheckSignals() != 0) throw py::error_already_set();
      tick();
    }
  } catch (...) {
    cancel();
    py::gil_scoped_release release;
    result.wait();
    throw;
  }
  result.get();
}

std::string_view utf8(py::handle text) {
  Py_ssize_t length = 0;
  const char* start = PyUnicode_AsUTF8AndSize(text.ptr(), &length);
  if (start == nullptr) throw py::error_already_set();
  return {start, static_cast<size_t>(length)};
}

py::str to_str(std::string_view word) {
  return py::str(word.data(), word.size());
}

// A numpy array that takes over the vector's memory.
template <class T>
py::array_t<T> to_array(std::vector<T>&& values) {
  auto owned = std::make_unique<std::vector<T>>(std::move(values));
  T* start = owned->data();
  const size_t size = owned->size();
  py::capsule owner(owned.get(), [](void* p) { delete static_cast<std::vector<T>*>(p); });
  owned.release();
  return py::array_t<T>(size, start, owner);
}

template <class T>
std::vector<T> to_vector(const py::array_t<T, py::array::c_style>& array) {
  return std::vector<T>(array.data(), array.data() + array.size());
}

// A Python object with `readinto`, which a decompressing stream has. It is asked under the GIL;
// what it raises passes through the text core. None says that there is nothing yet.
class PythonSource : public Source {
 public:
  explicit PythonSource(py::object stream) : readinto_(stream.attr("readinto")) {}

  size_t read(char* target, size_t length, const std::atomic<bool>& cancelled) override {
    while (!cancelled) {
      const py::gil_scoped_acquire acquire;
      const auto room = py::memoryview::from_memory(target, static_cast<py::ssize_t>(length));
      const py::object got = readinto_(room);
      if (!got.is_none()) return got.cast<size_t>();
    }
    return 0;
  }

 private:
  py::object readinto_;
};

// Reads a descriptor, of which the caller has taken `beginning` already, or a stream. Returns how
// many bytes there were, and where they are no UTF-8: (byte, line, a few bytes), or None.
py::tuple read_text(Counter& counter, py::object source, const std::string& beginning,
                    unsigned threads, size_t chunk, bool strict, py::object progress) {
  std::unique_ptr<Source> bytes;
  if (py::isinstance<py::int_>(source)) {
    bytes = std::make_unique<DescriptorSource>(source.cast<int>(), beginning);
  } else {
    bytes = std::make_unique<PythonSource>(source);
  }
  BlockReader reader(*bytes, chunk, strict);
  std::optional<Counter::Invalid> invalid;
  watched([&] { invalid = counter.read_text(reader, threads, strict); }, [&] { reader.cancel(); },
          [&] {
            if (!progress.is_none()) progress(reader.bytes_read());
          });
  py::object wrong = py::none();
  if (invalid) wrong = py::make_tuple(invalid->byte, invalid->line, py::bytes(invalid->bytes));
  return py::make_tuple(reader.bytes_read(), wrong);
}

void add_sentence(Counter& counter, py::handle words) {
  for (const py::handle word : py::reinterpret_borrow<py::object>(words)) {
    if (!PyUnicode_Check(word.ptr())) {
      throw py::type_error("a sentence should hold words of type str; it holds " +
                           py::repr(word).cast<std::string>());
    }
    counter.add_word(utf8(word));
  }
  counter.end_sentence();
}

py::tuple choose(Counter& counter, uint64_t min_count, uint64_t max_vocabulary) {
  std::vector<uint32_t> chosen;
  {
    py::gil_scoped_release release;
    counter.merge();
    chosen = counter.choose(min_count, max_vocabulary);
    counter.set_ids(chosen);
  }
  py::list words(chosen.size());
  std::vector<int64_t> counts(chosen.size());
  for (size_t i = 0; i < chosen.size(); ++i) {
    words[i] = to_str(counter.word(chosen[i]));
    counts[i] = static_cast<int64_t>(counter.count(chosen[i]));
  }
  return py::make_tuple(words, to_array(std::move(counts)));
}

void impose(Counter& counter, const py::list& words) {
  std::vector<std::string_view> views;
  for (const py::handle word : words) views.push_back(utf8(word));
  py::gil_scoped_release release;
  counter.merge();
  counter.set_ids(views);
}

py::tuple encode(Counter& counter, int file, uint64_t max_sentence) {
  std::atomic<bool> cancelled{false};
  Counter::Totals totals;
  watched([&] { totals = counter.encode(file, max_sentence, cancelled); },
          [&] { cancelled = true; }, [] {});
  const CorpusHeader& corpus = totals.corpus;
  return py::make_tuple(totals.words, totals.sentences, corpus.entries, corpus.words,
                        corpus.sentences, corpus.vocabulary);
}

py::tuple check(int file) {
  std::atomic<bool> cancelled{false};
  CorpusHeader header{};
  std::string wrong;
  watched([&] { wrong = check_corpus(file, cancelled, header); }, [&] { cancelled = true; }, [] {});
  return py::make_tuple(wrong, header.entries, header.words, header.sentences, header.vocabulary);
}

py::list ngrams(py::str word, uint32_t min_n, uint32_t max_n) {
  py::list found;
  for_ngrams(utf8(word), min_n, max_n, [&](std::string_view n) { found.append(to_str(n)); });
  return found;
}

py::list ngram_rows(py::str word, uint32_t min_n, uint32_t max_n, uint32_t buckets) {
  py::list rows;
  for_ngrams(utf8(word), min_n, max_n,
             [&](std::string_view n) { rows.append(fasttext_hash(n) % buckets); });
  return rows;
}

py::tuple bags(const py::list& words, uint32_t min_n, uint32_t max_n, uint32_t buckets,
               int32_t first_row) {
  std::vector<std::string_view> views;
  for (const py::handle word : words) views.push_back(utf8(word));
  std::vector<int64_t> offsets{0};
  std::vector<int32_t> rows;
  {
    py::gil_scoped_release release;
    offsets.reserve(views.size() + 1);
    for (size_t i = 0; i < views.size(); ++i) {
      rows.push_back(static_cast<int32_t>(i));
      if (buckets > 0) {
        for_ngrams(views[i], min_n, max_n, [&](std::string_view n) {
          rows.push_back(first_row + static_cast<int32_t>(fasttext_hash(n) % buckets));
        });
      }
      offsets.push_back(static_cast<int64_t>(rows.size()));
    }
  }
  return py::make_tuple(to_array(std::move(offsets)), to_array(std::move(rows)));
}

py::tuple alias(const py::array_t<double, py::array::c_style>& weights) {
  const std::vector<double> values = to_vector(weights);
  AliasTable table;
  {
    py::gil_scoped_release release;
    table = alias_table(values);
  }
  return py::make_tuple(to_array(std::move(table.thresholds)), to_array(std::move(table.aliases)));
}

py::tuple huffman_paths(const py::array_t<int64_t, py::array::c_style>& counts) {
  const std::vector<int64_t> values = to_vector(counts);
  HuffmanPaths paths;
  {
    py::gil_scoped_release release;
    paths = huffman(values);
  }
  return py::make_tuple(to_array(std::move(paths.offsets)), to_array(std::move(paths.nodes)),
                        to_array(std::move(paths.codes)));
}

// OSError(number, message, file), where `file` says which of our files it was.
void translate(std::exception_ptr failure) {
  try {
    if (failure) std::rethrow_exception(failure);
  } catch (const FileError& error) {
    const py::tuple arguments =
        py::make_tuple(error.code, std::generic_category().message(error.code), error.file);
    PyErr_SetObject(PyExc_OSError, arguments.ptr());
  }
}

}  // namespace

PYBIND11_MODULE(_text, module) {
  module.doc() = "The text core: see seqkern.text, which checks arguments and names files.";
  py::register_exception_translator(&translate);
  py::class_<Counter>(module, "Counter")
      .def(py::init<int>(), py::arg("spool"))
      .def("read_text", &read_text)
      .def("add_sentence", &add_sentence)
      .def("choose", &choose)
      .def("impose", &impose)
      .def("known", &Counter::known)
      .def("spooled", &Counter::spooled)
      .def("in_memory", &Counter::in_memory)
      .def("encode", &encode);
  module.def("check_corpus", &check);
  module.def("ngrams", &ngrams);
  module.def("ngram_rows", &ngram_rows);
  module.def("bags", &bags);
  module.def("alias_table", &alias);
  module.def("huffman", &huffman_paths);
  module.def("fasttext_hash",
             [](const py::bytes& bytes) { return fasttext_hash(std::string_view(bytes)); });
  module.attr("LONGEST_WORD") = kLongestWord;
}

}  // namespace seqkern::text
