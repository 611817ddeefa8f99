#pragma once
// A system call on one of our files that failed.

#include <cerrno>
#include <stdexcept>

namespace seqkern::text {

struct FileError : std::runtime_error {
  // `file` is what Python knows the file's name by: "source", "spool" or "corpus".
  FileError(const char* file, int code) : std::runtime_error(file), file(file), code(code) {}

  const char* file;
  int code;
};

}  // namespace seqkern::text
