/* Codes a made-up KV cache into an object, looks at the object, decodes it and compares.
 *
 * usage: roundtrip [STRATEGY [PROFILE]]
 *   STRATEGY  a preset or a strategy's text (default int4)
 *   PROFILE   file of a model profile, for strategies that need one
 * Exit status 0 when every step succeeded. */
#include <kvplane.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { LAYERS = 4, TOKENS = 200, KV_HEADS = 2, HEAD_DIM = 64 };

/* bf16 is the upper half of binary32. */
static uint16_t to_bf16(float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  return (uint16_t)((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

static float from_bf16(uint16_t pattern) {
  const uint32_t bits = (uint32_t)pattern << 16;
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

/* Sums of uniform numbers, with a large mean on some channels, as caches have them. */
static void fill(uint16_t* kv, size_t elements) {
  uint64_t state = 1;
  for (size_t i = 0; i < elements; ++i) {
    float sum = i % HEAD_DIM == 5 ? 8.0f : 0.0f;
    for (int k = 0; k < 4; ++k) {
      state = state * 6364136223846793005u + 1442695040888963407u;
      sum += (float)(state >> 40) / (float)(1 << 24) - 0.5f;
    }
    kv[i] = to_bf16(sum);
  }
}

static int failed(const char* what, int code, const kvp_message* message) {
  fprintf(stderr, "%s: %s: %s\n", what, kvp_strerror(code), message->text);
  return EXIT_FAILURE;
}

static int run(const char* strategy, const kvp_profile* profile, uint16_t* kv, uint16_t* back,
               uint64_t elements, const kvp_layout* layout) {
  kvp_message message;
  kvp_encode_options encode = {0};
  encode.struct_bytes = sizeof encode;
  encode.strategy = strategy;
  encode.profile = profile;

  kvp_estimate_result estimate = {0};
  estimate.struct_bytes = sizeof estimate;
  int code = kvp_estimate(layout, kv, elements, &encode, 0, &estimate, &message);
  if (code != KVP_OK) return failed("estimate", code, &message);

  size_t bytes = 0;
  code = kvp_encode(layout, NULL, 0, &encode, NULL, 0, &bytes, &message);
  if (code != KVP_OK) return failed("size query", code, &message);
  void* object = malloc(bytes);
  if (object == NULL) return EXIT_FAILURE;
  code = kvp_encode(layout, kv, elements, &encode, object, bytes, &bytes, &message);
  if (code != KVP_OK) {
    free(object);
    return failed("encode", code, &message);
  }

  kvp_object info = {0};
  info.struct_bytes = sizeof info;
  code = kvp_object_info(object, bytes, &info, &message);
  if (code != KVP_OK) {
    free(object);
    return failed("info", code, &message);
  }

  kvp_decode_options decode = {0};
  decode.struct_bytes = sizeof decode;
  decode.profiles = &profile;
  decode.profile_count = profile == NULL ? 0 : 1;
  code = kvp_decode(object, bytes, &decode, layout, back, elements, &message);
  free(object);
  if (code != KVP_OK) return failed("decode", code, &message);

  float worst = 0;
  for (uint64_t i = 0; i < elements; ++i) {
    const float error = from_bf16(back[i]) - from_bf16(kv[i]);
    if (error > worst) worst = error;
    if (-error > worst) worst = -error;
  }
  printf("k: %s; v: %s\n", info.key_strategy, info.value_strategy);
  printf("%llu tokens, %llu -> %llu bytes (estimated %.0f), largest error %g\n",
         (unsigned long long)info.tokens, (unsigned long long)info.raw_bytes,
         (unsigned long long)info.object_bytes, estimate.object_bytes, (double)worst);
  if (info.lossy == 0 && worst != 0) {
    fprintf(stderr, "a lossless strategy changed values\n");
    return EXIT_FAILURE;
  }
  return EXIT_SUCCESS;
}

int main(int argc, char** argv) {
  if (kvp_abi_version() != KVP_ABI_VERSION) {
    fprintf(stderr, "built for another version of the library than %s\n", kvp_version());
    return EXIT_FAILURE;
  }
  kvp_layout layout = {0};
  layout.struct_bytes = sizeof layout;
  layout.layers = LAYERS;
  layout.tokens = TOKENS;
  layout.kv_heads = KV_HEADS;
  layout.head_dim = HEAD_DIM;

  kvp_message message;
  kvp_profile* profile = NULL;
  if (argc > 2) {
    const int code = kvp_profile_load(argv[2], &profile, &message);
    if (code != KVP_OK) return failed("profile", code, &message);
  }
  uint64_t elements = 0;
  int result = kvp_layout_elements(&layout, &elements, &message);
  if (result != KVP_OK) return failed("layout", result, &message);
  uint16_t* kv = malloc(elements * sizeof *kv);
  uint16_t* back = malloc(elements * sizeof *back);
  if (kv == NULL || back == NULL) {
    result = EXIT_FAILURE;
  } else {
    fill(kv, elements);
    result = run(argc > 1 ? argv[1] : "int4", profile, kv, back, elements, &layout);
  }
  free(kv);
  free(back);
  kvp_profile_free(profile);
  return result;
}
