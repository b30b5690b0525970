#include "openjpeg.h"

#include <dlfcn.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// The part of OpenJPEG's binary interface that decoding takes, as libopenjp2.so.7 has it since 2.0
// (opj_decoder_set_strict_mode: since 2.5). The library is opened at run time, so that any build of
// it serves, and its header is not needed.

typedef struct {
  uint32_t dx, dy, w, h, x0, y0, prec, bpp, sgnd, resno_decoded, factor;
  int32_t* data;
  uint16_t alpha;
} component;

typedef struct {
  uint32_t x0, y0, x1, y1, numcomps;
  int color_space;
  component* comps;
  uint8_t* icc_profile_buf;
  uint32_t icc_profile_len;
} image;

enum { CODEC_J2K = 0, INPUT = 1, PARAMETERS = 1 << 16 };  // opj_dparameters_t has 8252 bytes

static struct {
  const char* (*version)(void);
  void* (*create_decompress)(int);
  void (*destroy_codec)(void*);
  void (*set_default_decoder_parameters)(void*);
  int (*setup_decoder)(void*, void*);
  int (*decoder_set_strict_mode)(void*, int);
  int (*set_error_handler)(void*, void (*)(const char*, void*), void*);
  int (*set_warning_handler)(void*, void (*)(const char*, void*), void*);
  void* (*stream_create)(size_t, int);
  void (*stream_destroy)(void*);
  void (*stream_set_read_function)(void*, size_t (*)(void*, size_t, void*));
  void (*stream_set_skip_function)(void*, int64_t (*)(int64_t, void*));
  void (*stream_set_seek_function)(void*, int (*)(int64_t, void*));
  void (*stream_set_user_data)(void*, void*, void (*)(void*));
  void (*stream_set_user_data_length)(void*, uint64_t);
  int (*read_header)(void*, void*, image**);
  int (*decode)(void*, void*, image*);
  int (*end_decompress)(void*, void*);
  void (*image_destroy)(image*);
} opj;

static const struct {
  const char* name;
  void** slot;
} symbols[] = {
    {"opj_version", (void**)&opj.version},
    {"opj_create_decompress", (void**)&opj.create_decompress},
    {"opj_destroy_codec", (void**)&opj.destroy_codec},
    {"opj_set_default_decoder_parameters", (void**)&opj.set_default_decoder_parameters},
    {"opj_setup_decoder", (void**)&opj.setup_decoder},
    {"opj_decoder_set_strict_mode", (void**)&opj.decoder_set_strict_mode},
    {"opj_set_error_handler", (void**)&opj.set_error_handler},
    {"opj_set_warning_handler", (void**)&opj.set_warning_handler},
    {"opj_stream_create", (void**)&opj.stream_create},
    {"opj_stream_destroy", (void**)&opj.stream_destroy},
    {"opj_stream_set_read_function", (void**)&opj.stream_set_read_function},
    {"opj_stream_set_skip_function", (void**)&opj.stream_set_skip_function},
    {"opj_stream_set_seek_function", (void**)&opj.stream_set_seek_function},
    {"opj_stream_set_user_data", (void**)&opj.stream_set_user_data},
    {"opj_stream_set_user_data_length", (void**)&opj.stream_set_user_data_length},
    {"opj_read_header", (void**)&opj.read_header},
    {"opj_decode", (void**)&opj.decode},
    {"opj_end_decompress", (void**)&opj.end_decompress},
    {"opj_image_destroy", (void**)&opj.image_destroy},
};

void lnt_opj_open(const char* path, char* version, char* error, int64_t size) {
  version[0] = error[0] = 0;
  void* lib = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  if (lib == NULL) {
    snprintf(error, size, "%s", dlerror());
    return;
  }
  for (size_t i = 0; i < sizeof symbols / sizeof *symbols; i++) {
    *symbols[i].slot = dlsym(lib, symbols[i].name);
    if (*symbols[i].slot == NULL) {
      snprintf(error, size, "it has no %s: it is not OpenJPEG, or older than 2.5", symbols[i].name);
      return;
    }
  }
  snprintf(version, size, "%s", opj.version());
  int major = 0, minor = 0;
  if (sscanf(version, "%d.%d", &major, &minor) != 2 || major != 2 || minor < 5) {
    snprintf(error, size, "it is OpenJPEG %.32s, expected 2.5 or newer", version);
  }
}

