// Verbs about KV at rest: encode, decode, inspect, verify, and profile with what is under it.
#include <CLI/CLI.hpp>

#include "apps/cli/commands/cmd_codec.h"
#include "apps/cli/commands/cmd_profile_fit.h"
#include "apps/cli/commands/profile_enumerate.h"
#include "apps/cli/verbs/verb.h"

namespace kvplane::cli {
namespace {

void AddProfileFit(CLI::App* profile, Action& action) {
  static ProfileFitArgs args;
  CLI::App* fit = Verb(*profile, "fit", "Fit a profile of a model's KV cache on text");
  fit->add_option("--model", args.runtime.model, "Model folder");
  fit->add_option("--threads", args.runtime.threads, "Compute threads; 0: one per CPU");
  fit->add_option("--compute", args.runtime.compute, "GEMM type; auto: the faster one, measured at start")
      ->check(CLI::IsMember({"auto", "bf16", "f32"}));
  fit->add_option("--text", args.text, "Text files, or folders of *.txt: not what quality is judged on")
      ->required();
  fit->add_option("--out", args.out, "Where the profile goes")->required();
  fit->add_option("--prompts", args.prompts, "Stretches of text");
  fit->add_option("--tokens", args.tokens, "Tokens of each");
  fit->add_option("--probes", args.probes, "Sequences that sensitivities are measured on");
  fit->add_option("--task-share", args.task_share,
                  "Percent of the prompts that hold questions with answers, in the formats of bench quality "
                  "but from other draws: retrieval must be part of what is fitted");
  fit->add_option("--words", args.words, "Words of the tasks; default: task_words.txt of the model folder");
  fit->add_option("--max-rank", args.max_rank, "Components kept of every basis; 0: all");
  fit->add_option("--seed", args.seed, "Seed of the fit");
  fit->callback([&action] { action = [] { return CmdProfileFit(args); }; });
}

}  // namespace

void AddCodecVerbs(CLI::App& app, Action& action) {
  static EncodeArgs encode_args;
  CLI::App* encode =
      Verb(app, "encode", "Code raw KV (.npy [layers, 2, tokens, kv_heads, head_dim]) into an object");
  encode->add_option("input", encode_args.input, "Raw KV, .npy")->required();
  encode->add_option("-o,--output", encode_args.output, "Object file")->required();
  encode->add_option("--strategy", encode_args.strategy, "Preset or strategy text, e.g. int4");
  encode->add_option("--head-group", encode_args.head_group, "KV heads per tile; 0: all");
  encode->add_option("--first-token", encode_args.first_token, "Position of the first token in its sequence");
  encode->add_option("--profile", encode_args.profile, "Profile of the model, for strategies that take one");
  encode
      ->add_option("--quality", encode_args.quality,
                   "Quality byte of ecsq and ternary, 1..255: 16 more is a bit more per value, 128 and 0 as "
                   "the strategy says; K,V or one for both")
      ->delimiter(',')
      ->allow_extra_args(false);
  encode->callback([&action] { action = [] { return CmdEncode(encode_args); }; });

  static DecodeArgs decode_args;
  CLI::App* decode = Verb(app, "decode", "Decode an object into raw KV (.npy)");
  decode->add_option("input", decode_args.input, "Object file")->required();
  decode->add_option("-o,--output", decode_args.output, "Raw KV, .npy")->required();
  decode->add_flag("--float32", decode_args.float32, "Write float32 instead of bf16 patterns");
  decode
      ->add_option("--profile", decode_args.profiles,
                   "Profile file; repeatable, the one the object names is taken")
      ->allow_extra_args(false);
  decode->add_flag("--strict", decode_args.strict, "Refuse lossy objects");
  decode->callback([&action] { action = [] { return CmdDecode(decode_args); }; });

  static InspectArgs inspect_args;
  CLI::App* inspect = Verb(app, "inspect", "Show what an object or a profile holds");
  inspect->add_option("input", inspect_args.input, "Object or profile file")->required();
  inspect->add_flag("--json", inspect_args.json, "JSON to standard output");
  inspect->callback([&action] { action = [] { return CmdInspect(inspect_args); }; });

  static VerifyArgs verify_args;
  CLI::App* verify = Verb(
      app, "verify", "Check every checksum of an object and decode it, or of all objects of a disk store");
  verify->add_option("input", verify_args.input, "Object file, or the folder of a disk store")->required();
  verify
      ->add_option("--profile", verify_args.profiles,
                   "Profile file; repeatable, the one the object names is taken")
      ->allow_extra_args(false);
  verify->add_flag("--repair", verify_args.repair, "Erase what is damaged (disk stores)");
  verify->add_flag("--json", verify_args.json, "Print the counts as JSON on standard output (disk stores)");
  verify->callback([&action] { action = [] { return CmdVerify(verify_args); }; });
}

void AddProfile(CLI::App& app, Action& action) {
  CLI::App* profile = Verb(app, "profile", "Strategies of the space, and what is fitted to a model");
  profile->require_subcommand(1);
  AddProfileFit(profile, action);

  static ProfileEnumerateArgs enumerate_args;
  CLI::App* enumerate = Verb(*profile, "enumerate", "List the legal strategies of a grid, one per line");
  enumerate->add_option("--grid", enumerate_args.grid,
                        "full, published, or one sub-space such as kvserve (docs/strategies.md)");
  enumerate
      ->add_option("--side-pairs", enumerate_args.side_pairs,
                   "family: one sub-space on both sides; same: with equal values; all: every key chain with "
                   "every value chain")
      ->check(CLI::IsMember({"family", "same", "all"}));
  enumerate->add_option("--limit", enumerate_args.limit, "Strategies at most; 0: all");
  enumerate->add_flag("--no-dominated", enumerate_args.no_dominated,
                      "Leave out what another strategy is never worse than");
  enumerate->add_flag("--no-profile", enumerate_args.no_profile, "Leave out what needs a fitted profile");
  enumerate->add_option("--format", enumerate_args.format, "text, or json: one object per line")
      ->check(CLI::IsMember({"text", "json"}));
  enumerate->callback([&action] { action = [] { return CmdProfileEnumerate(enumerate_args); }; });
}

}  // namespace kvplane::cli
