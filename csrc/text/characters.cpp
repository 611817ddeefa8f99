#include "text/characters.h"

namespace seqkern::text {
namespace {

// What is found at the front of the bytes: `length` of them, one character or an ill-formed part.
struct Part {
  size_t length;
  bool valid;
  bool unfinished;  // ill-formed only because the bytes end
};

Part first_part(std::string_view bytes) {
  const auto byte = [&](size_t i) { return static_cast<unsigned char>(bytes[i]); };
  const unsigned char lead = byte(0);
  if (lead < 0x80) return {1, true, false};
  if (lead < 0xC2 || lead > 0xF4) return {1, false, false};
  const size_t needed = lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
  // The second byte's range leaves out overlong forms, surrogates and what is above U+10FFFF.
  const unsigned char low = lead == 0xE0 ? 0xA0 : lead == 0xF0 ? 0x90 : 0x80;
  const unsigned char high = lead == 0xED ? 0x9F : lead == 0xF4 ? 0x8F : 0xBF;
  if (bytes.size() < 2) return {1, false, true};
  if (byte(1) < low || byte(1) > high) return {1, false, false};
  size_t length = 2;
  while (length < needed && length < bytes.size() && (byte(length) & 0xC0) == 0x80) ++length;
  return {length, length == needed, length < needed && length == bytes.size()};
}

}  // namespace

Utf8 check_utf8(std::string_view bytes) {
  size_t valid = 0;
  while (valid < bytes.size()) {
    // Eight characters of ASCII at a time.
    while (bytes.size() - valid >= 8 && !has_high(load8(bytes.data() + valid))) valid += 8;
    if (valid == bytes.size()) break;
    const Part part = first_part(bytes.substr(valid));
    if (!part.valid) return {valid, !part.unfinished};
    valid += part.length;
  }
  return {valid, false};
}

std::string replace_invalid(std::string_view bytes, size_t limit) {
  std::string result;
  while (!bytes.empty()) {
    const Part part = first_part(bytes);
    const std::string_view good = part.valid ? bytes.substr(0, part.length) : "\xEF\xBF\xBD";
    if (result.size() + good.size() > limit) break;
    result += good;
    bytes.remove_prefix(part.length);
  }
  return result;
}

}  // namespace seqkern::text
