/* kvplane.h: the C interface of the kvplane codec, installed as <kvplane.h> (docs/capi.md).
 *
 * KV caches to objects (docs/formats/object.md) and back: encode, inspect, decode, and what a strategy would
 * give. KV is bf16 patterns in uint16_t; strides are in elements.
 *
 * Conventions. Every function that can fail returns an int: KVP_OK (0) or another KVP_ code. The last
 * argument of such a function is where a message goes, or NULL; it is written in full or emptied by every
 * call. Nothing is thrown, printed or kept between calls: there is no state but what handles hold. Memory is
 * the caller's, but for the handles, which kvp_*_free() gives back. Calls run on the caller's thread from
 * beginning to end; the library starts none.
 *
 * Each function says its codes; every one may also give KVP_INVALID_ARGUMENT (a pointer that must not be
 * NULL, a struct_bytes that no version has had), KVP_RESOURCE_EXHAUSTED (no memory) and KVP_INTERNAL.
 *
 * Versions. Structs that may grow begin with their size, which the caller sets to sizeof the struct; fields
 * that a caller's header does not have yet count as zero. Within one KVP_ABI_VERSION nothing is removed.
 *
 * Thread safety. All functions may be called from many threads at once, also with the same kvp_profile: it is
 * immutable. A profile must not be freed during calls that use it.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

#if defined(__GNUC__)
#define KVP_API __attribute__((visibility("default")))
#else
#define KVP_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

#define KVP_ABI_VERSION 1

/* Codes; numbers are for ever. */
enum {
  KVP_OK = 0,
  KVP_INVALID_ARGUMENT = 1,    /* the call is wrong: a pointer, a shape, a strategy */
  KVP_NOT_FOUND = 2,           /* no such file */
  KVP_CORRUPT = 3,             /* damaged or no object, damaged or no profile */
  KVP_UNAVAILABLE = 4,         /* a file that cannot be read */
  KVP_RESOURCE_EXHAUSTED = 7,  /* no memory, or beyond a bound */
  KVP_UNIMPLEMENTED = 8,       /* of a later version */
  KVP_FAILED_PRECONDITION = 9, /* a profile is missing or of another model; lossy where exact was asked for */
  KVP_INTERNAL = 11,           /* a bug of the library */
  KVP_BUFFER_TOO_SMALL = 100   /* more room, or more bytes, are needed: the size says how many */
};

#define KVP_MESSAGE_BYTES 512
#define KVP_STRATEGY_BYTES 1025

/* What went wrong, for people: cut where it is longer, always terminated. */
typedef struct kvp_message {
  char text[KVP_MESSAGE_BYTES];
} kvp_message;

/* A model profile (docs/formats/profile.md). */
typedef struct kvp_profile kvp_profile;

/* Where KV lies: element (l, side, t, h, c) at
 *     l * layer_stride + side * side_stride + t * token_stride + h * head_stride + c,  side 0 K, 1 V.
 * All four strides zero: contiguous [layers, 2, tokens, kv_heads, head_dim]. Elements must not overlap. */
typedef struct kvp_layout {
  uint32_t struct_bytes; /* sizeof(kvp_layout) */
  uint32_t layers;
  uint32_t tokens;
  uint32_t kv_heads;
  uint32_t head_dim;
  uint32_t reserved; /* 0 */
  uint64_t layer_stride;
  uint64_t side_stride;
  uint64_t token_stride;
  uint64_t head_stride;
} kvp_layout;

typedef struct kvp_encode_options {
  uint32_t struct_bytes;         /* sizeof(kvp_encode_options) */
  uint32_t first_token;          /* position of the first token in its sequence */
  uint32_t head_group;           /* KV heads per tile, a divisor of kv_heads; 0: all */
  uint8_t quality[2];            /* K, V: meaning belongs to the strategy; 0: as it says */
  uint8_t reserved[2];           /* 0 */
  const char* strategy;          /* a preset's name or a strategy's text; NULL: "off" */
  const kvp_profile* profile;    /* NULL unless the strategy needs one */
  uint8_t model_fingerprint[32]; /* SHA-256; zeros: unknown, as the two below */
  uint8_t token_chain[32];
  uint8_t rope[16];
} kvp_encode_options;

typedef struct kvp_decode_options {
  uint32_t struct_bytes;              /* sizeof(kvp_decode_options) */
  uint32_t strict;                    /* not 0: refuse lossy objects */
  const kvp_profile* const* profiles; /* [profile_count]; the one that the object names is taken */
  size_t profile_count;
} kvp_decode_options;

