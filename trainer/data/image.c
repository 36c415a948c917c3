/* image.c - see image.h. Both libraries report errors by longjmp out of a callback; each decoder therefore keeps what it must
 * free in a struct that its caller holds.
 * SPDX-License-Identifier: Apache-2.0 */
#include "trainer/data/image.h"
#include "trainer/data/data_private.h"

#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jpeglib.h>
#include <png.h>

/* A byte of deflate stands for at most 1032. */
#define DEFLATE_MOST ((uint64_t)1032)

#define JPEG_SCANS_MAX 500              /* each is a way over all pixels; encoders make about ten */
#define PNG_CHUNK_MAX ((size_t)1 << 20) /* of a chunk that is kept, such as a palette */

static int refuse(struct image *image, const char *problem)
{
    snprintf(image->problem, sizeof image->problem, "%s", problem);
    return -EINVAL;
}

static int set_size(struct image *image, size_t height, size_t width, int channels)
{
    if (!height || !width || height > DATA_SIDE_MAX || width > DATA_SIDE_MAX) {
        snprintf(image->problem, sizeof image->problem, "%zux%zu pixels, where 1 to %d each way are read", width, height,
                 DATA_SIDE_MAX);
        return -EINVAL;
    }
    image->height = (int)height;
    image->width = (int)width;
    image->channels = channels;
    return 0;
}

static int make_room(struct image *image)
{
    size_t wanted = (size_t)image->height * (size_t)image->width * (size_t)image->channels;

    if (wanted > image->room) {
        uint8_t *grown = realloc(image->pixels, wanted);
        if (!grown) {
            refuse(image, "out of memory");
            return -ENOMEM;
        }
        image->pixels = grown;
        image->room = wanted;
    }
    return 0;
}

void image_done(struct image *image)
{
    free(image->pixels);
    *image = (struct image){0};
}

/* A few bytes that promise more than they can hold are refused before memory is taken for it. */
static int check_promise(struct image *image, uint64_t needs, uint64_t has)
{
    if (needs <= has)
        return 0;
    snprintf(image->problem, sizeof image->problem, "a premature end: %dx%d pixels are more than its bytes can hold",
             image->width, image->height);
    return -EINVAL;
}

/* -- JPEG -- */

struct jpeg {
    struct jpeg_decompress_struct info;
    struct jpeg_error_mgr errors;
    struct image *image;
    struct jpeg_progress_mgr progress;
    jmp_buf out;
};

static void jpeg_fail(j_common_ptr info)
{
    struct jpeg *jpeg = info->client_data;
    char text[JMSG_LENGTH_MAX];

    info->err->format_message(info, text);
    refuse(jpeg->image, text);
    longjmp(jpeg->out, 1);
}

static void jpeg_message(j_common_ptr info, int level)
{
    if (level < 0)
        jpeg_fail(info);
}

/* The bits that the file needs at least: each block of 8 x 8 has a code of one bit or more. 0 where codes are arithmetic,
 * which may take less. */
static uint64_t jpeg_bits(const struct jpeg_decompress_struct *info)
{
    uint64_t most = 0;

    for (int c = 0; c < info->num_components && !info->arith_code; c++) {
        uint64_t blocks = (uint64_t)info->comp_info[c].width_in_blocks * info->comp_info[c].height_in_blocks;
        most = blocks > most ? blocks : most;
    }
    return most;
}

static void jpeg_watch(j_common_ptr info)
{
    struct jpeg *jpeg = info->client_data;

    if (jpeg->info.input_scan_number <= JPEG_SCANS_MAX)
        return;
    snprintf(jpeg->image->problem, sizeof jpeg->image->problem, "more than %d scans", JPEG_SCANS_MAX);
    longjmp(jpeg->out, 1);
}

/* Everything between set-up and clean-up; left by longjmp on an error. */
static int jpeg_run(struct jpeg *jpeg, const uint8_t *bytes, size_t n, bool with_pixels)
{
    struct jpeg_decompress_struct *info = &jpeg->info;
    struct image *image = jpeg->image;
    size_t row;
    int rc;

    jpeg_mem_src(info, bytes, (unsigned long)n);
    jpeg_read_header(info, TRUE);
    if (info->num_components != 1 && info->num_components != 3)
        return refuse(image, "a JPEG of 4 colours (CMYK), where grey and RGB are read");
    rc = set_size(image, info->image_height, info->image_width, info->num_components);
    if (!rc)
        rc = check_promise(image, jpeg_bits(info), (uint64_t)n * 8);
    if (rc || !with_pixels)
        return rc;
    info->out_color_space = info->num_components == 1 ? JCS_GRAYSCALE : JCS_RGB;
    info->dct_method = JDCT_ISLOW;
    info->do_fancy_upsampling = TRUE;
    rc = make_room(image);
    if (rc)
        return rc;
    row = (size_t)image->width * (size_t)image->channels;
    jpeg_start_decompress(info);
    while (info->output_scanline < info->output_height) {
        JSAMPROW line = image->pixels + info->output_scanline * row;
        jpeg_read_scanlines(info, &line, 1);
    }
    jpeg_finish_decompress(info);
    return 0;
}

