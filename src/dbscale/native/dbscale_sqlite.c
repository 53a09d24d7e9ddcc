/* dbscale inside SQLite: functions that read a table's values where they lie, and hand out what Python needs of them.
**
**   pgcopy(codes, key, c1, ..., cn)   aggregate: the rows as PostgreSQL's binary COPY takes them, in one blob
**   pgcopy_row(codes, c1, ..., cn)    the same of one row; NULL where the row is left out
**   profile(tests, c1, ..., cn)       aggregate: how many values of each column are what was expected, and their ends
**   json_repeats(text)                whether an object in the JSON may have a key twice
**   record_sums(codes, seed, seed2, c1, ..., cn)
**                                     aggregate: PostgreSQL's hashes of the rows' record_send(), added up
**
** A row with a value that has no usual form is left out, and its key is told: Python reads it again and decides
** (convert.py). So a test here may be too strict, but never too lax. No value is changed in silence: every cell is
** either exactly what the SQL form (cells.py) would have PostgreSQL read, or the row is left out.
**
** It includes nothing of SQLite's: the functions used are named by their places in sqlite3_api_routines, which never
** change, as extensions compiled with one version have to work with all later ones.
*/
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifdef DBSCALE_SOURCE
/* which text this was compiled from: the loader takes no other's (dbscale.native) */
extern const char dbscale_source[];
const char dbscale_source[] = "dbscale source " DBSCALE_SOURCE;
#endif

/* ---- SQLite's extension interface ------------------------------------------------------------------------------ */

typedef struct sqlite3 sqlite3;
typedef struct sqlite3_context sqlite3_context;
typedef struct sqlite3_value sqlite3_value;
typedef void *const *Api;

static Api api;

/* The routine at a place of the table; the places are those of sqlite3ext.h. */
#define ROUTINE(place, result, parameters) ((result(*) parameters)(uintptr_t)api[place])
#define sqlite_aggregate_context ROUTINE(0, void *, (sqlite3_context *, int))
#define sqlite_get_auxdata ROUTINE(61, void *, (sqlite3_context *, int))
#define sqlite_result_error ROUTINE(80, void, (sqlite3_context *, const char *, int))
#define sqlite_result_int ROUTINE(82, void, (sqlite3_context *, int))
#define sqlite_result_null ROUTINE(84, void, (sqlite3_context *))
#define sqlite_set_auxdata ROUTINE(92, void, (sqlite3_context *, int, void *, void (*)(void *)))
#define sqlite_value_blob ROUTINE(102, const void *, (sqlite3_value *))
#define sqlite_value_bytes ROUTINE(103, int, (sqlite3_value *))
#define sqlite_value_double ROUTINE(105, double, (sqlite3_value *))
#define sqlite_value_int64 ROUTINE(107, int64_t, (sqlite3_value *))
#define sqlite_value_text ROUTINE(109, const unsigned char *, (sqlite3_value *))
#define sqlite_value_type ROUTINE(113, int, (sqlite3_value *))
#define sqlite_result_error_nomem ROUTINE(137, void, (sqlite3_context *))
#define sqlite_create_function                                                                                         \
    ROUTINE(162, int,                                                                                                  \
            (sqlite3 *, const char *, int, int, void *, void (*)(sqlite3_context *, int, sqlite3_value **),            \
             void (*)(sqlite3_context *, int, sqlite3_value **), void (*)(sqlite3_context *), void (*)(void *)))
#define sqlite_result_blob64 ROUTINE(201, void, (sqlite3_context *, const void *, uint64_t, void (*)(void *)))

enum { SQLITE_OK = 0, SQLITE_INTEGER = 1, SQLITE_FLOAT = 2, SQLITE_TEXT = 3, SQLITE_BLOB = 4, SQLITE_NULL = 5 };
enum { SQLITE_UTF8 = 1, SQLITE_DETERMINISTIC = 0x800, SQLITE_DIRECTONLY = 0x80000 };

/* ---- Bytes to be written --------------------------------------------------------------------------------------- */

typedef uint8_t u8;

typedef struct {
    u8 *bytes;
    size_t length, room;
    int failed; /* there was no memory; nothing is written any more */
} Buffer;

static u8 *extend(Buffer *out, size_t more) {
    if (out->room - out->length < more) {
        size_t room = out->room + out->room / 2 + more + 4096;
        u8 *bytes = out->failed || room < out->length + more ? NULL : realloc(out->bytes, room);
        if (!bytes) {
            out->failed = 1;
            return NULL;
        }
        out->bytes = bytes;
        out->room = room;
    }
    out->length += more;
    return out->bytes + out->length - more;
}

static u8 *store16(u8 *at, uint16_t x) {
    at[0] = (u8)(x >> 8);
    at[1] = (u8)x;
    return at + 2;
}

static u8 *store32(u8 *at, uint32_t x) {
    at[0] = (u8)(x >> 24);
    at[1] = (u8)(x >> 16);
    at[2] = (u8)(x >> 8);
    at[3] = (u8)x;
    return at + 4;
}

static u8 *store64(u8 *at, uint64_t x) { return store32(store32(at, (uint32_t)(x >> 32)), (uint32_t)x); }

static uint64_t bits_of(double x) {
    uint64_t bits;
    memcpy(&bits, &x, 8);
    return bits;
}

static int is_finite(double x) { return (bits_of(x) >> 52 & 0x7ff) != 0x7ff; }

/* A cell is its length and its bytes. */

static int put_bytes(Buffer *out, const void *bytes, size_t n) {
    u8 *at = extend(out, n + 4);
    if (!at) return 0;
    at = store32(at, (uint32_t)n);
    if (n) memcpy(at, bytes, n);
    return 1;
}

static int put16(Buffer *out, int64_t x) {
    u8 *at = extend(out, 6);
    return at && store16(store32(at, 2), (uint16_t)x);
}

static int put32(Buffer *out, uint32_t x) {
    u8 *at = extend(out, 8);
    return at && store32(store32(at, 4), x);
}

static int put64(Buffer *out, uint64_t x) {
    u8 *at = extend(out, 12);
    return at && store64(store32(at, 8), x);
}

static int put_bool(Buffer *out, int x) {
    u8 bit = x != 0;
    return put_bytes(out, &bit, 1);
}

/* ---- What a column's values become ----------------------------------------------------------------------------- */

/* One letter each, as migrate/pgcopy.py writes them; '-' where a class of values has no reading. */
typedef struct {
    char to, integers, reals, texts, blobs;
    char empty;     /* 'n': empty text becomes NULL */
    char rounded;   /* 'r': times are rounded to the microsecond */
    int size, scale; /* modifiers; -1 where there is none */
} Code;

typedef struct {
    int count;
    Code code[1];
} Codes;

static int modifier(const char **at, char mark) {
    int value = 0;
    if (**at != mark) return -1;
    for (++*at; **at >= '0' && **at <= '9' && value < 100000000; ++*at) value = value * 10 + (**at - '0');
    return value;
}

/* The codes of `count` columns, each `TIRTBER[:size[.scale]];`. NULL where the text is of another form. */
static Codes *read_codes(const char *text, int count) {
    Codes *codes = count < 0 || count > 32767 ? NULL : malloc(sizeof(Codes) + (size_t)count * sizeof(Code));
    int i, letter;
    if (!codes) return NULL;
    codes->count = count;
    for (i = 0; i < count; i++) {
        Code *code = &codes->code[i];
        for (letter = 0; letter < 7; letter++)
            if (!text[letter]) goto wrong;
        code->to = text[0];
        code->integers = text[1];
        code->reals = text[2];
        code->texts = text[3];
        code->blobs = text[4];
        code->empty = text[5];
        code->rounded = text[6];
        text += 7;
        code->size = modifier(&text, ':');
        code->scale = modifier(&text, '.');
        if (*text++ != ';') goto wrong;
    }
    if (!*text) return codes;
wrong:
    free(codes);
    return NULL;
}

/* What each writer gives; what it wrote before it found out is taken back with the row. Without memory the row is left
** out, too, and the buffer says so. */
enum { LEFT_OUT = 0, WRITTEN = 1 };

/* ---- Text ------------------------------------------------------------------------------------------------------ */

/* The bytes of the character at `p`, of more than one, as PostgreSQL takes them (no surrogates, shortest forms); else 0. */
static int multibyte(const u8 *p, const u8 *end) {
    unsigned c = *p;
    if (c < 0xc2 || c > 0xf4 || end - p < 2 || (p[1] & 0xc0) != 0x80) return 0;
    if (c < 0xe0) return 2;
    if (end - p < 3 || (p[2] & 0xc0) != 0x80) return 0;
    if (c < 0xf0) return (c == 0xe0 && p[1] < 0xa0) || (c == 0xed && p[1] > 0x9f) ? 0 : 3;
    if (end - p < 4 || (p[3] & 0xc0) != 0x80) return 0;
    return (c == 0xf0 && p[1] < 0x90) || (c == 0xf4 && p[1] > 0x8f) ? 0 : 4;
}

#define EVERY(byte) (UINT64_C(0x0101010101010101) * (byte))

/* The number of characters where `n` bytes are UTF-8 as PostgreSQL takes it, without NUL; else -1. */
static int64_t characters(const u8 *p, size_t n) {
    const u8 *end = p + n;
    int64_t count = (int64_t)n;
    while (p < end) {
        if (*p - 1u < 0x7f) {
            uint64_t eight;
            p++;
            while (end - p >= 8) {
                memcpy(&eight, p, 8);
                /* a high bit, or a byte that is 0: subtracting 1 of every byte borrows into its high bit */
                if ((eight | (eight - EVERY(1))) & EVERY(0x80)) break;
                p += 8;
            }
        } else {
            int length = multibyte(p, end);
            if (!length) return -1;
            p += length;
            count -= length - 1;
        }
    }
    return count;
}

static int put_text(Buffer *out, const Code *code, const u8 *p, size_t n) {
    int64_t count = characters(p, n);
    if (count < 0 || (code->size >= 0 && count > code->size)) return LEFT_OUT;
    return put_bytes(out, p, n);
}

/* ---- JSON (RFC 8259) ------------------------------------------------------------------------------------------- */

enum { JSON_DEPTH = 200, MOST_KEYS = 512 };

typedef struct {
    const u8 *p, *end;
} Scan;

typedef struct {
    const u8 *p;
    size_t n;
} Key;

/* The keys of the objects around the place that is being read. */
typedef struct {
    Key keys[MOST_KEYS];
    int count;
    int repeated; /* an object may have a key twice: one has an escape, or there are too many to compare */
} Keys;

static void skip_space(Scan *s) {
    while (s->p < s->end && (*s->p == ' ' || *s->p == '\t' || *s->p == '\n' || *s->p == '\r')) s->p++;
}

static int is_digit(u8 c) { return c >= '0' && c <= '9'; }

static int hex_value(u8 c) {
    if (is_digit(c)) return c - '0';
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    if (c >= 'A' && c <= 'F') return c - 'A' + 10;
    return -1;
}

static int skip_digits(Scan *s) {
    const u8 *start = s->p;
    while (s->p < s->end && is_digit(*s->p)) s->p++;
    return s->p > start;
}

static int json_number(Scan *s) {
    if (s->p < s->end && *s->p == '-') s->p++;
    if (s->p < s->end && *s->p == '0') s->p++;
    else if (!skip_digits(s)) return 0;
    if (s->p < s->end && *s->p == '.') {
        s->p++;
        if (!skip_digits(s)) return 0;
    }
    if (s->p < s->end && (*s->p | 0x20) == 'e') {
        s->p++;
        if (s->p < s->end && (*s->p == '+' || *s->p == '-')) s->p++;
        if (!skip_digits(s)) return 0;
    }
    return 1;
}