/* What an object says of itself. */
typedef struct kvp_object {
  uint32_t struct_bytes; /* sizeof(kvp_object), set by the caller */
  uint16_t format_major;
  uint16_t format_minor;
  uint32_t layers;
  uint32_t tokens;
  uint32_t kv_heads;
  uint32_t head_dim;
  uint32_t head_group; /* KV heads per tile */
  uint32_t first_token;
  uint32_t lossy;         /* 1: decoded values may differ from the encoded ones */
  uint32_t needs_profile; /* 1: decoding takes the profile whose id is below */
  uint8_t quality[2];
  uint8_t reserved[6];
  uint64_t raw_bytes; /* of the KV as bf16 */
  uint64_t object_bytes;
  uint64_t prefix_bytes; /* what kvp_object_info() must see */
  uint8_t model_fingerprint[32];
  uint8_t token_chain[32];
  uint8_t rope[16];
  uint8_t profile[16]; /* zeros: none */
  uint8_t strategy_id[16];
  char key_strategy[KVP_STRATEGY_BYTES]; /* canonical text */
  char value_strategy[KVP_STRATEGY_BYTES];
} kvp_object;

/* What coding would give and cost, from a sample of tiles. */
typedef struct kvp_estimate_result {
  uint32_t struct_bytes; /* sizeof(kvp_estimate_result), set by the caller */
  uint32_t reserved;
  uint64_t tiles;
  uint64_t tiles_sampled;
  double object_bytes;       /* expected */
  double object_bytes_error; /* one standard error; 0 when all tiles were coded */
  double least_bits_per_value;
  double greatest_bits_per_value;
  double encode_cpu_s; /* expected CPU time of one core */
  double decode_cpu_s;
} kvp_estimate_result;

/* KVP_ABI_VERSION of the library, and its version ("0.1.0"). */
KVP_API uint32_t kvp_abi_version(void);
KVP_API const char* kvp_version(void);
/* What a code means; never NULL. */
KVP_API const char* kvp_strerror(int code);

/* Profiles. `*out` is set on success only. KVP_CORRUPT: damaged or no profile; KVP_UNIMPLEMENTED: of a later
 * version; KVP_RESOURCE_EXHAUSTED: larger than profiles get. From a file also KVP_NOT_FOUND and
 * KVP_UNAVAILABLE: it cannot be read. */
KVP_API int kvp_profile_load(const char* path, kvp_profile** out, kvp_message* message);
KVP_API int kvp_profile_parse(const void* bytes, size_t size, kvp_profile** out, kvp_message* message);
KVP_API void kvp_profile_free(kvp_profile* profile); /* NULL is fine */
KVP_API int kvp_profile_id(const kvp_profile* profile, uint8_t id[16], kvp_message* message);

/* How many elements a layout reaches over, from its first to its last. KVP_INVALID_ARGUMENT: a shape beyond
 * the bounds, strides that overlap or leave the address space. */
KVP_API int kvp_layout_elements(const kvp_layout* layout, uint64_t* elements, kvp_message* message);

/* Codes `kv` (of `kv_elements` elements, at least what the layout reaches over) into an object.
 * `options` NULL: "off". `*object_bytes` tells how many bytes the object has.
 * Size query: `object` NULL: `*object_bytes` is the most that this call can write (no value is read; `kv` may
 * be NULL). An object that does not fit `capacity` is KVP_BUFFER_TOO_SMALL, with the bytes it needs.
 * KVP_INVALID_ARGUMENT: layout, options or strategy are wrong, or `kv` has too few elements;
 * KVP_FAILED_PRECONDITION: the strategy needs a profile, and none is there, or it is of another model or
 * lacks what a stage takes; KVP_UNIMPLEMENTED: this build has no code for the strategy. */
KVP_API int kvp_encode(const kvp_layout* layout, const uint16_t* kv, uint64_t kv_elements,
                       const kvp_encode_options* options, void* object, size_t capacity, size_t* object_bytes,
                       kvp_message* message);

/* What kvp_encode() with the same arguments would give and cost: codes at most `tiles_per_side` tiles of each
 * side (0: 32). Codes: the same. */
KVP_API int kvp_estimate(const kvp_layout* layout, const uint16_t* kv, uint64_t kv_elements,
                         const kvp_encode_options* options, uint32_t tiles_per_side,
                         kvp_estimate_result* result, kvp_message* message);

/* Reads what stands before the tiles. `size` bytes may be the whole object or only its beginning:
 * KVP_BUFFER_TOO_SMALL sets info->prefix_bytes to what is needed when at least 64 bytes are there.
 * KVP_CORRUPT: damaged or no object; KVP_UNIMPLEMENTED: of a later version, or with a stage of one. */
KVP_API int kvp_object_info(const void* object, size_t size, kvp_object* info, kvp_message* message);

/* Decodes a whole object into `kv`; layers, tokens, heads and head_dim of `layout` are those of the object.
 * Every checksum is verified before the values of a tile are written; on an error the values of `kv` are
 * unspecified, elements outside the layout stay as they are. `options` NULL: lossy objects are welcome, no
 * profiles. KVP_CORRUPT, KVP_UNIMPLEMENTED: as kvp_object_info(); KVP_INVALID_ARGUMENT: a layout that is
 * wrong or not of the object's shape, or `kv` has too few elements; KVP_FAILED_PRECONDITION: the profile that
 * the object names is not among those given, or it is lossy and `strict` is set. */
KVP_API int kvp_decode(const void* object, size_t size, const kvp_decode_options* options,
                       const kvp_layout* layout, uint16_t* kv, uint64_t kv_elements, kvp_message* message);

#ifdef __cplusplus
}
#endif