static int jpeg_decode(struct image *image, const uint8_t *bytes, size_t n, bool with_pixels)
{
    struct jpeg jpeg = {.image = image};
    int rc;

    jpeg.info.err = jpeg_std_error(&jpeg.errors);
    jpeg.errors.error_exit = jpeg_fail;
    jpeg.errors.emit_message = jpeg_message;
    jpeg.info.client_data = &jpeg;
    if (setjmp(jpeg.out)) {
        jpeg_destroy_decompress(&jpeg.info);
        return -EINVAL;
    }
    jpeg_create_decompress(&jpeg.info);
    jpeg.info.client_data = &jpeg;
    jpeg.progress.progress_monitor = jpeg_watch;
    jpeg.info.progress = &jpeg.progress;
    rc = jpeg_run(&jpeg, bytes, n, with_pixels);
    jpeg_destroy_decompress(&jpeg.info);
    return rc;
}

/* -- PNG -- */

struct png {
    png_structp png;
    png_infop info;
    struct image *image;
    png_bytep *rows;
    const uint8_t *at;
    size_t left;
};

static void png_fail(png_structp png, png_const_charp text)
{
    struct png *self = png_get_error_ptr(png);

    refuse(self->image, text);
    png_longjmp(png, 1);
}

/* libpng's warnings are about what does not touch the pixels (a colour profile's checksum, say). */
static void png_ignore(png_structp png, png_const_charp text)
{
    (void)png, (void)text;
}

static void png_take(png_structp png, png_bytep into, size_t n)
{
    struct png *self = png_get_io_ptr(png);

    if (n > self->left)
        png_error(png, "premature end of PNG file");
    memcpy(into, self->at, n);
    self->at += n;
    self->left -= n;
}

static int png_run(struct png *self, bool with_pixels)
{
    png_structp png = self->png;
    struct image *image = self->image;
    png_byte type;
    size_t row;
    int rc;

    png_set_read_fn(png, self, png_take);
    png_set_keep_unknown_chunks(png, PNG_HANDLE_CHUNK_NEVER, NULL, -1); /* nor known ones that touch no pixel: texts, profiles */
    png_set_chunk_malloc_max(png, PNG_CHUNK_MAX);
    png_read_info(png, self->info);
    type = png_get_color_type(png, self->info);
    rc = set_size(image, png_get_image_height(png, self->info), png_get_image_width(png, self->info),
                  type & PNG_COLOR_MASK_COLOR ? 3 : 1);
    if (!rc) /* interlaced rows are some bytes longer, which does not matter here */
        rc = check_promise(image, (uint64_t)png_get_rowbytes(png, self->info) * (uint64_t)image->height,
                           self->left * DEFLATE_MOST);
    if (rc || !with_pixels)
        return rc;
    png_set_palette_to_rgb(png);
    if (type == PNG_COLOR_TYPE_GRAY)
        png_set_expand_gray_1_2_4_to_8(png);
    png_set_scale_16(png);
    png_set_strip_alpha(png);
    png_set_interlace_handling(png);
    png_read_update_info(png, self->info);
    row = (size_t)image->width * (size_t)image->channels;
    if (png_get_rowbytes(png, self->info) != row)
        return refuse(image, "a PNG whose pixels do not become 8-bit grey or RGB");
    rc = make_room(image);
    if (rc)
        return rc;
    self->rows = malloc((size_t)image->height * sizeof *self->rows);
    if (!self->rows) {
        refuse(image, "out of memory");
        return -ENOMEM;
    }
    for (size_t y = 0; y < (size_t)image->height; y++)
        self->rows[y] = image->pixels + y * row;
    png_read_image(png, self->rows);
    png_read_end(png, NULL);
    return 0;
}

static int png_guarded(struct png *self, bool with_pixels)
{
    if (setjmp(png_jmpbuf(self->png)))
        return -EINVAL;
    return png_run(self, with_pixels);
}

static int png_decode(struct image *image, const uint8_t *bytes, size_t n, bool with_pixels)
{
    struct png self = {.image = image, .at = bytes, .left = n};
    int rc = -ENOMEM;

    refuse(image, "out of memory");
    self.png = png_create_read_struct(PNG_LIBPNG_VER_STRING, &self, png_fail, png_ignore);
    if (self.png)
        self.info = png_create_info_struct(self.png);
    if (self.info)
        rc = png_guarded(&self, with_pixels);
    png_destroy_read_struct(&self.png, &self.info, NULL);
    free(self.rows);
    return rc;
}

static int decode(struct image *image, const uint8_t *bytes, size_t n, bool with_pixels)
{
    static const uint8_t JPEG[] = {0xff, 0xd8, 0xff}, PNG[] = {0x89, 'P', 'N', 'G', '\r', '\n', 0x1a, '\n'};

    if (n >= sizeof JPEG && !memcmp(bytes, JPEG, sizeof JPEG))
        return jpeg_decode(image, bytes, n, with_pixels);
    if (n >= sizeof PNG && !memcmp(bytes, PNG, sizeof PNG))
        return png_decode(image, bytes, n, with_pixels);
    return refuse(image, n ? "neither a JPEG nor a PNG by its first bytes" : "an empty file");
}

int image_size(struct image *image, const uint8_t *bytes, size_t n)
{
    return decode(image, bytes, n, false);
}

int image_decode(struct image *image, const uint8_t *bytes, size_t n)
{
    return decode(image, bytes, n, true);
}