/* A string of UTF-8. */
static int json_string(Scan *s) {
    int i;
    for (s->p++; s->p < s->end;) {
        uint64_t eight;
        u8 c;
        while (s->end - s->p >= 8) {
            memcpy(&eight, s->p, 8);
            /* a byte below a space, a quotation mark or a backslash borrows into its high bit; or it is set */
            if ((eight | (eight - EVERY(0x20)) | ((eight ^ EVERY('"')) - EVERY(1)) | ((eight ^ EVERY('\\')) - EVERY(1))) &
                EVERY(0x80))
                break;
            s->p += 8;
        }
        if (s->p >= s->end) return 0;
        c = *s->p;
        if (c == '"') return s->p++, 1;
        if (c < 0x20) return 0;
        if (c >= 0x80) {
            i = multibyte(s->p, s->end);
            if (!i) return 0;
            s->p += i;
            continue;
        }
        s->p++;
        if (c != '\\') continue;
        if (s->p >= s->end) return 0;
        c = *s->p++;
        if (c == 'u') {
            for (i = 0; i < 4; i++, s->p++)
                if (s->p >= s->end || hex_value(*s->p) < 0) return 0;
        } else if (!strchr("\"\\/bfnrt", c) || !c) {
            return 0;
        }
    }
    return 0;
}

static int json_word(Scan *s, const char *word) {
    size_t n = strlen(word);
    if ((size_t)(s->end - s->p) < n || memcmp(s->p, word, n) != 0) return 0;
    s->p += n;
    return 1;
}

static int json_value(Scan *s, Keys *keys, int depth);

/* The key at `s` of an object whose keys are those from `first` on. */
static int json_key(Scan *s, Keys *keys, int first) {
    Key key;
    int i;
    key.p = s->p;
    if (s->p >= s->end || *s->p != '"' || !json_string(s)) return 0;
    key.n = (size_t)(s->p - key.p);
    if (keys->count == MOST_KEYS || memchr(key.p, '\\', key.n)) keys->repeated = 1;
    for (i = first; !keys->repeated && i < keys->count; i++)
        if (keys->keys[i].n == key.n && memcmp(keys->keys[i].p, key.p, key.n) == 0) keys->repeated = 1;
    if (!keys->repeated) keys->keys[keys->count++] = key;
    skip_space(s);
    return s->p < s->end && *s->p++ == ':';
}

static int json_members(Scan *s, Keys *keys, int depth, u8 closing) {
    int first = keys->count;
    s->p++;
    skip_space(s);
    if (s->p < s->end && *s->p == closing) return s->p++, 1;
    for (;;) {
        if (closing == '}') {
            skip_space(s);
            if (!json_key(s, keys, first)) return 0;
        }
        if (!json_value(s, keys, depth + 1)) return 0;
        if (s->p >= s->end) return 0;
        if (*s->p == closing) {
            keys->count = first;
            return s->p++, 1;
        }
        if (*s->p++ != ',') return 0;
    }
}

/* A value and the space around it. */
static int json_value(Scan *s, Keys *keys, int depth) {
    int fine;
    skip_space(s);
    if (s->p >= s->end || depth > JSON_DEPTH) return 0;
    switch (*s->p) {
        case '{': fine = json_members(s, keys, depth, '}'); break;
        case '[': fine = json_members(s, keys, depth, ']'); break;
        case '"': fine = json_string(s); break;
        case 't': fine = json_word(s, "true"); break;
        case 'f': fine = json_word(s, "false"); break;
        case 'n': fine = json_word(s, "null"); break;
        default: fine = json_number(s);
    }
    skip_space(s);
    return fine;
}

/* Whether the text is JSON; `*repeated` is whether an object in it may have a key twice. */
static int is_json(const u8 *p, size_t n, int *repeated) {
    Scan s = {p, p + n};
    Keys keys;
    int fine;
    keys.count = keys.repeated = 0;
    fine = json_value(&s, &keys, 0) && s.p == s.end;
    *repeated = keys.repeated;
    return fine;
}

static int put_json(Buffer *out, const Code *code, const u8 *p, size_t n) {
    int repeated;
    u8 *at;
    if (!is_json(p, n, &repeated)) return LEFT_OUT;
    if (code->to == 'j') return put_bytes(out, p, n);
    if (code->to == 't') return put_text(out, code, p, n);
    if (code->to != 'J' || (code->rounded != 'r' && repeated)) return LEFT_OUT;
    at = extend(out, n + 5);
    if (!at) return LEFT_OUT;
    at = store32(at, (uint32_t)n + 1);
    *at++ = 1; /* the version of jsonb's external form */
    memcpy(at, p, n);
    return WRITTEN;
}

/* ---- Numbers --------------------------------------------------------------------------------------------------- */

enum { MOST_DIGITS = 1200, SHORTEST = 32 };

/* digits * 10^(point - n): `point` digits stand before the decimal point; no leading zeros. */
typedef struct {
    int negative, n, point;
    int scale; /* digits behind the point that PostgreSQL shows */
    const u8 *digits;
} Decimal;

static void trim(Decimal *d) {
    while (d->n && *d->digits == '0') d->digits++, d->n--, d->point--;
}

/* Whether numeric(p,s) holds the number without rounding it. */
static int fits(const Decimal *d, const Code *code) {
    int n = d->n, scale = code->scale < 0 ? 0 : code->scale;
    while (n && d->digits[n - 1] == '0') n--;
    return !n || code->size < 0 || (n - d->point <= scale && d->point <= code->size - scale);
}

/* PostgreSQL's numeric: groups of four decimal digits, the first of which stands for 10000^weight. */
static int put_numeric(Buffer *out, const Code *code, Decimal d) {
    uint16_t groups[MOST_DIGITS / 4 + 3] = {0};
    static const int power[4] = {1, 10, 100, 1000};
    int i, weight, count, lead;
    u8 *at;
    trim(&d);
    if (d.n > MOST_DIGITS || d.scale > 16000 || d.point > 130000 || d.point < -16000 || !fits(&d, code)) return LEFT_OUT;
    /* point - 1 is the power of ten of the first digit; offset by a multiple of 4 to be positive before dividing */
    weight = d.n ? (d.point - 1 + 16384) / 4 - 4096 : 0;
    lead = d.point - 1 - weight * 4; /* 0 to 3 */
    for (i = 0; i < d.n; i++) {
        int place = i + 3 - lead; /* counted from the first digit of the first group */
        groups[place / 4] = (uint16_t)(groups[place / 4] + (d.digits[i] - '0') * power[3 - place % 4]);
    }
    count = d.n ? (d.n + 3 - lead + 3) / 4 : 0;
    while (count && !groups[count - 1]) count--;
    at = extend(out, 12 + 2 * (size_t)count);
    if (!at) return LEFT_OUT;
    at = store32(at, 8 + 2 * (uint32_t)count);
    at = store16(at, (uint16_t)count);
    at = store16(at, (uint16_t)weight);
    at = store16(at, d.negative && count ? 0x4000 : 0);
    at = store16(at, (uint16_t)(d.scale < 0 ? 0 : d.scale));
    for (i = 0; i < count; i++) at = store16(at, groups[i]);
    return WRITTEN;
}

/* The digits of a whole number, which end at `end`; where they start. */
static u8 *digits_of(uint64_t x, u8 *end) {
    do *--end = (u8)('0' + x % 10);
    while (x /= 10);
    return end;
}

static uint64_t magnitude(int64_t x) { return x < 0 ? 0 - (uint64_t)x : (uint64_t)x; }

static int put_whole_numeric(Buffer *out, const Code *code, int64_t x) {
    u8 text[20];
    Decimal d = {x < 0, 0, 0, 0, digits_of(magnitude(x), text + 20)};
    d.n = d.point = (int)(text + 20 - d.digits);
    return put_numeric(out, code, d);
}

/* The shortest decimal that reads back as `x`, which is finite, not 0 and not subnormal: its digits, without zeros at
** the end, into `digits`; no digits where Python has to tell. */
static Decimal shortest(double x, u8 digits[SHORTEST]) {
    static const double tens[] = {1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9};
    Decimal d = {x < 0, 0, 0, 0, digits};
    double a = x < 0 ? -x : x;
    char text[40];
    int i, precision, exponent;
    for (i = 0; i < 10 && a < 1e15 / tens[i]; i++) {
        /* A quotient of two exact numbers is rounded as the decimal it stands for would be: if it is `x`, that
        ** decimal reads back as `x`; and of 15 digits there is only one that does. */
        double scaled = a * tens[i];
        uint64_t whole = (uint64_t)(scaled + 0.5);
        if (whole && whole < UINT64_C(1000000000000000) && (double)whole / tens[i] == a) {
            u8 *start = digits_of(whole, digits + SHORTEST);
            d.digits = start;
            d.n = (int)(digits + SHORTEST - start);
            d.point = d.n - i;
            while (d.n > 1 && start[d.n - 1] == '0') d.n--;
            return d;
        }
    }
    for (precision = 15; precision <= 17; precision++) {
        snprintf(text, sizeof text, "%.*e", precision - 1, a);
        if (precision == 17 || strtod(text, NULL) == a) break;
    }
    /* Below a power of two doubles are closer to each other than above: of 16 digits the second nearest may do. */
    if (precision == 17 && !(bits_of(a) << 12)) return d;
    /* d.ddde±xx, with the decimal point of the locale, whatever that is */
    for (i = 0; text[i] && text[i] != 'e'; i++)
        if (is_digit((u8)text[i]) && d.n < SHORTEST) digits[d.n++] = (u8)text[i];
    exponent = text[i] ? atoi(text + i + 1) : 0;
    while (d.n > 1 && digits[d.n - 1] == '0') d.n--;
    d.point = exponent + 1;
    return d;
}

static int is_normal(double x) {
    unsigned exponent = (unsigned)(bits_of(x) >> 52 & 0x7ff);
    return exponent != 0 && exponent != 0x7ff;
}

static int put_shortest(Buffer *out, const Code *code, double x) {
    u8 digits[SHORTEST];
    Decimal d = {0, 0, 0, 1, digits};
    if (x != 0) {
        if (!is_normal(x)) return LEFT_OUT;
        d = shortest(x, digits);
        if (!d.n) return LEFT_OUT;
        d.scale = d.n - d.point;
        /* 100.0 is written with the 0, 1e+16 without, as Python and SQLite do */
        if (d.scale < 1) d.scale = d.point <= 16 ? 1 : 0;
    }
    return put_numeric(out, code, d);
}

/* A real number as SQLite spells it, `100.0`, `1.0e+22`, with the shortest digits; its length, or 0. */
static int real_text(double x, char text[48]) {
    u8 digits[SHORTEST];
    Decimal d;
    char *at = text;
    int i, exponent;
    if (x == 0) {
        memcpy(text, "-0.0", 4);
        if (bits_of(x)) return 4;
        memmove(text, text + 1, 3);
        return 3;
    }
    if (!is_normal(x)) return 0;
    d = shortest(x, digits);
    if (!d.n) return 0;
    exponent = d.point - 1;
    if (d.negative) *at++ = '-';
    if (exponent < -4 || exponent >= 16) {
        *at++ = (char)d.digits[0];
        *at++ = '.';
        if (d.n == 1) *at++ = '0';
        for (i = 1; i < d.n; i++) *at++ = (char)d.digits[i];
        return (int)(at - text) + snprintf(at, 8, "e%c%02d", exponent < 0 ? '-' : '+', abs(exponent));
    }
    if (d.point <= 0) {
        *at++ = '0';
        *at++ = '.';
        for (i = d.point; i < 0; i++) *at++ = '0';
    }
    for (i = 0; i < d.n || i < d.point; i++) {
        if (i == d.point && i) *at++ = '.';
        *at++ = i < d.n ? (char)d.digits[i] : '0';
    }
    if (d.n <= d.point) {
        *at++ = '.';
        *at++ = '0';
    }
    return (int)(at - text);
}

/* A text as a decimal: [+-]digits[.digits][e[+-]digits]; its digits go into `room`. 0 where it is none. */
static int read_decimal(const u8 *p, size_t n, u8 room[MOST_DIGITS], Decimal *d) {
    const u8 *end = p + n;
    int fraction = 0, seen = 0, exponent = 0, sign = 1, count = 0;
    memset(d, 0, sizeof *d);
    d->digits = room;
    if (p < end && (*p == '+' || *p == '-')) d->negative = *p++ == '-';
    for (; p < end && (is_digit(*p) || (*p == '.' && !seen)); p++) {
        if (*p == '.') {
            seen = 1;
            continue;
        }
        if (d->n >= MOST_DIGITS) return 0;
        room[d->n++] = *p;
        fraction += seen;
    }
    if (!d->n) return 0;
    if (p < end && (*p | 0x20) == 'e') {
        p++;
        if (p < end && (*p == '+' || *p == '-')) sign = *p++ == '-' ? -1 : 1;
        for (; p < end && is_digit(*p) && count < 4; p++, count++) exponent = exponent * 10 + (*p - '0');
        if (!count) return 0;
    }
    if (p != end) return 0;
    exponent *= sign;
    d->point = d->n - fraction + exponent;
    d->scale = fraction > exponent ? fraction - exponent : 0;
    return 1;
}

