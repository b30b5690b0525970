// What package openjpeg calls of OpenJPEG 2.5.
#pragma once
#include <stdint.h>

// What went wrong, and the first warning that means damage; empty where nothing did.
typedef struct {
  char error[256];
  char damage[256];
} lnt_report;

// One component of a decoded image; free it with lnt_opj_free.
typedef struct {
  const int32_t* samples;  // columns * rows
  uint32_t rows, columns, precision, is_signed;
  void* image;
} lnt_samples;

// Opens the library. version becomes what it calls itself, error why it does not serve.
void lnt_opj_open(const char* path, char* version, char* error, int64_t size);

// Decodes a codestream with one component in strict mode.
void lnt_opj_decode(const uint8_t* codestream, int64_t size, lnt_samples* out, lnt_report* report);

void lnt_opj_free(lnt_samples* s);

// Lets signals that Go handles end the process.
void lnt_default_signals(void);
