// kvplane encode, decode, inspect and verify: raw KV files (.npy) to objects (docs/formats/object.md) and
// back.
//
// Every command returns its exit code (exit_code.h), tells people on stderr and machines on stdout.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace kvplane::cli {

struct EncodeArgs {
  std::string input;  // .npy [layers, 2, tokens, kv_heads, head_dim]
  std::string output;
  std::string strategy = "int4";
  uint32_t head_group = 0;   // kv heads per tile; 0: all
  uint32_t first_token = 0;  // position of the first token in its sequence
  std::string profile;       // file of the profile the strategy takes; empty: none
  // The quality byte of both sides, or of keys and values (docs/strategies.md); empty: as the strategy says.
  std::vector<uint32_t> quality;
};
int CmdEncode(const EncodeArgs& args);

struct DecodeArgs {
  std::string input;
  std::string output;                 // .npy of bf16 patterns ('<u2')
  bool float32 = false;               // '<f4' instead
  bool strict = false;                // refuse lossy objects
  std::vector<std::string> profiles;  // files; the one the object names is taken
};
int CmdDecode(const DecodeArgs& args);

struct InspectArgs {
  std::string input;
  bool json = false;
};
int CmdInspect(const InspectArgs& args);

struct VerifyArgs {
  std::string input;                  // an object, or the folder of a disk store
  std::vector<std::string> profiles;  // files; the one the object names is taken
  bool repair = false;                // folders only
  bool json = false;                  // folders only
};
int CmdVerify(const VerifyArgs& args);

}  // namespace kvplane::cli