/* The double nearest to a decimal; 0 where it is beyond the range of normal numbers, or not surely read. */
static int nearest(const u8 *p, size_t n, double *x) {
    u8 room[MOST_DIGITS];
    char text[400], point;
    Decimal d;
    size_t i;
    if (!read_decimal(p, n, room, &d)) return 0;
    if (n >= sizeof text) return 0;
    snprintf(text, sizeof text, "%.1f", 0.5);
    point = text[1];
    if (text[2] != '5' || text[3]) return 0; /* a point of several bytes */
    for (i = 0; i < n; i++) text[i] = p[i] == '.' ? point : (char)p[i];
    text[n] = 0;
    trim(&d);
    *x = strtod(text, NULL);
    return d.n ? is_normal(*x) : 1;
}

static int put_integer(Buffer *out, const Code *code, int64_t x) {
    switch (code->to) {
        case '2': return x >= INT16_MIN && x <= INT16_MAX ? put16(out, x) : LEFT_OUT;
        case '4': return x >= INT32_MIN && x <= INT32_MAX ? put32(out, (uint32_t)x) : LEFT_OUT;
        case '8': return put64(out, (uint64_t)x);
        default: return LEFT_OUT;
    }
}

/* A whole number in decimal digits; 0 where it is none, or beyond 64 bits. */
static int read_integer(const u8 *p, size_t n, int64_t *x) {
    const u8 *end = p + n;
    int negative = 0;
    uint64_t value = 0;
    if (p < end && (*p == '+' || *p == '-')) negative = *p++ == '-';
    if (p == end) return 0;
    for (; p < end; p++) {
        if (!is_digit(*p) || value > (UINT64_MAX - 9) / 10) return 0;
        value = value * 10 + (uint64_t)(*p - '0');
    }
    if (value > (uint64_t)INT64_MAX + (uint64_t)negative) return 0;
    *x = negative ? (value ? -(int64_t)(value - 1) - 1 : 0) : (int64_t)value;
    return 1;
}

static int put_single(Buffer *out, double x) {
    float single;
    uint32_t bits;
    if (is_finite(x) && (x > 3.4028234663852886e38 || x < -3.4028234663852886e38)) return LEFT_OUT;
    single = (float)x;
    if ((double)single != x) return LEFT_OUT;
    memcpy(&bits, &single, 4);
    return put32(out, bits);
}

/* ---- Dates and times ------------------------------------------------------------------------------------------- */

#define SECOND INT64_C(1000000)
#define DAY (86400 * SECOND)
#define FIRST_SECOND INT64_C(-62135596800) /* 0001-01-01 00:00:00 */
#define LAST_SECOND INT64_C(253402300799)  /* 9999-12-31 23:59:59 */
#define POSTGRES_EPOCH INT64_C(946684800)  /* 2000-01-01, from 1970 */
#define WEBKIT INT64_C(11644473600)
#define APPLE INT64_C(978307200)
#define JULIAN_MS INT64_C(210866760000000)

