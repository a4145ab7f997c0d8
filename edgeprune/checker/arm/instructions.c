/* A QEMU plugin (API 1: QEMU 6.0 to 8.2) that counts executed A64 instructions by class.

   The counts so far are written, one line each, whenever the program calls getpgid(MARK + k): "k c0 c1 ...", in the
   order of `enum class`. The prototypes below are QEMU's, so that no header package is needed.
   Encodings: Arm Architecture Reference Manual for A-profile, C4 "A64 Instruction Set Encoding". */

#include <inttypes.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

enum class { FLOAT_MULTIPLY_ADD, INTEGER_MULTIPLY_ADD, DOT_PRODUCT, MATRIX_MULTIPLY, VECTOR, LOAD, STORE, BRANCH, OTHER,
             CLASSES };

#define BITS(word, high, low) ((word) >> (low) & ((1u << ((high) - (low) + 1)) - 1))
#define EXPORT __attribute__((visibility("default")))

/* Advanced SIMD, three registers, vector form (bits 28..24 are 01110). */
static enum class vector_class(uint32_t word)
{
    uint32_t u = BITS(word, 29, 29), size = BITS(word, 23, 22);
    if (BITS(word, 21, 21)) {
        uint32_t same = BITS(word, 15, 11), different = BITS(word, 15, 12);
        if (BITS(word, 10, 10)) {
            if (same == 0x19 || (same == 0x1d && !u)) return FLOAT_MULTIPLY_ADD; /* FMLA, FMLS, FMLAL, FMLSL */
            return same == 0x12 ? INTEGER_MULTIPLY_ADD : VECTOR;                  /* MLA, MLS */
        }
        if (BITS(word, 11, 10) == 0 && different >= 8 && different <= 11) /* SMLAL, SQDMLAL, SMLSL, SQDMLSL */
            return INTEGER_MULTIPLY_ADD;
        return VECTOR;
    }
    if (!BITS(word, 10, 10)) return VECTOR; /* permutations, copies, table look-ups */
    if (BITS(word, 15, 15)) {
        switch (BITS(word, 14, 11)) {
        case 0x0: case 0x1: return u ? INTEGER_MULTIPLY_ADD : VECTOR; /* SQRDMLAH, SQRDMLSH */
        case 0x2: case 0x3: return DOT_PRODUCT;                       /* SDOT, UDOT, USDOT */
        case 0x4: case 0x5: case 0xd: return MATRIX_MULTIPLY;         /* SMMLA, UMMLA, USMMLA, BFMMLA */
        case 0xf: return size == 1 ? DOT_PRODUCT : FLOAT_MULTIPLY_ADD; /* BFDOT; BFMLAL */
        case 0x8: case 0x9: case 0xa: case 0xb: return FLOAT_MULTIPLY_ADD; /* FCMLA */
        default: return VECTOR;
        }
    }
    if (BITS(word, 22, 22) && BITS(word, 14, 14) == 0 && BITS(word, 13, 11) == 1 && !u)
        return FLOAT_MULTIPLY_ADD; /* FMLA, FMLS of half precision */
    return VECTOR;
}

/* Advanced SIMD with one element of the last register (bits 28..24 are 01111, bit 10 is 0). */
static enum class element_class(uint32_t word)
{
    uint32_t u = BITS(word, 29, 29), size = BITS(word, 23, 22);
    switch (BITS(word, 15, 12)) {
    case 0x0: case 0x4: return u ? INTEGER_MULTIPLY_ADD : FLOAT_MULTIPLY_ADD; /* MLA, MLS; FMLAL, FMLSL */
    case 0x1: case 0x5: return FLOAT_MULTIPLY_ADD;                            /* FMLA, FMLS, FCMLA */
    case 0x2: case 0x6: return INTEGER_MULTIPLY_ADD;                          /* SMLAL, SMLSL, UMLAL, UMLSL */
    case 0x3: case 0x7: return u ? FLOAT_MULTIPLY_ADD : INTEGER_MULTIPLY_ADD; /* FCMLA; SQDMLAL, SQDMLSL */
    case 0x8: case 0xc: return u ? FLOAT_MULTIPLY_ADD : VECTOR;               /* FMLAL2, FMLSL2; MUL, SQDMULH */
    case 0xd: return u ? INTEGER_MULTIPLY_ADD : VECTOR;                       /* SQRDMLAH */
    case 0xe: return DOT_PRODUCT;                                             /* SDOT, UDOT */
    case 0xf: return u ? INTEGER_MULTIPLY_ADD : size == 3 ? FLOAT_MULTIPLY_ADD : DOT_PRODUCT; /* SUDOT, BFDOT; BFMLAL */
    default: return VECTOR;
    }
}