typedef struct {
  const uint8_t* data;
  int64_t size, at;
} source;

static size_t read_source(void* to, size_t n, void* user) {
  source* s = user;
  size_t left = s->size - s->at;
  if (left == 0) return (size_t)-1;
  if (n > left) n = left;
  memcpy(to, s->data + s->at, n);
  s->at += n;
  return n;
}

static int64_t skip_source(int64_t n, void* user) {
  source* s = user;
  if (n < 0 || s->at == s->size) return -1;
  if (n > s->size - s->at) n = s->size - s->at;
  s->at += n;
  return n;
}

static int seek_source(int64_t to, void* user) {
  source* s = user;
  if (to < 0 || to > s->size) return 0;
  s->at = to;
  return 1;
}

static void on_error(const char* message, void* user) {
  lnt_report* r = user;
  if (r->error[0] == 0) snprintf(r->error, sizeof r->error, "%s", message);
}

// Warnings that cost no pixel. Others do: a code block that is malformed is left out.
static const char* const harmless[] = {"does not end with EOC", "TPsot==TNsot", "Unknown marker",
                                       "Empty SOT marker", "found in TLM marker"};

static void on_warning(const char* message, void* user) {
  lnt_report* r = user;
  for (size_t i = 0; i < sizeof harmless / sizeof *harmless; i++) {
    if (strstr(message, harmless[i]) != NULL) return;
  }
  if (r->damage[0] == 0) snprintf(r->damage, sizeof r->damage, "%s", message);
}

void lnt_opj_decode(const uint8_t* codestream, int64_t size, lnt_samples* out, lnt_report* report) {
  static _Alignas(16) char parameters[PARAMETERS];
  memset(out, 0, sizeof *out);
  memset(report, 0, sizeof *report);
  source s = {codestream, size, 0};
  image* img = NULL;
  void* stream = opj.stream_create(size < 1 << 20 ? (size < 4096 ? 4096 : size) : 1 << 20, INPUT);
  void* codec = opj.create_decompress(CODEC_J2K);
  opj.set_default_decoder_parameters(parameters);
  int ok = stream != NULL && codec != NULL;
  if (ok) {
    opj.set_error_handler(codec, on_error, report);
    opj.set_warning_handler(codec, on_warning, report);
    opj.stream_set_read_function(stream, read_source);
    opj.stream_set_skip_function(stream, skip_source);
    opj.stream_set_seek_function(stream, seek_source);
    opj.stream_set_user_data(stream, &s, NULL);
    opj.stream_set_user_data_length(stream, size);
    ok = opj.setup_decoder(codec, parameters) && opj.decoder_set_strict_mode(codec, 1) &&
         opj.read_header(stream, codec, &img) && opj.decode(codec, stream, img) &&
         opj.end_decompress(codec, stream);
  }
  if (ok && (img->numcomps != 1 || img->comps[0].data == NULL)) {
    snprintf(report->error, sizeof report->error, "no image came out");
    ok = 0;
  }
  if (!ok && report->error[0] == 0) {
    snprintf(report->error, sizeof report->error, "no reason given");
  }
  if (codec != NULL) opj.destroy_codec(codec);
  if (stream != NULL) opj.stream_destroy(stream);
  if (!ok) {
    if (img != NULL) opj.image_destroy(img);
    return;
  }
  const component* c = img->comps;
  *out = (lnt_samples){c->data, c->h, c->w, c->prec, c->sgnd, img};
  report->error[0] = 0;
}

void lnt_opj_free(lnt_samples* s) {
  if (s->image != NULL) opj.image_destroy(s->image);
  s->image = NULL;
}

void lnt_default_signals(void) {
  const int all[] = {SIGXCPU, SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT, SIGPIPE};
  for (size_t i = 0; i < sizeof all / sizeof *all; i++) signal(all[i], SIG_DFL);
}