/* Days from 1970-01-01 to a day of the Gregorian calendar (years 1 to 9999), or INT64_MIN where there is no such day.
** Years are counted from March, so that the leap day is the last (Howard Hinnant, chrono-Compatible Low-Level Date
** Algorithms). */
static int64_t day_number(int year, int month, int day) {
    static const u8 lengths[] = {31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
    int leap = (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
    int y, m;
    if (year < 1 || month < 1 || month > 12 || day < 1 || day > lengths[month - 1] + (leap && month == 2))
        return INT64_MIN;
    y = month <= 2 ? year - 1 : year;
    m = month <= 2 ? month + 9 : month - 3;
    return (int64_t)(y / 400) * 146097 + (y % 400) * 365 + (y % 400) / 4 - (y % 400) / 100 + (153 * m + 2) / 5 + day - 1 -
           719468;
}

/* A moment, counted in microseconds since 1970 (time of day: since midnight), as the column's type. */
static int put_moment(Buffer *out, const Code *code, int64_t us) {
    static const int64_t finest[] = {1000000, 100000, 10000, 1000, 100, 10, 1};
    int64_t within = us % DAY;
    if (code->size >= 0 && code->size < 6 && us % finest[code->size]) return LEFT_OUT;
    switch (code->to) {
        case 'p':
        case 'P': return put64(out, (uint64_t)(us - POSTGRES_EPOCH * SECOND));
        case 'T': return us >= 0 && us < DAY ? put64(out, (uint64_t)us) : LEFT_OUT;
        case 'D': return within ? LEFT_OUT : put32(out, (uint32_t)(us / DAY - POSTGRES_EPOCH / 86400));
        default: return LEFT_OUT;
    }
}

/* A count of 1/`unit` seconds since `shift` seconds after 1970; `unit` divides a million. */
static int put_count(Buffer *out, const Code *code, int64_t count, int64_t unit, int64_t shift) {
    if (count < (FIRST_SECOND - shift) * unit || count >= (LAST_SECOND + 1 - shift) * unit) return LEFT_OUT;
    return put_moment(out, code, count * (SECOND / unit) + shift * SECOND);
}

static int put_integer_time(Buffer *out, const Code *code, int64_t x) {
    int64_t days;
    uint64_t size = magnitude(x);
    switch (code->integers) {
        case 's': return put_count(out, code, x, 1, 0);
        case 'm': return put_count(out, code, x, 1000, 0);
        case 'u': return put_count(out, code, x, SECOND, 0);
        case 'n': return x % 1000 ? LEFT_OUT : put_count(out, code, x / 1000, SECOND, 0);
        case 'w': return put_count(out, code, x, SECOND, -WEBKIT);
        case 'a': return put_count(out, code, x, 1, APPLE);
        case 'd': return size > 4000000 ? LEFT_OUT : put_count(out, code, x * 86400, 1, 0);
        case 'j': return size > 6000000 ? LEFT_OUT : put_count(out, code, x * 86400000 - JULIAN_MS, 1000, 0);
        case 'z':
            if (size < UINT64_C(100000000000)) return put_count(out, code, x, 1, 0);
            if (size < UINT64_C(100000000000000)) return put_count(out, code, x, 1000, 0);
            if (size < UINT64_C(100000000000000000)) return put_count(out, code, x, SECOND, 0);
            return x % 1000 ? LEFT_OUT : put_count(out, code, x / 1000, SECOND, 0);
        case 'y':
            if (x < 10101 || x > 99991231 || code->to == 'T') return LEFT_OUT;
            days = day_number((int)(x / 10000), (int)(x / 100 % 100), (int)(x % 100));
            return days == INT64_MIN ? LEFT_OUT : put_moment(out, code, days * DAY);
        default: return LEFT_OUT;
    }
}

/* The whole number nearest to `x`, of two the even one; |x| is at most 2^53. */
static int64_t rounded(double x) {
    int64_t whole = (int64_t)x;
    double rest = x - (double)whole;
    if (rest > 0.5 || (rest == 0.5 && whole & 1)) return whole + 1;
    if (rest < -0.5 || (rest == -0.5 && whole & 1)) return whole - 1;
    return whole;
}

static int put_real_time(Buffer *out, const Code *code, double x) {
    double scale = code->reals == 'm' ? 1000.0 : 1000000.0, scaled = x * scale;
    int64_t us;
    if (!is_finite(x)) return LEFT_OUT;
    if (code->reals == 'j') {
        scaled = x * 86400000.0 + 0.5;
        if (!(scaled > -4e18 && scaled < 4e18)) return LEFT_OUT;
        return put_count(out, code, (int64_t)scaled - JULIAN_MS, 1000, 0);
    }
    if (!(scaled >= -9007199254740992.0 && scaled <= 9007199254740992.0)) return LEFT_OUT; /* doubles tell it no more */
    us = rounded(scaled);
    if (code->rounded != 'r' && (double)us / scale != x) return LEFT_OUT;
    if (code->reals == 'a') us += APPLE * SECOND;
    return put_count(out, code, us, SECOND, 0);
}

static int two_digits(const u8 *p) { return is_digit(p[0]) && is_digit(p[1]) ? (p[0] - '0') * 10 + p[1] - '0' : -1; }

/* HH:MM[:SS[.digits]] at the start of `s`, as microseconds since midnight; -1 where there is none, or it is finer. */
static int64_t read_clock(Scan *s) {
    int hour, minute, second = 0, place;
    int64_t fraction = 0;
    if (s->end - s->p < 5 || s->p[2] != ':') return -1;
    hour = two_digits(s->p);
    minute = two_digits(s->p + 3);
    s->p += 5;
    if (s->end - s->p >= 3 && *s->p == ':') {
        second = two_digits(s->p + 1);
        s->p += 3;
        if (s->p < s->end && *s->p == '.') {
            s->p++;
            for (place = 0; s->p < s->end && is_digit(*s->p); s->p++, place++) {
                if (place < 6) fraction = fraction * 10 + (*s->p - '0');
                else if (*s->p != '0') return -1;
            }
            if (!place) return -1;
            for (; place < 6; place++) fraction *= 10;
        }
    }
    if (hour < 0 || hour > 23 || minute < 0 || minute > 59 || second < 0 || second > 59) return -1;
    return ((int64_t)hour * 3600 + minute * 60 + second) * SECOND + fraction;
}

/* Z or [+-]HH[[:]MM] to the end of `s`, in seconds; INT64_MIN where it is something else. */
static int64_t read_zone(Scan *s) {
    int hours, minutes = 0, sign;
    size_t n = (size_t)(s->end - s->p);
    if (n == 1 && (*s->p | 0x20) == 'z') return 0;
    if (n < 3 || (*s->p != '+' && *s->p != '-')) return INT64_MIN;
    sign = *s->p == '-' ? -1 : 1;
    hours = two_digits(s->p + 1);
    if (n == 5) minutes = two_digits(s->p + 3);
    else if (n == 6 && s->p[3] == ':') minutes = two_digits(s->p + 4);
    else if (n != 3) return INT64_MIN;
    if (hours < 0 || hours > 15 || minutes < 0 || minutes > 59) return INT64_MIN;
    return sign * ((int64_t)hours * 3600 + minutes * 60);
}

static int put_iso(Buffer *out, const Code *code, const u8 *p, size_t n) {
    Scan s = {p, p + n};
    int64_t days, clock = 0, zone = 0;
    int year, century;
    if (code->to == 'T') {
        clock = read_clock(&s);
        return clock < 0 || s.p != s.end ? LEFT_OUT : put_moment(out, code, clock);
    }
    if (n < 10 || p[4] != '-' || p[7] != '-') return LEFT_OUT;
    century = two_digits(p);
    year = two_digits(p + 2);
    if (century < 0 || year < 0) return LEFT_OUT;
    days = day_number(century * 100 + year, two_digits(p + 5), two_digits(p + 8));
    if (days == INT64_MIN) return LEFT_OUT;
    s.p += 10;
    if (s.p < s.end) {
        if ((*s.p != ' ' && (*s.p | 0x20) != 't') || code->to == 'D') return LEFT_OUT;
        s.p++;
        clock = read_clock(&s);
        if (clock < 0) return LEFT_OUT;
        if (s.p < s.end) {
            if (*s.p == ' ') s.p++;
            zone = read_zone(&s);
            if (zone == INT64_MIN || code->to != 'P') return LEFT_OUT;
        }
    }
    return put_moment(out, code, days * DAY + clock - zone * SECOND);
}

/* ---- One cell -------------------------------------------------------------------------------------------------- */

static int put_uuid(Buffer *out, const Code *code, const u8 *p, size_t n) {
    u8 uuid[16];
    size_t i, at = 0;
    if (n >= 2 && p[0] == '{' && p[n - 1] == '}') p++, n -= 2;
    if ((n != 32 && n != 36) || code->to != 'u') return LEFT_OUT;
    for (i = 0; i < 16; i++) {
        int high, low;
        if (n == 36 && (i == 4 || i == 6 || i == 8 || i == 10) && p[at++] != '-') return LEFT_OUT;
        high = hex_value(p[at]);
        low = hex_value(p[at + 1]);
        if (high < 0 || low < 0) return LEFT_OUT;
        uuid[i] = (u8)(high << 4 | low);
        at += 2;
    }
    return put_bytes(out, uuid, 16);
}

/* The truth of a word: 1, 0, or -1 where it is none. */
static int word_of(const u8 *p, size_t n) {
    static const char *const words[] = {"t", "f", "true", "false", "y", "n", "yes", "no", "on", "off", "1", "0"};
    char lower[6];
    size_t i, word;
    if (n < 1 || n > 5) return -1;
    for (i = 0; i < n; i++) lower[i] = (char)(p[i] >= 'A' && p[i] <= 'Z' ? p[i] + 32 : p[i]);
    for (word = 0; word < sizeof words / sizeof *words; word++)
        if (strlen(words[word]) == n && memcmp(words[word], lower, n) == 0) return word % 2 == 0;
    return -1;
}

static int put_word(Buffer *out, const Code *code, const u8 *p, size_t n) {
    int truth = word_of(p, n);
    return truth < 0 || code->to != 'b' ? LEFT_OUT : put_bool(out, truth);
}

static int put_number(Buffer *out, const Code *code, const u8 *p, size_t n) {
    u8 room[MOST_DIGITS];
    Decimal d;
    double x;
    int64_t whole;
    if (code->to == 'n') return read_decimal(p, n, room, &d) ? put_numeric(out, code, d) : LEFT_OUT;
    if (code->to == 'd') return nearest(p, n, &x) ? put64(out, bits_of(x)) : LEFT_OUT;
    return read_integer(p, n, &whole) ? put_integer(out, code, whole) : LEFT_OUT;
}

/* Little-endian floats of `width` bytes, with up to one byte behind, as pgvector's vector or an array (its lower bound
** is 1). */
static int put_vector(Buffer *out, const Code *code, const u8 *p, size_t n, size_t width) {
    size_t count = n / width, i, each = code->to == 'F' ? 8 : 4, k;
    size_t bytes = code->to == 'v' ? 4 + 4 * count : 20 + (4 + each) * count;
    u8 *at;
    if (!count || n % width > 1 || (code->size >= 0 && (size_t)code->size != count)) return LEFT_OUT;
    if (code->to == 'v' && count > 16000) return LEFT_OUT;
    if ((code->to != 'v' && code->to != 'E' && code->to != 'F') || (width == 8 && each == 4)) return LEFT_OUT;
    at = extend(out, bytes + 4);
    if (!at) return LEFT_OUT;
    at = store32(at, (uint32_t)bytes);
    if (code->to == 'v') {
        at = store32(at, (uint32_t)count << 16);
    } else {
        at = store32(store32(store32(at, 1), 0), each == 8 ? 701 : 700); /* dimensions, no NULLs, element's type */
        at = store32(store32(at, (uint32_t)count), 1);
    }
    for (i = 0; i < count; i++) {
        uint64_t bits = 0;
        double x;
        for (k = width; k-- > 0;) bits = bits << 8 | p[i * width + k];
        if (width == 4) {
            uint32_t half = (uint32_t)bits;
            float single;
            memcpy(&single, &half, 4);
            x = (double)single;
        } else {
            memcpy(&x, &bits, 8);
        }
        if (!is_finite(x)) return LEFT_OUT;
        if (code->to != 'v') at = store32(at, (uint32_t)each);
        at = each == 8 ? store64(at, bits_of(x)) : store32(at, (uint32_t)bits);
    }
    return WRITTEN;
}

static int from_integer(Buffer *out, const Code *code, int64_t x) {
    u8 text[21], *start;
    switch (code->integers) {
        case 'k':
        case 'x': break;
        case 'b': return (x == 0 || x == 1) && code->to == 'b' ? put_bool(out, x == 1) : LEFT_OUT;
        default: return put_integer_time(out, code, x);
    }
    if (code->integers == 'k') {
        if (code->to == 'n') return put_whole_numeric(out, code, x);
        if (code->to == 'd') return magnitude(x) <= UINT64_C(1) << 53 ? put64(out, bits_of((double)x)) : LEFT_OUT;
        if (code->to == 'f') return magnitude(x) <= UINT64_C(1) << 24 ? put_single(out, (double)x) : LEFT_OUT;
        if (code->to == '2' || code->to == '4' || code->to == '8') return put_integer(out, code, x);
    }
    start = digits_of(magnitude(x), text + 21);
    if (x < 0) *--start = '-';
    if (code->to == 't') return put_text(out, code, start, (size_t)(text + 21 - start));
    if (code->to == 'y') return code->integers == 'x' ? put_bytes(out, start, (size_t)(text + 21 - start)) : LEFT_OUT;
    if (code->to == 'j' || code->to == 'J') return put_json(out, code, start, (size_t)(text + 21 - start));
    return LEFT_OUT;
}

static int from_real(Buffer *out, const Code *code, double x) {
    char text[48];
    int n;
    switch (code->reals) {
        case 'k':
            if (code->to == 'd') return put64(out, bits_of(x));
            if (code->to == 'f') return put_single(out, x);
            if (code->to != 'j' && code->to != 'J') return LEFT_OUT;
            n = real_text(x, text);
            return n ? put_json(out, code, (const u8 *)text, (size_t)n) : LEFT_OUT;
        case 'w':
            if (!(x >= -9223372036854775808.0 && x < 9223372036854775808.0) || (double)(int64_t)x != x) return LEFT_OUT;
            return code->to == 'n' ? put_whole_numeric(out, code, (int64_t)x) : put_integer(out, code, (int64_t)x);
        case 'h': return code->to == 'n' ? put_shortest(out, code, x) : LEFT_OUT;
        case 'x':
            n = real_text(x, text);
            if (!n) return LEFT_OUT;
            if (code->to == 't') return put_text(out, code, (const u8 *)text, (size_t)n);
            return code->to == 'y' ? put_bytes(out, text, (size_t)n) : LEFT_OUT;
        case '-': return LEFT_OUT;
        default: return put_real_time(out, code, x);
    }
}

static int from_text(Buffer *out, const Code *code, const u8 *p, size_t n) {
    switch (code->texts) {
        case 'k': return code->to == 't' ? put_text(out, code, p, n) : LEFT_OUT;
        case 'n': return put_number(out, code, p, n);
        case 'b': return put_word(out, code, p, n);
        case 'i': return put_iso(out, code, p, n);
        case 'u': return put_uuid(out, code, p, n);
        case 'j': return put_json(out, code, p, n);
        case 'y': return code->to == 'y' ? put_bytes(out, p, n) : LEFT_OUT;
        default: return LEFT_OUT;
    }
}

static int from_blob(Buffer *out, const Code *code, const u8 *p, size_t n) {
    switch (code->blobs) {
        case 'k': return code->to == 'y' ? put_bytes(out, p, n) : LEFT_OUT;
        case 'x': return code->to == 't' ? put_text(out, code, p, n) : LEFT_OUT;
        case 'u': return n == 16 && code->to == 'u' ? put_bytes(out, p, n) : LEFT_OUT;
        case 'j': return put_json(out, code, p, n);
        case 'd': return n > 1000 || (n && *p == '+') || memchr(p, '.', n) || memchr(p, 'e', n) || memchr(p, 'E', n)
                             ? LEFT_OUT
                             : put_number(out, code, p, n);
        case 'f': return put_vector(out, code, p, n, 4);
        case 'g': return put_vector(out, code, p, n, 8);
        default: return LEFT_OUT;
    }
}

enum { WIDE = 4 << 20 }; /* values of more bytes are left to Python, which reads them one at a time */

static int put_cell(Buffer *out, const Code *code, sqlite3_value *value) {
    const u8 *p;
    int n;
    u8 *at;
    switch (sqlite_value_type(value)) {
        case SQLITE_INTEGER: return from_integer(out, code, sqlite_value_int64(value));
        case SQLITE_FLOAT: return from_real(out, code, sqlite_value_double(value));
        case SQLITE_TEXT:
            p = sqlite_value_text(value);
            n = sqlite_value_bytes(value);
            if (n == 0 && code->empty == 'n') break;
            if (!p || n > WIDE) return LEFT_OUT;
            return from_text(out, code, p, (size_t)n);
        case SQLITE_BLOB:
            p = sqlite_value_blob(value);
            n = sqlite_value_bytes(value);
            if (n > WIDE) return LEFT_OUT;
            return from_blob(out, code, p ? p : (const u8 *)"", p ? (size_t)n : 0);
        default: break;
    }
    at = extend(out, 4);
    return at && store32(at, 0xffffffff);
}

/* One row behind what is in `out`; where it is left out, `out` is as before. */
static int put_row(Buffer *out, const Codes *codes, sqlite3_value **values) {
    size_t before = out->length;
    u8 *at = extend(out, 2);
    int i;
    if (!at) return LEFT_OUT;
    store16(at, (uint16_t)codes->count);
    for (i = 0; i < codes->count; i++) {
        if (put_cell(out, &codes->code[i], values[i]) != WRITTEN) {
            out->length = before;
            return LEFT_OUT;
        }
    }
    return WRITTEN;
}

/* ---- pgcopy(codes, key, c1, ..., cn) --------------------------------------------------------------------------- */

typedef struct {
    Codes *codes;
    Buffer rows, left; /* the rows, and the keys of those left out */
    uint64_t written;
    int failed;
} Batch;

static void fail(sqlite3_context *context, const char *says) { sqlite_result_error(context, says, -1); }

static const char *text_of(sqlite3_value *value) {
    const unsigned char *text = sqlite_value_text(value);
    return text ? (const char *)text : "";
}

static void pgcopy_step(sqlite3_context *context, int count, sqlite3_value **values) {
    Batch *batch = sqlite_aggregate_context(context, (int)sizeof(Batch));
    u8 *at;
    if (!batch) {
        sqlite_result_error_nomem(context);
        return;
    }
    if (batch->failed) return;
    if (!batch->codes) batch->codes = count < 3 ? NULL : read_codes(text_of(values[0]), count - 2);
    if (!batch->codes) {
        batch->failed = 1;
        fail(context, "pgcopy(codes, key, c1, ..., cn): the codes are not of these columns");
        return;
    }
    if (put_row(&batch->rows, batch->codes, values + 2) == WRITTEN) {
        batch->written++;
    } else if (!batch->rows.failed) {
        at = extend(&batch->left, 8);
        if (at) store64(at, (uint64_t)sqlite_value_int64(values[1]));
    }
    if (batch->rows.failed || batch->left.failed) {
        batch->failed = 1;
        sqlite_result_error_nomem(context);
    }
}

/* The rows, the keys of those left out, how many those are, and how many were written (each 64 bits, big-endian). */
static void pgcopy_final(sqlite3_context *context) {
    Batch *batch = sqlite_aggregate_context(context, 0);
    size_t left;
    u8 *at;
    if (!batch) {
        sqlite_result_null(context);
        return;
    }
    left = batch->left.length;
    at = batch->failed ? NULL : extend(&batch->rows, left + 16);
    if (at) {
        if (left) memcpy(at, batch->left.bytes, left);
        store64(store64(at + left, left / 8), batch->written);
        sqlite_result_blob64(context, batch->rows.bytes, batch->rows.length, free);
    } else {
        free(batch->rows.bytes);
        if (!batch->failed) sqlite_result_error_nomem(context);
    }
    free(batch->left.bytes);
    free(batch->codes);
    memset(batch, 0, sizeof *batch);
}

static void pgcopy_row(sqlite3_context *context, int count, sqlite3_value **values) {
    Codes *codes = sqlite_get_auxdata(context, 0);
    Buffer row = {NULL, 0, 0, 0};
    int fresh = !codes;
    if (fresh) codes = count < 2 ? NULL : read_codes(text_of(values[0]), count - 1);
    if (!codes || codes->count != count - 1) {
        if (fresh) free(codes);
        fail(context, "pgcopy_row(codes, c1, ..., cn): the codes are not of these columns");
        return;
    }
    if (put_row(&row, codes, values + 1) == WRITTEN) {
        sqlite_result_blob64(context, row.bytes, row.length, free);
    } else {
        free(row.bytes);
        if (row.failed) sqlite_result_error_nomem(context);
        else sqlite_result_null(context);
    }
    if (fresh) sqlite_set_auxdata(context, 0, codes, free); /* it may free them at once: they are not used below */
}

/* ---- profile(tests, c1, ..., cn) ------------------------------------------------------------------------------- */

/* What a column's values are expected to be, one letter a storage class ('-': none of that class), each the meaning of
** an SQL condition in migrate/shapes.py. A test may be stricter than that condition, and never laxer: a column with a
** value that passes none is counted again in SQL. */
typedef struct {
    char integers, reals, texts, blobs;
    int scale;
    int64_t least, greatest; /* for integers */
    double low, high;        /* for reals */
} Test;

enum { TEST_BYTES = 40 };

typedef struct {
    int64_t values, counted[4], widest, longest;
    int64_t repeated;        /* of JSON texts, those that may have a key twice */
    int64_t least, greatest; /* of integers */
    double low, high;        /* of reals */
} Tally;

typedef struct {
    int count;
    int64_t rows;
    Test *tests;
    Tally *tallies;
} Profile;

static uint64_t load64(const u8 *p) {
    uint64_t x = 0;
    int i;
    for (i = 0; i < 8; i++) x = x << 8 | p[i];
    return x;
}

static double double_of(uint64_t bits) {
    double x;
    memcpy(&x, &bits, 8);
    return x;
}

static void read_test(const u8 *p, Test *test) {
    uint64_t bits;
    test->integers = (char)p[0];
    test->reals = (char)p[1];
    test->texts = (char)p[2];
    test->blobs = (char)p[3];
    test->scale = p[7];
    bits = load64(p + 8);
    memcpy(&test->least, &bits, 8);
    bits = load64(p + 16);
    memcpy(&test->greatest, &bits, 8);
    test->low = double_of(load64(p + 24));
    test->high = double_of(load64(p + 32));
}

static int integer_is(const Test *test, int64_t x) {
    switch (test->integers) {
        case '*': return 1;
        case 'r': return x >= test->least && x <= test->greatest;
        case 'y':
            return x >= 10000101 && x <= 99991231 &&
                   day_number((int)(x / 10000), (int)(x / 100 % 100), (int)(x % 100)) != INT64_MIN;
        default: return 0;
    }
}

/* Whether a decimal with `scale` digits behind the point, and not many in all, reads back as `x`. */
static int is_decimal(double x, int scale) {
    static const double tens[] = {1e0, 1e1, 1e2,  1e3,  1e4,  1e5,  1e6,  1e7,
                                  1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15};
    double a = x < 0 ? -x : x;
    uint64_t whole;
    if (scale < 0 || scale > 15 || !(a < 9e15 / tens[scale])) return 0;
    whole = (uint64_t)(a * tens[scale] + 0.5);
    return whole < UINT64_C(1) << 53 && (double)whole / tens[scale] == a;
}

static int real_is(const Test *test, double x) {
    switch (test->reals) {
        case '*': return 1;
        case 'w': return x >= -9223372036854775808.0 && x < 9223372036854775808.0 && (double)(int64_t)x == x;
        case 'I': return !is_finite(x);
        case 'h': return x >= 9223372036854775808.0 || x < -9223372036854775808.0;
        case 'r': return x >= test->low && x <= test->high;
        case 'd': return x >= test->low && x <= test->high && is_decimal(x, test->scale);
        default: return 0;
    }
}

/* A date and time as SQLite's own functions read it. Digits beyond the microsecond are looked for where SQL looks for
** them, which is at a place counted from the start. */
static int is_moment(const u8 *p, size_t n, int zoned) {
    Scan s = {p, p + n};
    const u8 *end = p + n, *rest;
    int year;
    if (n < 16 || p[4] != '-' || p[7] != '-' || (p[10] != ' ' && p[10] != 'T')) return 0;
    if (two_digits(p) < 0 || two_digits(p + 2) < 0) return 0;
    year = two_digits(p) * 100 + two_digits(p + 2);
    if (day_number(year, two_digits(p + 5), two_digits(p + 8)) == INT64_MIN) return 0;
    s.p += 11;
    if (read_clock(&s) < 0) return 0;
    if (!zoned) return s.p == end;
    n = (size_t)(end - s.p);
    if (year > 9998 || n < 1) return 0;
    if (n == 1) {
        if ((*s.p | 0x20) != 'z') return 0;
    } else {
        if (n < 3 || (*s.p != '+' && *s.p != '-') || two_digits(s.p + 1) < 0 || two_digits(s.p + 1) > 14) return 0;
        if (n == 6 && s.p[3] == ':') {
            if (two_digits(s.p + 4) < 0 || two_digits(s.p + 4) > 59) return 0;
        } else if (n == 5) {
            if (two_digits(s.p + 3) < 0 || two_digits(s.p + 3) > 59) return 0;
            end = s.p;
        } else if (n == 3) {
            end = s.p;
        } else {
            return 0;
        }
    }
    for (rest = p + 26; rest < end && *rest == '0'; rest++) {
    }
    return rest >= end || *rest < '1' || *rest > '9';
}

static int is_hex(const u8 *p, size_t n, int dashed) {
    size_t i;
    for (i = 0; i < n; i++) {
        if (dashed && (i == 8 || i == 13 || i == 18 || i == 23)) {
            if (p[i] != '-') return 0;
        } else if (hex_value(p[i]) < 0) {
            return 0;
        }
    }
    return 1;
}

/* JSON without an escape that might be refused by jsonb. */
static int is_plain_json(const u8 *p, size_t n, int *repeated) {
    const u8 *end = p + n;
    if (!is_json(p, n, repeated)) return 0;
    while ((p = memchr(p, '\\', (size_t)(end - p)))) {
        if (end - p >= 6 && p[1] == 'u' && ((p[2] | 0x20) == 'd' || memcmp(p + 2, "0000", 4) == 0)) return 0;
        p++;
    }
    return 1;
}

/* Decimal digits behind an optional minus; `points` of them may be points. */
static int is_digits(const u8 *p, size_t n, int points) {
    size_t i;
    int seen = 0;
    if (n >= 1000) return 0;
    if (n && *p == '-') p++, n--;
    if (!n || !is_digit(p[0]) || !is_digit(p[n - 1])) return 0;
    for (i = 0; i < n; i++) {
        if (p[i] == '.') seen++;
        else if (!is_digit(p[i])) return 0;
    }
    return seen == points;
}

static int text_is(const Test *test, Tally *tally, const u8 *p, size_t n) {
    Scan s = {p, p + n};
    int64_t whole;
    int repeated;
    if (memchr(p, 0, n)) return 0;
    switch (test->texts) {
        case '*': return 1;
        case 'e': return n == 0;
        case 'D': {
            if (n != 10 || p[4] != '-' || p[7] != '-' || two_digits(p) < 0 || two_digits(p + 2) < 0) return 0;
            return day_number(two_digits(p) * 100 + two_digits(p + 2), two_digits(p + 5), two_digits(p + 8)) != INT64_MIN;
        }
        case 'n': return is_moment(p, n, 0);
        case 'z': return is_moment(p, n, 1);
        case 'T': return n < 16 && read_clock(&s) >= 0 && s.p == s.end;
        case '0': return n >= 10 && memcmp(p, "0000-00-00", 10) == 0;
        case 'b': return word_of(p, n) >= 0;
        case 'u': return n == 36 && is_hex(p, n, 1);
        case 'v': return n == 32 && is_hex(p, n, 0);
        case 'w': return n == 38 && p[0] == '{' && p[37] == '}' && is_hex(p + 1, 36, 1);
        case 'j':
            if (!is_plain_json(p, n, &repeated)) return 0;
            tally->repeated += repeated;
            return 1;
        case 'i':
            if (!is_digits(p, n, 0) || n > 20 || !read_integer(p, n, &whole)) return 0;
            return p[*p == '-'] != '0' || (n == 1);
        case 'd': return is_digits(p, n, 0);
        case 'f': return is_digits(p, n, 1);
        default: return 0;
    }
}

static void measure(const Test *test, Tally *tally, sqlite3_value *value) {
    const u8 *p;
    u8 digits[20];
    int64_t whole, n;
    double x;
    int type = sqlite_value_type(value);
    if (type == SQLITE_NULL) return;
    tally->values++;
    switch (type) {
        case SQLITE_INTEGER:
            whole = sqlite_value_int64(value);
            if (!integer_is(test, whole)) return;
            if (!tally->counted[0] || whole < tally->least) tally->least = whole;
            if (!tally->counted[0] || whole > tally->greatest) tally->greatest = whole;
            tally->counted[0]++;
            if (test->texts == '-' && test->blobs == '-') return;
            n = digits + 20 - digits_of(magnitude(whole), digits + 20) + (whole < 0);
            break;
        case SQLITE_FLOAT:
            /* how wide it is as text is a matter of how SQLite prints it */
            x = sqlite_value_double(value);
            if (test->texts != '-' || test->blobs != '-' || !real_is(test, x)) return;
            if (!tally->counted[1] || x < tally->low) tally->low = x;
            if (!tally->counted[1] || x > tally->high) tally->high = x;
            tally->counted[1]++;
            return;
        case SQLITE_TEXT:
            p = sqlite_value_text(value);
            n = sqlite_value_bytes(value);
            if (!p || !text_is(test, tally, p, (size_t)n)) return;
            if (n > tally->longest) {
                int64_t length = characters(p, (size_t)n);
                if (length < 0) return; /* versions of SQLite count the characters of broken UTF-8 differently */
                if (length > tally->longest) tally->longest = length;
            }
            tally->counted[2]++;
            break;
        default:
            n = sqlite_value_bytes(value);
            if (!(test->blobs == '*' || (test->blobs == 'u' && n == 16) || (test->blobs == 'e' && n == 0))) return;
            tally->counted[3]++;
    }
    if (n > tally->widest) tally->widest = n;
}

static void profile_step(sqlite3_context *context, int count, sqlite3_value **values) {
    Profile *profile = sqlite_aggregate_context(context, (int)sizeof(Profile));
    int i;
    if (!profile) {
        sqlite_result_error_nomem(context);
        return;
    }
    if (!profile->tests) {
        const u8 *p = count < 1 || sqlite_value_type(values[0]) != SQLITE_BLOB ? NULL : sqlite_value_blob(values[0]);
        if (!p || count < 2 || sqlite_value_bytes(values[0]) != (count - 1) * TEST_BYTES) {
            fail(context, "profile(tests, c1, ..., cn): the tests are not of these columns");
            return;
        }
        profile->tests = calloc((size_t)count, sizeof(Test));
        profile->tallies = calloc((size_t)count, sizeof(Tally));
        if (!profile->tests || !profile->tallies) {
            free(profile->tests);
            free(profile->tallies);
            memset(profile, 0, sizeof *profile);
            sqlite_result_error_nomem(context);
            return;
        }
        profile->count = count - 1;
        for (i = 0; i < profile->count; i++) read_test(p + i * TEST_BYTES, &profile->tests[i]);
    }
    profile->rows++;
    for (i = 0; i < profile->count; i++) measure(&profile->tests[i], &profile->tallies[i], values[i + 1]);
}

/* The number of rows, and twelve numbers a column in the order of Tally: 64 bits each, big-endian. */
static void profile_final(sqlite3_context *context) {
    Profile *profile = sqlite_aggregate_context(context, 0);
    Buffer out = {NULL, 0, 0, 0};
    u8 *at;
    int i, k;
    if (!profile || !profile->tests) {
        sqlite_result_null(context);
        return;
    }
    at = extend(&out, 8 + 96 * (size_t)profile->count);
    if (at) at = store64(at, (uint64_t)profile->rows);
    for (i = 0; at && i < profile->count; i++) {
        const Tally *tally = &profile->tallies[i];
        at = store64(at, (uint64_t)tally->values);
        for (k = 0; k < 4; k++) at = store64(at, (uint64_t)tally->counted[k]);
        at = store64(store64(at, (uint64_t)tally->widest), (uint64_t)tally->longest);
        at = store64(at, (uint64_t)tally->repeated);
        at = store64(store64(at, (uint64_t)tally->least), (uint64_t)tally->greatest);
        at = store64(store64(at, bits_of(tally->low)), bits_of(tally->high));
    }
    if (at) sqlite_result_blob64(context, out.bytes, out.length, free);
    else sqlite_result_error_nomem(context);
    free(profile->tests);
    free(profile->tallies);
    memset(profile, 0, sizeof *profile);
}

/* ---- json_repeats(text) ---------------------------------------------------------------------------------------- */

static void tell_repeats(sqlite3_context *context, int count, sqlite3_value **values) {
    const u8 *text = sqlite_value_text(values[0]);
    int repeated;
    (void)count;
    if (text) sqlite_result_int(context, !is_json(text, (size_t)sqlite_value_bytes(values[0]), &repeated) || repeated);
    else sqlite_result_null(context);
}

/* ---- A row as record_send() gives it --------------------------------------------------------------------------- */

/* For verify: what PostgreSQL should hold, worked out a second time. Nothing here calls what pgcopy calculates with:
** days are counted by another rule, decimals are found by whole numbers or come from the C library, and their groups are
** read off the written number, JSON is normalized as jsonb prints it. A row that has another form is left out, and
** compared by SQL. */

static int v_bytes(Buffer *out, uint32_t type, const void *bytes, size_t n) {
    u8 *at = extend(out, n + 8);
    if (!at) return LEFT_OUT;
    at = store32(store32(at, type), (uint32_t)n);
    if (n) memcpy(at, bytes, n);
    return WRITTEN;
}

/* A whole number in `width` bytes. */
static int v_whole(Buffer *out, uint32_t type, int64_t x, size_t width) {
    u8 *at;
    if (width == 4 && (x > 2147483647 || x < -INT64_C(2147483648))) return LEFT_OUT;
    if (width == 2 && (x > 32767 || x < -32768)) return LEFT_OUT;
    at = extend(out, 8 + width);
    if (!at) return LEFT_OUT;
    at = store32(store32(at, type), (uint32_t)width);
    if (width == 8) store64(at, (uint64_t)x);
    else if (width == 4) store32(at, (uint32_t)x);
    else store16(at, (uint16_t)x);
    return WRITTEN;
}

/* The number that PostgreSQL gives a type. */
static uint32_t v_type(char to) {
    switch (to) {
        case '2': return 21;
        case '4': return 23;
        case '8': return 20;
        case 'd': return 701;
        case 'n': return 1700;
        case 'b': return 16;
        case 'y': return 17;
        case 'u': return 2950;
        case 'j': return 114;
        case 'J': return 3802;
        case 'p': return 1114;
        case 'P': return 1184;
        case 'D': return 1082;
        case 'T': return 1083;
        case 't': return 25;
        default: return 0;
    }
}

static int v_number(Buffer *out, const Code *code, int64_t x) {
    size_t width = code->to == '2' ? 2 : code->to == '4' ? 4 : 8;
    return v_whole(out, v_type(code->to), x, width);
}

static int v_is_number(const Code *code) { return code->to == '2' || code->to == '4' || code->to == '8'; }

/* `n` decimal digits at `p`, or -1. */
static int v_digits(const u8 *p, int n) {
    int x = 0, i;
    for (i = 0; i < n; i++) {
        if (p[i] < '0' || p[i] > '9') return -1;
        x = 10 * x + p[i] - '0';
    }
    return x;
}

/* A numeric of digits, of which `point` stand before the point: PostgreSQL's groups of four are read off the plain
** number, zeros before and behind it. */
static int v_numeric(Buffer *out, const Code *code, int negative, const char *digits, int n, int point) {
    u8 plain[480], bytes[8 + 480 / 2];
    int whole, start, end, scale, shown, i;
    while (n && *digits == '0') digits++, n--, point--;
    while (n && digits[n - 1] == '0') n--;
    if (!n) point = 0;
    if (point > 150 || point < -150 || n > 150) return LEFT_OUT;
    scale = n > point ? n - point : 0;
    shown = code->size < 0 ? scale : code->scale < 0 ? 0 : code->scale;
    if (scale > shown) return LEFT_OUT;
    whole = point > 0 ? (point + 3) / 4 * 4 : 0;
    end = (whole + scale + 3) / 4 * 4;
    memset(plain, '0', (size_t)end);
    memcpy(plain + whole - point, digits, (size_t)n);
    for (start = 0; start < end && !v_digits(plain + start, 4); start += 4) {
    }
    while (end > start && !v_digits(plain + end - 4, 4)) end -= 4;
    store16(bytes, (uint16_t)((end - start) / 4));
    store16(bytes + 2, (uint16_t)(n ? (whole - start) / 4 - 1 : 0));
    store16(bytes + 4, negative && n ? 0x4000 : 0);
    store16(bytes + 6, (uint16_t)shown);
    for (i = start; i < end; i += 4) store16(bytes + 8 + (i - start) / 2, (uint16_t)v_digits(plain + i, 4));
    return v_bytes(out, 1700, bytes, (size_t)(8 + (end - start) / 2));
}

/* A whole number times a power of ten. */
static int v_scaled(Buffer *out, const Code *code, int negative, uint64_t whole, int scale) {
    char digits[20];
    int at = 20;
    for (; whole; whole /= 10) digits[--at] = (char)('0' + whole % 10);
    return v_numeric(out, code, negative, digits + at, 20 - at, 20 - at - scale);
}

static int v_decimal_of_real(Buffer *out, const Code *code, double x) {
    char text[48], digits[24];
    int precision, n = 0, i, scale, halvings = 1075 - (int)(bits_of(x) >> 52 & 0x7ff);
    uint64_t mantissa = bits_of(x) << 12 >> 12 | UINT64_C(1) << 52, ten = 1;
    double size = x < 0 ? -x : x;
    if (x == 0) return v_scaled(out, code, 0, 0, 0);
    if (!is_normal(x)) return LEFT_OUT;
    /* x is mantissa / 2^halvings; it is read from whole / ten where these are nearer to each other than half of the
    ** distance between doubles. The products agree but for their last bits: their difference needs no more than 64. */
    for (scale = 0; scale < 7 && size < 1e8 && halvings < 64; scale++, ten *= 10) {
        double near = size * (double)ten;
        uint64_t whole = (uint64_t)(near + 0.5), off;
        if (near - (double)whole > 1e-6 || near - (double)whole < -1e-6) continue;
        off = mantissa * ten - (whole << halvings);
        if (off >> 63) off = 0 - off;
        /* below a power of two doubles are nearer to each other */
        if (2 * off < ten && (!off || mantissa << 12)) return v_scaled(out, code, x < 0, whole, scale);
        break;
    }
    for (precision = 14; precision < 17; precision++) {
        snprintf(text, sizeof text, "%.*e", precision, x);
        if (strtod(text, NULL) == x) break;
    }
    if (precision == 16 && !(mantissa << 12)) return LEFT_OUT; /* of 16 digits, not the nearest may read back */
    for (i = 0; text[i] && text[i] != 'e'; i++)
        if (text[i] >= '0' && text[i] <= '9' && n < 24) digits[n++] = text[i];
    if (!text[i]) return LEFT_OUT;
    return v_numeric(out, code, text[0] == '-', digits, n, atoi(text + i + 1) + 1);
}

/* A decimal's text without an exponent. */
static int v_decimal_of_text(Buffer *out, const Code *code, const u8 *p, size_t n) {
    char digits[160];
    int count = 0, point = -1, negative = 0;
    size_t i = 0;
    if (n && (*p == '-' || *p == '+')) negative = p[i++] == '-';
    for (; i < n; i++) {
        if (p[i] == '.' && point < 0) point = count;
        else if (p[i] < '0' || p[i] > '9' || count == 160) return LEFT_OUT;
        else digits[count++] = (char)p[i];
    }
    return count ? v_numeric(out, code, negative, digits, count, point < 0 ? count : point) : LEFT_OUT;
}

/* Days from 2000-01-01: whole years, then the months before. */
static int64_t v_days(int year, int month, int day) {
    static const short before[] = {0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334, 365};
    int leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    int64_t whole = year - 1;
    if (year < 1 || month < 1 || month > 12 || day < 1) return INT64_MIN;
    if (day > before[month] - before[month - 1] + (month == 2 && leap)) return INT64_MIN;
    return whole * 365 + whole / 4 - whole / 100 + whole / 400 + before[month - 1] + (month > 2 && leap) + day - 1 -
           730119;
}

/* Seconds since 2000 and microseconds, as the column's type. */
static int v_moment(Buffer *out, const Code *code, int64_t seconds, int64_t us) {
    int64_t days = seconds / 86400, within = seconds % 86400;
    if (within < 0) days--, within += 86400;
    switch (code->to) {
        case 'p':
        case 'P': return v_whole(out, v_type(code->to), seconds * 1000000 + us, 8);
        case 'D': return within || us ? LEFT_OUT : v_whole(out, 1082, days, 4);
        case 'T': return days != -10957 ? LEFT_OUT : v_whole(out, 1083, within * 1000000 + us, 8);
        default: return LEFT_OUT;
    }
}

static int v_count(Buffer *out, const Code *code, int64_t x) {
    int64_t unit = 1, shift = -946684800, seconds, rest;
    uint64_t size = x < 0 ? 0 - (uint64_t)x : (uint64_t)x;
    switch (code->integers) {
        case 's': break;
        case 'm': unit = 1000; break;
        case 'u': unit = 1000000; break;
        case 'n': unit = 1000000000; break;
        case 'w': unit = 1000000, shift -= 11644473600; break;
        case 'a': shift += 978307200; break;
        case 'z':
            if (size >= UINT64_C(100000000000)) unit = 1000;
            if (size >= UINT64_C(100000000000000)) unit = 1000000;
            if (size >= UINT64_C(100000000000000000)) unit = 1000000000;
            break;
        case 'd':
            if (size > 4000000) return LEFT_OUT;
            x *= 86400;
            break;
        case 'y':
            if (x < 10101 || x > 99991231) return LEFT_OUT;
            x = v_days((int)(x / 10000), (int)(x % 10000 / 100), (int)(x % 100));
            return x == INT64_MIN ? LEFT_OUT : v_moment(out, code, x * 86400, 0);
        default: return LEFT_OUT;
    }
    seconds = x / unit;
    rest = x % unit;
    if (rest < 0) seconds--, rest += unit;
    if (seconds > INT64_C(300000000000) || seconds < -INT64_C(300000000000)) return LEFT_OUT;
    if (unit == 1000000000) {
        if (rest % 1000) return LEFT_OUT;
        rest /= 1000;
    } else {
        rest *= 1000000 / unit;
    }
    return v_moment(out, code, seconds + shift, rest);
}

/* A real number of seconds, by the decimal that the C library prints for it. */
static int v_real_time(Buffer *out, const Code *code, double x) {
    int places = code->reals == 'm' ? 3 : 6, i, negative;
    char text[64];
    int64_t us = 0;
    /* beyond 2^53 microseconds, doubles are too far apart to tell them */
    double most = code->reals == 'm' ? 9e12 : 9e9;
    if ((code->reals != 's' && code->reals != 'm' && code->reals != 'a') || !(x > -most && x < most)) return LEFT_OUT;
    snprintf(text, sizeof text, "%.*f", places, x);
    if (strtod(text, NULL) != x) return LEFT_OUT;
    negative = text[0] == '-';
    for (i = 0; text[i]; i++)
        if (text[i] >= '0' && text[i] <= '9') us = us * 10 + (text[i] - '0');
    if (negative) us = -us;
    i = us % 1000000 < 0;
    return v_moment(out, code, us / 1000000 - i - 946684800 + (code->reals == 'a' ? 978307200 : 0),
                    us % 1000000 + (i ? 1000000 : 0));
}

static int v_iso(Buffer *out, const Code *code, const u8 *p, size_t n) {
    int64_t day = -10957, seconds = 0, us = 0;
    size_t i = 0, places;
    if (code->to != 'T') {
        if (n < 10 || p[4] != '-' || p[7] != '-') return LEFT_OUT;
        if (v_digits(p, 4) < 0 || v_digits(p + 5, 2) < 0 || v_digits(p + 8, 2) < 0) return LEFT_OUT;
        day = v_days(v_digits(p, 4), v_digits(p + 5, 2), v_digits(p + 8, 2));
        if (day == INT64_MIN) return LEFT_OUT;
        if (n == 10) return v_moment(out, code, day * 86400, 0);
        if (p[10] != ' ' && p[10] != 'T') return LEFT_OUT;
        i = 11;
    }
    if (n < i + 5 || p[i + 2] != ':') return LEFT_OUT;
    if (v_digits(p + i, 2) < 0 || v_digits(p + i + 3, 2) < 0) return LEFT_OUT;
    seconds = v_digits(p + i, 2) * 3600 + v_digits(p + i + 3, 2) * 60;
    i += 5;
    if (n >= i + 3 && p[i] == ':') {
        if (v_digits(p + i + 1, 2) < 0) return LEFT_OUT;
        seconds += v_digits(p + i + 1, 2);
        i += 3;
        if (i < n && p[i] == '.') {
            for (places = 0, i++; i < n && places < 7 && is_digit(p[i]); i++, places++) us = us * 10 + (p[i] - '0');
            if (places > 6 || !places) return LEFT_OUT;
            for (; places < 6; places++) us *= 10;
        }
    }
    if (seconds >= 86400) return LEFT_OUT;
    if (i < n) {
        int sign = p[i] == '-' ? 1 : -1, hours, minutes = 0;
        if (code->to != 'P') return LEFT_OUT;
        if (p[i] == 'Z' && i + 1 == n) return v_moment(out, code, day * 86400 + seconds, us);
        if ((p[i] != '+' && p[i] != '-') || (n - i != 3 && n - i != 5 && n - i != 6)) return LEFT_OUT;
        hours = v_digits(p + i + 1, 2);
        if (n - i > 3) minutes = v_digits(p + n - 2, 2);
        if (hours < 0 || minutes < 0 || (n - i == 6 && p[i + 3] != ':')) return LEFT_OUT;
        seconds += sign * (hours * 3600 + minutes * 60);
    }
    return v_moment(out, code, day * 86400 + seconds, us);
}

/* ---- JSON as jsonb prints it ----------------------------------------------------------------------------------- */

static int n_put(Buffer *out, const void *bytes, size_t n) {
    u8 *at;
    if (!n) return 1;
    at = extend(out, n);
    if (at) memcpy(at, bytes, n);
    return at != NULL;
}

static int n_utf8(Buffer *out, unsigned c) {
    u8 b[4];
    size_t n = c < 0x80 ? 1 : c < 0x800 ? 2 : c < 0x10000 ? 3 : 4, i;
    if (n == 1) b[0] = (u8)c;
    for (i = n; n > 1 && i-- > 1; c >>= 6) b[i] = (u8)(0x80 | (c & 0x3f));
    if (n > 1) b[0] = (u8)((0xf00 >> n & 0xf0) | c);
    return n_put(out, b, n);
}

static int n_hex(Scan *s, unsigned *c) {
    int i;
    *c = 0;
    if (s->end - s->p < 5) return 0;
    for (i = 1; i < 5; i++) {
        if (hex_value(s->p[i]) < 0) return 0;
        *c = *c * 16 + (unsigned)hex_value(s->p[i]);
    }
    s->p += 5;
    return 1;
}

/* The string at `s` without its escapes. */
static int n_unescaped(Scan *s, Buffer *out) {
    static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
    if (s->p >= s->end || *s->p++ != '"') return 0;
    while (s->p < s->end && *s->p != '"') {
        const u8 *start = s->p;
        unsigned c, low;
        while (s->p < s->end && *s->p != '"' && *s->p != '\\' && *s->p >= 0x20) s->p++;
        if (!n_put(out, start, (size_t)(s->p - start)) || s->p >= s->end || *s->p < 0x20) return 0;
        if (*s->p == '"') break;
        if (++s->p >= s->end) return 0;
        if (*s->p == 'u') {
            if (!n_hex(s, &c) || !c || (c >= 0xdc00 && c < 0xe000)) return 0;
            if (c >= 0xd800 && c < 0xdc00) {
                if (s->end - s->p < 6 || *s->p++ != '\\' || *s->p != 'u' || !n_hex(s, &low)) return 0;
                if (low < 0xdc00 || low > 0xdfff) return 0;
                c = 0x10000 + ((c - 0xd800) << 10) + (low - 0xdc00);
            }
            if (!n_utf8(out, c)) return 0;
        } else {
            const char *found = *s->p ? strchr(from, *s->p) : NULL;
            if (!found || !n_put(out, to + (found - from), 1)) return 0;
            s->p++;
        }
    }
    if (s->p >= s->end) return 0;
    s->p++;
    return 1;
}

static int n_escaped(Buffer *out, const u8 *p, size_t n) {
    size_t i, start = 0;
    char text[8];
    if (!n_put(out, "\"", 1)) return 0;
    for (i = 0; i < n; i++) {
        if (p[i] >= 0x20 && p[i] != '"' && p[i] != '\\') continue;
        if (!n_put(out, p + start, i - start)) return 0;
        start = i + 1;
        switch (p[i]) {
            case '"':
            case '\\': snprintf(text, sizeof text, "\\%c", p[i]); break;
            case '\b': memcpy(text, "\\b", 3); break;
            case '\f': memcpy(text, "\\f", 3); break;
            case '\n': memcpy(text, "\\n", 3); break;
            case '\r': memcpy(text, "\\r", 3); break;
            case '\t': memcpy(text, "\\t", 3); break;
            default: snprintf(text, sizeof text, "\\u%04x", p[i]);
        }
        if (!n_put(out, text, strlen(text))) return 0;
    }
    return n_put(out, p + start, n - start) && n_put(out, "\"", 1);
}

/* A number of digits, of which `point` stand before the point, with `least` digits behind it or more. */
static int n_plain(Buffer *out, int negative, const char *digits, int n, int point, int least) {
    char text[400];
    int at = 0, i, places;
    while (n && *digits == '0') digits++, n--, point--;
    while (n && n > point + least && digits[n - 1] == '0') n--;
    if (!n) point = 0;
    if (point > 150 || point < -150 || n > 150) return 0;
    places = n > point ? n - point : 0;
    if (places < least) places = least;
    if (negative && n) text[at++] = '-';
    if (!n || point <= 0) text[at++] = '0';
    for (i = 0; n && i < point; i++) text[at++] = i < n ? digits[i] : '0';
    if (places) text[at++] = '.';
    for (i = 0; i < places; i++) {
        int place = n ? point + i : n;
        text[at++] = place >= 0 && place < n ? digits[place] : '0';
    }
    return n_put(out, text, (size_t)at);
}

static int n_number(Scan *s, Buffer *out) {
    const u8 *start = s->p;
    char digits[100];
    int n = 0, fraction = 0, seen = 0, exponent = 0, negative = *s->p == '-';
    if (!json_number(s)) return 0;
    for (start += negative; start < s->p && (*start | 0x20) != 'e'; start++) {
        if (*start == '.') {
            seen = 1;
            continue;
        }
        if (n == 100) return 0;
        digits[n++] = (char)*start;
        fraction += seen;
    }
    if (start < s->p) {
        if (s->p - start > 4) return 0;
        for (start++; start < s->p; start++)
            if (*start >= '0' && *start <= '9') exponent = exponent * 10 + (*start - '0');
        for (start = s->p; (start[-1] | 0x20) != 'e'; start--) {
        }
        if (*start == '-') exponent = -exponent;
    }
    return n_plain(out, negative, digits, n, n - fraction + exponent, fraction > exponent ? fraction - exponent : 0);
}

typedef struct {
    size_t key, key_length, value, value_length;
} Member;

/* jsonb's order of keys, which are in `parts`: shorter ones first. */
static int n_order(const Buffer *parts, const Member *a, const Member *b) {
    if (a->key_length != b->key_length) return a->key_length < b->key_length ? -1 : 1;
    return a->key_length ? memcmp(parts->bytes + a->key, parts->bytes + b->key, a->key_length) : 0;
}

enum { MOST_MEMBERS = 64, NORMAL_DEPTH = 40 };

static int n_value(Scan *s, Buffer *out, int depth);

static int n_object(Scan *s, Buffer *out, int depth) {
    Member members[MOST_MEMBERS], each;
    Buffer parts = {NULL, 0, 0, 0};
    int count = 0, i, fine = 0;
    s->p++;
    skip_space(s);
    if (s->p < s->end && *s->p == '}') return s->p++, n_put(out, "{}", 2);
    for (;;) {
        if (count == MOST_MEMBERS) goto end;
        each.key = parts.length;
        skip_space(s);
        if (!n_unescaped(s, &parts)) goto end;
        each.value = parts.length;
        each.key_length = parts.length - each.key;
        skip_space(s);
        if (s->p >= s->end || *s->p++ != ':' || !n_value(s, &parts, depth + 1)) goto end;
        each.value_length = parts.length - each.value;
        for (i = count++; i && n_order(&parts, &members[i - 1], &each) > 0; i--) members[i] = members[i - 1];
        if (i && n_order(&parts, &members[i - 1], &each) == 0) goto end;
        members[i] = each;
        if (s->p >= s->end || (*s->p != ',' && *s->p != '}')) goto end;
        if (*s->p++ == '}') break;
    }
    for (i = 0; i < count; i++) {
        if (!n_put(out, i ? ", " : "{", i ? 2 : 1)) goto end;
        if (!n_escaped(out, parts.bytes + members[i].key, members[i].key_length)) goto end;
        if (!n_put(out, ": ", 2) || !n_put(out, parts.bytes + members[i].value, members[i].value_length)) goto end;
    }
    fine = n_put(out, "}", 1);
end:
    free(parts.bytes);
    return fine;
}

static int n_array(Scan *s, Buffer *out, int depth) {
    int count = 0;
    s->p++;
    skip_space(s);
    if (s->p < s->end && *s->p == ']') return s->p++, n_put(out, "[]", 2);
    for (;;) {
        if (!n_put(out, count ? ", " : "[", count ? 2 : 1) || !n_value(s, out, depth + 1)) return 0;
        count = 1;
        if (s->p >= s->end || (*s->p != ',' && *s->p != ']')) return 0;
        if (*s->p++ == ']') return n_put(out, "]", 1);
    }
}

/* A string; one without escapes stays as it is. */
static int n_string(Scan *s, Buffer *out) {
    Buffer text = {NULL, 0, 0, 0};
    const u8 *p = s->p + 1;
    int fine;
    while (p < s->end && *p != '"' && *p != '\\' && *p >= 0x20) p++;
    if (p < s->end && *p == '"') {
        fine = n_put(out, s->p, (size_t)(p + 1 - s->p));
        s->p = p + 1;
        return fine;
    }
    fine = n_unescaped(s, &text) && n_escaped(out, text.bytes ? text.bytes : (const u8 *)"", text.length);
    free(text.bytes);
    return fine;
}

static int n_value(Scan *s, Buffer *out, int depth) {
    const char *word;
    int fine;
    skip_space(s);
    if (s->p >= s->end || depth > NORMAL_DEPTH) return 0;
    switch (*s->p) {
        case '{': fine = n_object(s, out, depth); break;
        case '[': fine = n_array(s, out, depth); break;
        case '"': fine = n_string(s, out); break;
        case 't':
        case 'f':
        case 'n':
            word = *s->p == 't' ? "true" : *s->p == 'f' ? "false" : "null";
            fine = json_word(s, word) && n_put(out, word, strlen(word));
            break;
        default: fine = n_number(s, out);
    }
    skip_space(s);
    return fine;
}

static int v_json(Buffer *out, const Code *code, const u8 *p, size_t n) {
    Scan s = {p, p + n};
    size_t before = out->length;
    u8 *at;
    if (code->to == 'j') return v_bytes(out, 114, p, n);
    if (code->to != 'J') return LEFT_OUT;
    at = extend(out, 9);
    if (!at) return LEFT_OUT;
    at[8] = 1; /* the version of jsonb's form */
    if (!n_value(&s, out, 0) || s.p != s.end) return LEFT_OUT;
    store32(store32(out->bytes + before, 3802), (uint32_t)(out->length - before - 8));
    return WRITTEN;
}

/* ---- A cell of a record ---------------------------------------------------------------------------------------- */

static int v_integer(Buffer *out, const Code *code, int64_t x) {
    char text[24];
    int n;
    double real = (double)x;
    u8 bit = x == 1;
    switch (code->integers) {
        case 'b': return x == bit && code->to == 'b' ? v_bytes(out, 16, &bit, 1) : LEFT_OUT;
        case 'k':
            if (v_is_number(code)) return v_number(out, code, x);
            if (code->to == 'd') {
                if (x > INT64_C(9007199254740992) || x < -INT64_C(9007199254740992)) return LEFT_OUT;
                return v_whole(out, 701, (int64_t)bits_of(real), 8);
            }
            if (code->to == 'n') return v_scaled(out, code, x < 0, x < 0 ? 0 - (uint64_t)x : (uint64_t)x, 0);
            n = snprintf(text, sizeof text, "\001%lld", (long long)x); /* behind the version of jsonb's form */
            if (code->to == 'J') return v_bytes(out, 3802, text, (size_t)n);
            if (code->to != 't' && code->to != 'j') return LEFT_OUT;
            return v_bytes(out, v_type(code->to), text + 1, (size_t)n - 1);
        case 'x':
            n = snprintf(text, sizeof text, "%lld", (long long)x);
            return code->to == 't' || code->to == 'y' ? v_bytes(out, v_type(code->to), text, (size_t)n) : LEFT_OUT;
        default: return v_count(out, code, x);
    }
}

static int v_real(Buffer *out, const Code *code, double x) {
    switch (code->reals) {
        case 'k': return code->to == 'd' ? v_whole(out, 701, (int64_t)bits_of(x), 8) : LEFT_OUT;
        case 'w':
            if (!(x > -9e18 && x < 9e18) || (double)(int64_t)x != x || !v_is_number(code)) return LEFT_OUT;
            return v_number(out, code, (int64_t)x);
        case 'h': return code->to == 'n' ? v_decimal_of_real(out, code, x) : LEFT_OUT;
        default: return v_real_time(out, code, x);
    }
}

static int v_uuid(Buffer *out, const u8 *p, size_t n) {
    u8 uuid[16] = {0};
    size_t i, count = 0;
    for (i = 0; i < n; i++) {
        int nibble = hex_value(p[i]);
        if (p[i] == '-' || p[i] == '{' || p[i] == '}') continue;
        if (nibble < 0 || count == 32) return LEFT_OUT;
        uuid[count / 2] = (u8)(uuid[count / 2] << 4 | nibble);
        count++;
    }
    return count == 32 ? v_bytes(out, 2950, uuid, 16) : LEFT_OUT;
}

static int v_truth(Buffer *out, const u8 *p, size_t n) {
    /* each word tells by its first letters; a word that is none was not loaded, and is not looked for here */
    u8 first = n ? p[0] | 0x20 : 0, second = n > 1 ? p[1] | 0x20 : 0, truth;
    if (!n || n > 5) return LEFT_OUT;
    truth = p[0] == '1' || first == 't' || first == 'y' || (first == 'o' && second == 'n');
    return v_bytes(out, 16, &truth, 1);
}

static int v_integer_of_text(Buffer *out, const Code *code, const u8 *p, size_t n) {
    char text[24];
    size_t i;
    if (n < 1 || n > 18 || !v_is_number(code)) return LEFT_OUT;
    for (i = 0; i < n; i++)
        if ((p[i] < '0' || p[i] > '9') && !(i == 0 && n > 1 && (p[i] == '-' || p[i] == '+'))) return LEFT_OUT;
    memcpy(text, p, n);
    text[n] = 0;
    return v_number(out, code, strtoll(text, NULL, 10));
}

static int v_text(Buffer *out, const Code *code, const u8 *p, size_t n) {
    switch (code->texts) {
        case 'k': return code->to == 't' ? v_bytes(out, 25, p, n) : LEFT_OUT;
        case 'y': return code->to == 'y' ? v_bytes(out, 17, p, n) : LEFT_OUT;
        case 'n': return code->to == 'n' ? v_decimal_of_text(out, code, p, n) : v_integer_of_text(out, code, p, n);
        case 'b': return code->to == 'b' ? v_truth(out, p, n) : LEFT_OUT;
        case 'i': return v_iso(out, code, p, n);
        case 'u': return code->to == 'u' ? v_uuid(out, p, n) : LEFT_OUT;
        case 'j': return v_json(out, code, p, n);
        default: return LEFT_OUT;
    }
}

static int v_blob(Buffer *out, const Code *code, const u8 *p, size_t n) {
    switch (code->blobs) {
        case 'k': return code->to == 'y' ? v_bytes(out, 17, p, n) : LEFT_OUT;
        case 'x': return code->to == 't' ? v_bytes(out, 25, p, n) : LEFT_OUT;
        case 'u': return code->to == 'u' && n == 16 ? v_bytes(out, 2950, p, n) : LEFT_OUT;
        case 'j': return v_json(out, code, p, n);
        case 'd': return code->to == 'n' ? v_decimal_of_text(out, code, p, n) : v_integer_of_text(out, code, p, n);
        default: return LEFT_OUT;
    }
}

static int v_cell(Buffer *out, const Code *code, sqlite3_value *value) {
    u8 *at;
    const u8 *p;
    int type = sqlite_value_type(value), n = 0;
    if (type == SQLITE_INTEGER) return v_integer(out, code, sqlite_value_int64(value));
    if (type == SQLITE_FLOAT) return v_real(out, code, sqlite_value_double(value));
    if (type != SQLITE_NULL) {
        p = type == SQLITE_TEXT ? sqlite_value_text(value) : sqlite_value_blob(value);
        n = sqlite_value_bytes(value);
        if (n > WIDE) return LEFT_OUT;
        if (!p) p = (const u8 *)"", n = 0;
        if (type == SQLITE_BLOB) return v_blob(out, code, p, (size_t)n);
        if (n || code->empty != 'n') return v_text(out, code, p, (size_t)n);
    }
    at = extend(out, 8);
    return at && store32(store32(at, v_type(code->to)), 0xffffffff);
}

/* ---- record_sums(codes, seed, seed2, c1, ..., cn) --------------------------------------------------------------- */

static uint32_t turned(uint32_t x, int by) { return x << by | x >> (32 - by); }

static uint32_t little32(const u8 *p) {
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

#define STIR(a, b, c, by) (a = (a - c) ^ turned(c, by), c += b)
#define MIX(a, b, c)                                                                                                   \
    (STIR(a, b, c, 4), STIR(b, c, a, 6), STIR(c, a, b, 8), STIR(a, b, c, 16), STIR(b, c, a, 19), STIR(c, a, b, 4))
#define LAST(a, b, by) (a = (a ^ b) - turned(b, by))
#define FINISH(a, b, c)                                                                                                \
    (LAST(c, b, 14), LAST(a, c, 11), LAST(b, a, 25), LAST(c, b, 16), LAST(a, c, 4), LAST(b, a, 14), LAST(c, b, 24))

/* Bob Jenkins' lookup3 (public domain) with 64 bits of seed and result, as PostgreSQL's hash functions use it on
** machines that store the least byte first; added to `sums`, for two seeds. Each step of it waits for the one before, so
** both seeds together take hardly longer than one. */
static void add_hashes(const u8 *p, size_t n, uint64_t first, uint64_t second, uint64_t sums[2]) {
    uint32_t x, y, z, a, b, c, d, e, f;
    u8 last[12] = {0};
    a = b = c = d = e = f = 0x9e3779b9u + (uint32_t)n + 3923095u;
    if (first) {
        a += (uint32_t)(first >> 32);
        b += (uint32_t)first;
        MIX(a, b, c);
    }
    if (second) {
        d += (uint32_t)(second >> 32);
        e += (uint32_t)second;
        MIX(d, e, f);
    }
    for (; n >= 12; p += 12, n -= 12) {
        x = little32(p), y = little32(p + 4), z = little32(p + 8);
        a += x, b += y, c += z, d += x, e += y, f += z;
        MIX(a, b, c);
        MIX(d, e, f);
    }
    /* what is left: the least byte of the third word belongs to the length */
    memcpy(last, p, n < 8 ? n : 8);
    if (n > 8) memcpy(last + 9, p + 8, n - 8);
    x = little32(last), y = little32(last + 4), z = little32(last + 8);
    a += x, b += y, c += z, d += x, e += y, f += z;
    FINISH(a, b, c);
    FINISH(d, e, f);
    sums[0] += (uint64_t)b << 32 | c;
    sums[1] += (uint64_t)e << 32 | f;
}

typedef struct {
    Codes *codes;
    Buffer row;
    uint64_t sums[2], left, rows;
    int failed;
} Sums;

enum { FIRST = 3 }; /* the columns come after the codes and the seeds */

static void sums_step(sqlite3_context *context, int count, sqlite3_value **values) {
    Sums *sums = sqlite_aggregate_context(context, (int)sizeof(Sums));
    u8 *at;
    int i, fine = 1;
    if (!sums) {
        sqlite_result_error_nomem(context);
        return;
    }
    if (sums->failed) return;
    if (!sums->codes) sums->codes = count <= FIRST ? NULL : read_codes(text_of(values[0]), count - FIRST);
    if (!sums->codes) {
        sums->failed = 1;
        fail(context, "record_sums(codes, seed, seed2, c1, ..., cn): the codes are not of these columns");
        return;
    }
    sums->row.length = 0;
    at = extend(&sums->row, 4);
    if (at) store32(at, (uint32_t)(count - FIRST));
    for (i = FIRST; at && fine && i < count; i++)
        fine = v_cell(&sums->row, &sums->codes->code[i - FIRST], values[i]) == WRITTEN;
    if (sums->row.failed) {
        sums->failed = 1;
        sqlite_result_error_nomem(context);
    } else if (fine) {
        add_hashes(sums->row.bytes, sums->row.length, (uint64_t)sqlite_value_int64(values[1]),
                   (uint64_t)sqlite_value_int64(values[2]), sums->sums);
        sums->rows++;
    } else {
        sums->left++;
    }
}

/* Both sums, how many rows were left out, and how many are in the sums: 64 bits each. */
static void sums_final(sqlite3_context *context) {
    Sums *sums = sqlite_aggregate_context(context, 0);
    Buffer out = {NULL, 0, 0, 0};
    u8 *at;
    if (!sums) {
        sqlite_result_null(context);
        return;
    }
    free(sums->row.bytes);
    free(sums->codes);
    at = sums->failed ? NULL : extend(&out, 32);
    if (at) {
        store64(store64(store64(store64(at, sums->sums[0]), sums->sums[1]), sums->left), sums->rows);
        sqlite_result_blob64(context, out.bytes, out.length, free);
    } else if (!sums->failed) {
        sqlite_result_error_nomem(context);
    }
    memset(sums, 0, sizeof *sums);
}

/* ---- What SQLite calls ----------------------------------------------------------------------------------------- */

#ifdef _WIN32
__declspec(dllexport)
#endif
    int sqlite3_dbscale_init(sqlite3 *db, char **error, Api routines) {
    /* for statements of dbscale alone, and not for what stands in a file: a view, a trigger, an index */
    const int plain = SQLITE_UTF8 | SQLITE_DIRECTONLY, pure = plain | SQLITE_DETERMINISTIC;
    int result;
    (void)error;
    api = routines;
    result = sqlite_create_function(db, "pgcopy", -1, plain, NULL, NULL, pgcopy_step, pgcopy_final, NULL);
    if (result == SQLITE_OK)
        result = sqlite_create_function(db, "pgcopy_row", -1, pure, NULL, pgcopy_row, NULL, NULL, NULL);
    if (result == SQLITE_OK)
        result = sqlite_create_function(db, "profile", -1, plain, NULL, NULL, profile_step, profile_final, NULL);
    if (result == SQLITE_OK)
        result = sqlite_create_function(db, "json_repeats", 1, pure, NULL, tell_repeats, NULL, NULL, NULL);
    if (result == SQLITE_OK)
        result = sqlite_create_function(db, "record_sums", -1, plain, NULL, NULL, sums_step, sums_final, NULL);
    return result;
}