static enum class memory_class(uint32_t word)
{
    uint32_t form = BITS(word, 29, 28), vector = BITS(word, 26, 26), opc = BITS(word, 23, 22);
    if (form == 0 || form == 2) return opc & 1 ? LOAD : STORE; /* exclusive, structures, pairs: bit 22 is L */
    if (form == 1) return BITS(word, 24, 24) && opc == 0 ? STORE : LOAD; /* STLUR and tags; literals */
    if (!BITS(word, 24, 24) && BITS(word, 21, 21) && BITS(word, 11, 10) == 0) return LOAD; /* atomics */
    return opc == 0 || (vector && opc == 2) ? STORE : LOAD;
}

/* The class of one instruction word, a number of `enum class`. */
EXPORT int instruction_class(uint32_t word)
{
    if (BITS(word, 27, 27) && !BITS(word, 25, 25)) return memory_class(word);
    if (BITS(word, 28, 26) == 5) return (word >> 24 & 0xfe) == 0xd4 ? OTHER : BRANCH; /* exceptions, system: other */
    if (BITS(word, 28, 25) == 2) return VECTOR; /* SVE */
    if (BITS(word, 27, 25) != 7) return OTHER;  /* integer arithmetic */
    if (BITS(word, 31, 24) == 0x1f) return FLOAT_MULTIPLY_ADD; /* FMADD, FMSUB, FNMADD, FNMSUB */
    if (BITS(word, 31, 31) || (BITS(word, 28, 28) && !BITS(word, 30, 30))) return VECTOR; /* scalar arithmetic */
    if (BITS(word, 24, 24)) return BITS(word, 10, 10) ? VECTOR : element_class(word);
    return BITS(word, 28, 28) ? VECTOR : vector_class(word);
}

/* --- QEMU ------------------------------------------------------------------------------------------------------ */

struct qemu_plugin_tb;
struct qemu_plugin_insn;
typedef void (*translated)(uint64_t id, struct qemu_plugin_tb *block);
typedef void (*called)(uint64_t id, unsigned cpu, int64_t number, uint64_t a1, uint64_t a2, uint64_t a3, uint64_t a4,
                       uint64_t a5, uint64_t a6, uint64_t a7, uint64_t a8);
extern void qemu_plugin_register_vcpu_tb_trans_cb(uint64_t id, translated callback);
extern void qemu_plugin_register_vcpu_syscall_cb(uint64_t id, called callback);
extern void qemu_plugin_register_vcpu_tb_exec_inline(struct qemu_plugin_tb *block, int add, void *target, uint64_t n);
extern size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *block);
extern struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *block, size_t index);
extern const void *qemu_plugin_insn_data(const struct qemu_plugin_insn *instruction);

EXPORT int qemu_plugin_version = 1;

enum { GETPGID = 155, MARK = 0x5a5a0000, MARKS = 0x10000 };
static uint64_t counts[CLASSES];
static FILE *out;

static void on_block(uint64_t id, struct qemu_plugin_tb *block)
{
    uint64_t found[CLASSES] = {0};
    size_t n = qemu_plugin_tb_n_insns(block);
    (void)id;
    for (size_t i = 0; i < n; i++) {
        uint32_t word;
        memcpy(&word, qemu_plugin_insn_data(qemu_plugin_tb_get_insn(block, i)), sizeof word);
        found[instruction_class(word)]++;
    }
    for (int k = 0; k < CLASSES; k++)
        if (found[k]) qemu_plugin_register_vcpu_tb_exec_inline(block, 0, &counts[k], found[k]);
}

static void on_call(uint64_t id, unsigned cpu, int64_t number, uint64_t a1, uint64_t a2, uint64_t a3, uint64_t a4,
                    uint64_t a5, uint64_t a6, uint64_t a7, uint64_t a8)
{
    (void)id, (void)cpu, (void)a2, (void)a3, (void)a4, (void)a5, (void)a6, (void)a7, (void)a8;
    if (number != GETPGID || a1 < MARK || a1 >= MARK + MARKS) return;
    fprintf(out, "%" PRIu64, a1 - MARK);
    for (int k = 0; k < CLASSES; k++) fprintf(out, " %" PRIu64, counts[k]);
    fputc('\n', out);
    fflush(out);
}

EXPORT int qemu_plugin_install(uint64_t id, const void *told, int argc, char **argv)
{
    (void)told;
    if (argc != 1 || strncmp(argv[0], "out=", 4) != 0) return 1;
    out = fopen(argv[0] + 4, "w");
    if (!out) return 1;
    qemu_plugin_register_vcpu_tb_trans_cb(id, on_block);
    qemu_plugin_register_vcpu_syscall_cb(id, on_call);
    return 0;
}
