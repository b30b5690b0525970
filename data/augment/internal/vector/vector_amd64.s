#include "go_asm.h"
#include "textflag.h"

// Operands stand in Go's order: VSUBPS b, a, c is c = a - b. Loops count DX from the block's first
// voxel in bytes up to CX, the end. No fused multiply-add: the plain forms have none.

// func axpyAVX2(y, x []float32, a float32)
TEXT ·axpyAVX2(SB), NOSPLIT, $0-52
	MOVQ         y_base+0(FP), DI
	MOVQ         y_len+8(FP), CX
	MOVQ         x_base+24(FP), SI
	VBROADCASTSS a+48(FP), Y0
	SHLQ         $2, CX
	XORQ         DX, DX

loop: // y += a·x
	VMULPS  (SI)(DX*1), Y0, Y1
	VADDPS  (DI)(DX*1), Y1, Y1
	VMOVUPS Y1, (DI)(DX*1)
	ADDQ    $32, DX
	CMPQ    DX, CX
	JB      loop
	VZEROUPPER
	RET

// func scaleAVX2(v []float32, a float32)
TEXT ·scaleAVX2(SB), NOSPLIT, $0-28
	MOVQ         v_base+0(FP), DI
	MOVQ         v_len+8(FP), CX
	VBROADCASTSS a+24(FP), Y0
	SHLQ         $2, CX
	XORQ         DX, DX

loop: // v *= a
	VMULPS  (DI)(DX*1), Y0, Y1
	VMOVUPS Y1, (DI)(DX*1)
	ADDQ    $32, DX
	CMPQ    DX, CX
	JB      loop
	VZEROUPPER
	RET

// func affineAVX2(v []float32, shift, factor, offset, low, high float32)
TEXT ·affineAVX2(SB), NOSPLIT, $0-44
	MOVQ         v_base+0(FP), DI
	MOVQ         v_len+8(FP), CX
	VBROADCASTSS shift+24(FP), Y0
	VBROADCASTSS factor+28(FP), Y1
	VBROADCASTSS offset+32(FP), Y2
	VBROADCASTSS low+36(FP), Y3
	VBROADCASTSS high+40(FP), Y4
	SHLQ         $2, CX
	XORQ         DX, DX

loop: // (v-shift)·factor + offset; of equal numbers the clamps keep v
	VMOVUPS (DI)(DX*1), Y5
	VSUBPS  Y0, Y5, Y5
	VMULPS  Y1, Y5, Y5
	VADDPS  Y2, Y5, Y5
	VMAXPS  Y5, Y3, Y5
	VMINPS  Y5, Y4, Y5
	VMOVUPS Y5, (DI)(DX*1)
	ADDQ    $32, DX
	CMPQ    DX, CX
	JB      loop
	VZEROUPPER
	RET

// func betweenAVX2(dst, a, b []float32, part float32)
TEXT ·betweenAVX2(SB), NOSPLIT, $0-76
	MOVQ         dst_base+0(FP), DI
	MOVQ         dst_len+8(FP), CX
	MOVQ         a_base+24(FP), SI
	MOVQ         b_base+48(FP), BX
	VBROADCASTSS part+72(FP), Y0
	SHLQ         $2, CX
	XORQ         DX, DX

loop: // a + (b-a)·part
	VMOVUPS (SI)(DX*1), Y1
	VMOVUPS (BX)(DX*1), Y2
	VSUBPS  Y1, Y2, Y2
	VMULPS  Y0, Y2, Y2
	VADDPS  Y2, Y1, Y1
	VMOVUPS Y1, (DI)(DX*1)
	ADDQ    $32, DX
	CMPQ    DX, CX
	JB      loop
	VZEROUPPER
	RET

// func resampleAVX2(dst, src []float32, left, right []int32, part []float32)
TEXT ·resampleAVX2(SB), NOSPLIT, $0-120
	MOVQ         dst_base+0(FP), DI
	MOVQ         dst_len+8(FP), CX
	MOVQ         src_base+24(FP), SI
	MOVQ         src_len+32(FP), AX
	MOVQ         left_base+48(FP), R8
	MOVQ         right_base+72(FP), R9
	MOVQ         part_base+96(FP), R10
	DECQ         AX
	VMOVD        AX, X0
	VPBROADCASTD X0, Y0 // the last index: none reads beyond src
	SHLQ         $2, CX
	XORQ         DX, DX

loop: // a + (b-a)·part of a = src[left], b = src[right]
	VPMINUD    (R8)(DX*1), Y0, Y1
	VPMINUD    (R9)(DX*1), Y0, Y2
	VPCMPEQD   Y3, Y3, Y3
	VPCMPEQD   Y4, Y4, Y4
	VGATHERDPS Y3, (SI)(Y1*4), Y5
	VGATHERDPS Y4, (SI)(Y2*4), Y6
	VSUBPS     Y5, Y6, Y6
	VMULPS     (R10)(DX*1), Y6, Y6
	VADDPS     Y6, Y5, Y5
	VMOVUPS    Y5, (DI)(DX*1)
	ADDQ       $32, DX
	CMPQ       DX, CX
	JB         loop
	VZEROUPPER
	RET

// PAIR adds the tap Y4 times (left + right) of 8 voxels to sum; AX and BX are the rows.
#define PAIR(at, sum) \
	VMOVUPS at(AX), Y5     \
	VADDPS  at(BX), Y5, Y5 \
	VMULPS  Y4, Y5, Y5     \
	VADDPS  Y5, sum, sum

// func filterAVX2(dst, src []float32, offsets []int, taps []float32)
TEXT ·filterAVX2(SB), NOSPLIT, $0-96
	MOVQ dst_base+0(FP), DI
	MOVQ dst_len+8(FP), CX
	MOVQ src_base+24(FP), SI
	MOVQ offsets_base+48(FP), R8
	MOVQ taps_base+72(FP), R9
	MOVQ taps_len+80(FP), R10

wide: // 32 voxels at a time
	SUBQ         $32, CX
	JB           narrow
	MOVQ         R8, R11
	MOVQ         R9, R12
	MOVQ         R10, R13
	MOVQ         (R11), AX
	LEAQ         (SI)(AX*4), AX
	VBROADCASTSS (R12), Y4
	VMULPS       (AX), Y4, Y0
	VMULPS       32(AX), Y4, Y1
	VMULPS       64(AX), Y4, Y2
	VMULPS       96(AX), Y4, Y3
	JMP          wideNext

widePair:
	MOVQ         8(R11), AX
	MOVQ         16(R11), BX
	ADDQ         $16, R11
	ADDQ         $4, R12
	LEAQ         (SI)(AX*4), AX
	LEAQ         (SI)(BX*4), BX
	VBROADCASTSS (R12), Y4
	PAIR(0, Y0)
	PAIR(32, Y1)
	PAIR(64, Y2)
	PAIR(96, Y3)

wideNext:
	DECQ    R13
	JNZ     widePair
	VMOVUPS Y0, (DI)
	VMOVUPS Y1, 32(DI)
	VMOVUPS Y2, 64(DI)
	VMOVUPS Y3, 96(DI)
	ADDQ    $128, SI
	ADDQ    $128, DI
	JMP     wide

narrow: // the rest, 8 at a time
	ADDQ $32, CX

one:
	SUBQ         $8, CX
	JB           done
	MOVQ         R8, R11
	MOVQ         R9, R12
	MOVQ         R10, R13
	MOVQ         (R11), AX
	VBROADCASTSS (R12), Y4
	VMULPS       (SI)(AX*4), Y4, Y0
	JMP          oneNext

onePair:
	MOVQ         8(R11), AX
	MOVQ         16(R11), BX
	ADDQ         $16, R11
	ADDQ         $4, R12
	LEAQ         (SI)(AX*4), AX
	LEAQ         (SI)(BX*4), BX
	VBROADCASTSS (R12), Y4
	PAIR(0, Y0)

oneNext:
	DECQ    R13
	JNZ     onePair
	VMOVUPS Y0, (DI)
	ADDQ    $32, SI
	ADDQ    $32, DI
	JMP     one

done:
	VZEROUPPER
	RET

// func replaceAVX2(v []int16, from, to int16)
TEXT ·replaceAVX2(SB), NOSPLIT, $0-28
	MOVQ         v_base+0(FP), DI
	MOVQ         v_len+8(FP), CX
	VPBROADCASTW from+24(FP), Y0
	VPBROADCASTW to+26(FP), Y1
	SHLQ         $1, CX
	XORQ         DX, DX

loop: // 16 labels
	VMOVDQU   (DI)(DX*1), Y2
	VPCMPEQW  Y0, Y2, Y3
	VPBLENDVB Y3, Y1, Y2, Y2
	VMOVDQU   Y2, (DI)(DX*1)
	ADDQ      $32, DX
	CMPQ      DX, CX
	JB        loop
	VZEROUPPER
	RET

// func exchangeReversed32(a, b []float32)
TEXT ·exchangeReversed32(SB), NOSPLIT, $0-48
	MOVQ    a_base+0(FP), DI
	MOVQ    a_len+8(FP), CX
	MOVQ    b_base+24(FP), SI
	VMOVDQU eightReversed<>(SB), Y0
	SHLQ    $2, CX
	XORQ    DX, DX

loop: // a from its beginning, b from its end
	VPERMD  (DI)(DX*1), Y0, Y1
	VPERMD  -32(SI)(CX*1), Y0, Y2
	VMOVDQU Y1, -32(SI)(CX*1)
	VMOVDQU Y2, (DI)(DX*1)
	ADDQ    $32, DX
	SUBQ    $32, CX
	JNZ     loop
	VZEROUPPER
	RET

// func exchangeReversed16(a, b []int16)
TEXT ·exchangeReversed16(SB), NOSPLIT, $0-48
	MOVQ    a_base+0(FP), DI
	MOVQ    a_len+8(FP), CX
	MOVQ    b_base+24(FP), SI
	VMOVDQU labelsReversed<>(SB), Y0
	SHLQ    $1, CX
	XORQ    DX, DX

loop: // both halves of 16 labels reversed, and exchanged
	VMOVDQU (DI)(DX*1), Y1
	VMOVDQU -32(SI)(CX*1), Y2
	VPSHUFB Y0, Y1, Y1
	VPSHUFB Y0, Y2, Y2
	VPERMQ  $0x4e, Y1, Y1
	VPERMQ  $0x4e, Y2, Y2
	VMOVDQU Y1, -32(SI)(CX*1)
	VMOVDQU Y2, (DI)(DX*1)
	ADDQ    $32, DX
	SUBQ    $32, CX
	JNZ     loop
	VZEROUPPER
	RET

// indices of 8 numbers
DATA eightReversed<>+0(SB)/8, $0x0000000600000007
DATA eightReversed<>+8(SB)/8, $0x0000000400000005
DATA eightReversed<>+16(SB)/8, $0x0000000200000003
DATA eightReversed<>+24(SB)/8, $0x0000000000000001
GLOBL eightReversed<>(SB), RODATA|NOPTR, $32

// indices of the bytes of 8 labels, for both halves
DATA labelsReversed<>+0(SB)/8, $0x09080b0a0d0c0f0e
DATA labelsReversed<>+8(SB)/8, $0x0100030205040706
DATA labelsReversed<>+16(SB)/8, $0x09080b0a0d0c0f0e
DATA labelsReversed<>+24(SB)/8, $0x0100030205040706
GLOBL labelsReversed<>(SB), RODATA|NOPTR, $32

// func addAVX2(s *Statistics, v []float32)
TEXT ·addAVX2(SB), NOSPLIT, $0-32
	MOVQ         s+0(FP), DI
	MOVQ         v_base+8(FP), SI
	MOVQ         v_len+16(FP), CX
	VBROADCASTSS Statistics_first(DI), Y0
	VMOVUPS      Statistics_low(DI), Y1
	VMOVUPS      Statistics_high(DI), Y2
	VMOVUPD      Statistics_sum(DI), Y3
	VMOVUPD      (Statistics_sum+32)(DI), Y4
	VMOVUPD      Statistics_square(DI), Y5
	VMOVUPD      (Statistics_square+32)(DI), Y6
	SHLQ         $2, CX
	XORQ         DX, DX

loop: // e = v - first, as float64: 4 in Y8, 4 in Y9
	VMOVUPS      (SI)(DX*1), Y7
	VMINPS       Y1, Y7, Y1
	VMAXPS       Y2, Y7, Y2
	VSUBPS       Y0, Y7, Y7
	VCVTPS2PD    X7, Y8
	VEXTRACTF128 $1, Y7, X9
	VCVTPS2PD    X9, Y9
	VADDPD       Y8, Y3, Y3
	VADDPD       Y9, Y4, Y4
	VMULPD       Y8, Y8, Y8
	VMULPD       Y9, Y9, Y9
	VADDPD       Y8, Y5, Y5
	VADDPD       Y9, Y6, Y6
	ADDQ         $32, DX
	CMPQ         DX, CX
	JB           loop
	VMOVUPS      Y1, Statistics_low(DI)
	VMOVUPS      Y2, Statistics_high(DI)
	VMOVUPD      Y3, Statistics_sum(DI)
	VMOVUPD      Y4, (Statistics_sum+32)(DI)
	VMOVUPD      Y5, Statistics_square(DI)
	VMOVUPD      Y6, (Statistics_square+32)(DI)
	VZEROUPPER
	RET

// INDICES moves 8 indices of 32 bits to R8 to R13, AX and CX. low is the lower half of index.
#define INDICES(low, index, high) \
	VEXTRACTI128 $1, index, high \
	VMOVQ        low, R8         \
	VPEXTRQ      $1, low, R10    \
	VMOVQ        high, R12       \
	VPEXTRQ      $1, high, AX    \
	MOVQ         R8, R9          \
	MOVQ         R10, R11        \
	MOVQ         R12, R13        \
	MOVQ         AX, CX          \
	SHRQ         $32, R9         \
	SHRQ         $32, R11        \
	SHRQ         $32, R13        \
	SHRQ         $32, CX         \
	MOVL         R8, R8          \
	MOVL         R10, R10        \
	MOVL         R12, R12        \
	MOVL         AX, AX

// PAIRS reads the 8 numbers at base plus R8 to R13, AX and CX to a, those behind them to b.
#define PAIRS(base, a, b) \
	VMOVSD      (base)(R8*4), X10       \
	VMOVHPS     (base)(R9*4), X10, X10  \
	VMOVSD      (base)(R10*4), X11      \
	VMOVHPS     (base)(R11*4), X11, X11 \
	VMOVSD      (base)(R12*4), X12      \
	VMOVHPS     (base)(R13*4), X12, X12 \
	VMOVSD      (base)(AX*4), X13       \
	VMOVHPS     (base)(CX*4), X13, X13  \
	VINSERTF128 $1, X12, Y10, Y10       \
	VINSERTF128 $1, X13, Y11, Y11       \
	VSHUFPS     $0x88, Y11, Y10, a      \
	VSHUFPS     $0xdd, Y11, Y10, b

// func raiseAVX2(v []float32, p *Powers, low, divisor, width float32) (done int)
TEXT ·raiseAVX2(SB), NOSPLIT, $0-56
	MOVQ         v_base+0(FP), DI
	MOVQ         v_len+8(FP), BX
	MOVQ         p+24(FP), SI
	LEAQ         Powers_table(SI), SI
	VBROADCASTSS low+32(FP), Y15
	VBROADCASTSS divisor+36(FP), Y14
	VXORPS       Y9, Y9, Y9
	SHLQ         $2, BX
	XORQ         DX, DX

loop:
	// Y0: u = (v-low)/divisor, Y1: its cell, Y2: where u is 0
	VMOVUPS   (DI)(DX*1), Y0
	VSUBPS    Y15, Y0, Y0
	VDIVPS    Y14, Y0, Y0
	VPSRLD    $const_powersShift, Y0, Y1
	VPSUBD    powersFirst<>(SB), Y1, Y1
	VCMPPS    $0, Y9, Y0, Y2
	VPMINUD   powersLast<>(SB), Y1, Y3
	VPCMPEQD  Y1, Y3, Y3
	VPOR      Y2, Y3, Y3
	VMOVMSKPS Y3, AX
	CMPL      AX, $0xff
	JNE       done

	// Y4: a = table[cell], Y5: b = table[cell+1]
	VPANDN Y1, Y2, Y1
	INDICES(X1, Y1, X3)
	PAIRS(SI, Y4, Y5)

	// a + (b-a)·fraction, 0 where u is 0; times width, plus low
	VPAND        powersMask<>(SB), Y0, Y6
	VCVTDQ2PS    Y6, Y6
	VSUBPS       Y4, Y5, Y5
	VMULPS       Y6, Y5, Y5
	VMULPS       powersUnit<>(SB), Y5, Y5
	VADDPS       Y5, Y4, Y4
	VANDNPS      Y4, Y2, Y4
	VBROADCASTSS width+40(FP), Y7
	VMULPS       Y7, Y4, Y4
	VADDPS       Y15, Y4, Y4
	VMOVUPS      Y4, (DI)(DX*1)
	ADDQ         $32, DX
	CMPQ         DX, BX
	JB           loop

done:
	SHRQ $2, DX
	MOVQ DX, done+48(FP)
	VZEROUPPER
	RET

DATA powersFirst<>+0(SB)/4, $const_powersFirst
DATA powersFirst<>+4(SB)/4, $const_powersFirst
DATA powersFirst<>+8(SB)/4, $const_powersFirst
DATA powersFirst<>+12(SB)/4, $const_powersFirst
DATA powersFirst<>+16(SB)/4, $const_powersFirst
DATA powersFirst<>+20(SB)/4, $const_powersFirst
DATA powersFirst<>+24(SB)/4, $const_powersFirst
DATA powersFirst<>+28(SB)/4, $const_powersFirst
GLOBL powersFirst<>(SB), RODATA|NOPTR, $32

DATA powersLast<>+0(SB)/4, $const_powersLast
DATA powersLast<>+4(SB)/4, $const_powersLast
DATA powersLast<>+8(SB)/4, $const_powersLast
DATA powersLast<>+12(SB)/4, $const_powersLast
DATA powersLast<>+16(SB)/4, $const_powersLast
DATA powersLast<>+20(SB)/4, $const_powersLast
DATA powersLast<>+24(SB)/4, $const_powersLast
DATA powersLast<>+28(SB)/4, $const_powersLast
GLOBL powersLast<>(SB), RODATA|NOPTR, $32

DATA powersMask<>+0(SB)/4, $const_powersMask
DATA powersMask<>+4(SB)/4, $const_powersMask
DATA powersMask<>+8(SB)/4, $const_powersMask
DATA powersMask<>+12(SB)/4, $const_powersMask
DATA powersMask<>+16(SB)/4, $const_powersMask
DATA powersMask<>+20(SB)/4, $const_powersMask
DATA powersMask<>+24(SB)/4, $const_powersMask
DATA powersMask<>+28(SB)/4, $const_powersMask
GLOBL powersMask<>(SB), RODATA|NOPTR, $32

// 2^-powersShift as float32
DATA powersUnit<>+0(SB)/4, $0x38000000
DATA powersUnit<>+4(SB)/4, $0x38000000
DATA powersUnit<>+8(SB)/4, $0x38000000
DATA powersUnit<>+12(SB)/4, $0x38000000
DATA powersUnit<>+16(SB)/4, $0x38000000
DATA powersUnit<>+20(SB)/4, $0x38000000
DATA powersUnit<>+24(SB)/4, $0x38000000
DATA powersUnit<>+28(SB)/4, $0x38000000
GLOBL powersUnit<>(SB), RODATA|NOPTR, $32

// LOWER writes the lower corners (int32) of the cells along an axis, whose coordinates even and odd
// hold, to cell.
#define LOWER(even, odd, cell) \
	VSHUFPS $0xdd, odd, even, cell

// FRACTION writes the fractions, as float32: high 16 bits and low 16 bits become numbers by the
// exponents put before them, whose sum is taken away again; the sum of both rounds once.
#define FRACTION(even, odd, part) \
	VSHUFPS  $0x88, odd, even, Y9             \
	VPBLENDW $0xaa, fractionLow<>(SB), Y9, Y10 \
	VPSRLD   $16, Y9, Y9                      \
	VPBLENDW $0xaa, fractionHigh<>(SB), Y9, Y9 \
	VSUBPS   fractionSum<>(SB), Y9, Y9        \
	VADDPS   Y10, Y9, part

// ACROSS interpolates along x in the rows at base, to line.
#define ACROSS(base, line) \
	PAIRS(base, Y12, Y13)    \
	VSUBPS Y12, Y13, Y13     \
	VMULPS Y6, Y13, Y13      \
	VADDPS Y13, Y12, line

// TOWARDS moves a to b by part.
#define TOWARDS(b, part, a) \
	VSUBPS a, b, b    \
	VMULPS part, b, b \
	VADDPS b, a, a

// func trilinearAVX2(out, data []float32, c *cells)
// Y0 to Y5 are the coordinates along z, y, x; Y6, Y7, Y8 the fractions along x, y, z.
TEXT ·trilinearAVX2(SB), NOSPLIT, $8-56
	MOVQ    out_base+0(FP), DI
	MOVQ    out_len+8(FP), AX
	LEAQ    (DI)(AX*4), AX
	MOVQ    AX, end-8(SP)
	MOVQ    c+48(FP), SI
	VMOVDQU (cells_even+0)(SI), Y0
	VMOVDQU (cells_odd+0)(SI), Y1
	VMOVDQU (cells_even+32)(SI), Y2
	VMOVDQU (cells_odd+32)(SI), Y3
	VMOVDQU (cells_even+64)(SI), Y4
	VMOVDQU (cells_odd+64)(SI), Y5

loop:
	// index of the lower corner: (z·height + y)·width + x
	LOWER(Y0, Y1, Y9)
	LOWER(Y2, Y3, Y10)
	LOWER(Y4, Y5, Y11)
	VPBROADCASTD cells_plane(SI), Y12
	VPBROADCASTD cells_width(SI), Y13
	VPMULLD      Y12, Y9, Y9
	VPMULLD      Y13, Y10, Y10
	VPADDD       Y9, Y11, Y11
	VPADDD       Y10, Y11, Y11
	INDICES(X11, Y11, X12)

	FRACTION(Y4, Y5, Y6)
	FRACTION(Y2, Y3, Y7)
	FRACTION(Y0, Y1, Y8)

	// coordinates of the next block
	VPBROADCASTQ (cells_step+0)(SI), Y9
	VPBROADCASTQ (cells_step+8)(SI), Y10
	VPBROADCASTQ (cells_step+16)(SI), Y11
	VPADDQ       Y9, Y0, Y0
	VPADDQ       Y9, Y1, Y1
	VPADDQ       Y10, Y2, Y2
	VPADDQ       Y10, Y3, Y3
	VPADDQ       Y11, Y4, Y4
	VPADDQ       Y11, Y5, Y5

	// along x in the four rows of the cell, along y in both planes, along z
	MOVQ data_base+24(FP), DX
	MOVQ cells_width(SI), BX
	LEAQ (DX)(BX*4), BX
	ACROSS(DX, Y9)
	ACROSS(BX, Y14)
	TOWARDS(Y14, Y7, Y9)
	MOVQ cells_plane(SI), R14
	LEAQ (DX)(R14*4), DX
	LEAQ (BX)(R14*4), BX
	ACROSS(DX, Y14)
	ACROSS(BX, Y15)
	TOWARDS(Y15, Y7, Y14)
	TOWARDS(Y14, Y8, Y9)
	VMOVUPS Y9, (DI)
	ADDQ    $32, DI
	CMPQ    DI, end-8(SP)
	JB      loop
	VZEROUPPER
	RET

// 2^-9, whose last bit is 2^-32, and 2^7, whose last bit is 2^-16: exponents in the upper halves.
DATA fractionLow<>+0(SB)/8, $0x3b0000003b000000
DATA fractionLow<>+8(SB)/8, $0x3b0000003b000000
DATA fractionLow<>+16(SB)/8, $0x3b0000003b000000
DATA fractionLow<>+24(SB)/8, $0x3b0000003b000000
GLOBL fractionLow<>(SB), RODATA|NOPTR, $32
DATA fractionHigh<>+0(SB)/8, $0x4300000043000000
DATA fractionHigh<>+8(SB)/8, $0x4300000043000000
DATA fractionHigh<>+16(SB)/8, $0x4300000043000000
DATA fractionHigh<>+24(SB)/8, $0x4300000043000000
GLOBL fractionHigh<>(SB), RODATA|NOPTR, $32

// 2^7 + 2^-9
DATA fractionSum<>+0(SB)/8, $0x4300008043000080
DATA fractionSum<>+8(SB)/8, $0x4300008043000080
DATA fractionSum<>+16(SB)/8, $0x4300008043000080
DATA fractionSum<>+24(SB)/8, $0x4300008043000080
GLOBL fractionSum<>(SB), RODATA|NOPTR, $32

// func uniformPairs(out, data []int16, l *Line, mixed []int32) (found int)
// R8, R9, R10 are the coordinates along z, y, x; a voxel's two neighbours along x are read as one.
TEXT ·uniformPairs(SB), NOSPLIT, $0-88
	MOVQ  data_base+24(FP), SI
	MOVQ  l+48(FP), DX
	MOVQ  mixed_base+56(FP), DI
	MOVQ  (Line_Origin+0)(DX), R8
	MOVQ  (Line_Origin+8)(DX), R9
	MOVQ  (Line_Origin+16)(DX), R10
	MOVQ  Line_Width(DX), R12
	MOVQ  Line_Plane(DX), R13
	XORQ  R11, R11                  // voxel
	MOVQ  $0, found+80(FP)

loop:
	MOVQ  R8, AX
	MOVQ  R9, BX
	MOVQ  R10, CX
	SARQ  $32, AX
	SARQ  $32, BX
	SARQ  $32, CX
	IMULQ R13, AX
	IMULQ R12, BX
	ADDQ  CX, AX
	ADDQ  BX, AX
	LEAQ  (SI)(AX*2), AX
	ADDQ  (Line_Step+0)(DX), R8
	ADDQ  (Line_Step+8)(DX), R9
	ADDQ  (Line_Step+16)(DX), R10

	MOVL (AX), BX
	MOVL BX, CX
	ROLL $16, CX
	CMPL BX, CX
	JNE  differ
	CMPL BX, (AX)(R12*2)
	JNE  differ
	LEAQ (AX)(R13*2), AX
	CMPL BX, (AX)
	JNE  differ
	CMPL BX, (AX)(R12*2)
	JNE  differ
	MOVQ out_base+0(FP), CX
	MOVW BX, (CX)(R11*2)

next:
	INCQ R11
	CMPQ R11, out_len+8(FP)
	JB   loop
	RET

differ:
	MOVQ found+80(FP), CX
	MOVL R11, (DI)(CX*4)
	INCQ CX
	MOVQ CX, found+80(FP)
	JMP  next

// MULTIPLY multiplies 4 numbers of 64 bits by another, of which high holds the upper half.
#define MULTIPLY(by, high, x) \
	VPSRLQ   $32, x, Y9        \
	VPMULUDQ by<>(SB), Y9, Y9  \
	VPMULUDQ high<>(SB), x, Y10 \
	VPMULUDQ by<>(SB), x, x    \
	VPADDQ   Y10, Y9, Y9       \
	VPSLLQ   $32, Y9, Y9       \
	VPADDQ   Y9, x, x

// MIX is Mix.
#define MIX(x) \
	VPSRLQ $30, x, Y9          \
	VPXOR  Y9, x, x            \
	MULTIPLY(mixFirst, mixFirstHigh, x) \
	VPSRLQ $27, x, Y9          \
	VPXOR  Y9, x, x            \
	MULTIPLY(mixSecond, mixSecondHigh, x) \
	VPSRLQ $31, x, Y9          \
	VPXOR  Y9, x, x

// func fillAVX2(dst []float32, l *Layers, counters *[8]uint64, open []int32) (found int)
TEXT ·fillAVX2(SB), NOSPLIT, $0-72
	MOVQ    dst_base+0(FP), DI
	MOVQ    dst_len+8(FP), BX
	MOVQ    l+24(FP), SI
	MOVQ    counters+32(FP), DX
	VMOVDQU (DX), Y0
	VMOVDQU 32(DX), Y1
	MOVQ    open_base+40(FP), DX
	XORQ    R14, R14 // voxel

loop:
	// the lower and the upper halves of the hashes
	VMOVDQA Y0, Y2
	VMOVDQA Y1, Y3
	VPADDQ  counterBlock<>(SB), Y0, Y0
	VPADDQ  counterBlock<>(SB), Y1, Y1
	MIX(Y2)
	MIX(Y3)
	VSHUFPS $0x88, Y3, Y2, Y4
	VSHUFPS $0xdd, Y3, Y2, Y5

	// Y6: bound, Y7: width of the layer
	VPAND  layerMask<>(SB), Y4, Y8
	VPADDD Y8, Y8, Y8
	INDICES(X8, Y8, X9)
	PAIRS(SI, Y6, Y7)

	// number·width, with the sign
	VPSRLD    $8, Y5, Y5
	VCVTDQ2PS Y5, Y8
	VMULPS    Y7, Y8, Y8
	VPSRLD    $8, Y4, Y4
	VPSLLD    $31, Y4, Y4
	VPOR      Y4, Y8, Y8
	VMOVUPS   Y8, (DI)(R14*4)

	// the others: not number < bound
	VPCMPGTD  Y5, Y6, Y6
	VMOVMSKPS Y6, AX
	XORL      $0xff, AX
	JNE       others

next:
	ADDQ $8, R14
	CMPQ R14, BX
	JB   loop
	SUBQ open_base+40(FP), DX
	SHRQ $2, DX
	MOVQ DX, found+64(FP)
	VZEROUPPER
	RET

others:
	BSFL AX, CX
	ADDL R14, CX
	MOVL CX, (DX)
	ADDQ $4, DX
	LEAL -1(AX), CX
	ANDL CX, AX // without the lowest bit
	JNE  others
	JMP  next

DATA mixFirst<>+0(SB)/8, $0xbf58476d1ce4e5b9
DATA mixFirst<>+8(SB)/8, $0xbf58476d1ce4e5b9
DATA mixFirst<>+16(SB)/8, $0xbf58476d1ce4e5b9
DATA mixFirst<>+24(SB)/8, $0xbf58476d1ce4e5b9
GLOBL mixFirst<>(SB), RODATA|NOPTR, $32

DATA mixFirstHigh<>+0(SB)/8, $0xbf58476d
DATA mixFirstHigh<>+8(SB)/8, $0xbf58476d
DATA mixFirstHigh<>+16(SB)/8, $0xbf58476d
DATA mixFirstHigh<>+24(SB)/8, $0xbf58476d
GLOBL mixFirstHigh<>(SB), RODATA|NOPTR, $32

DATA mixSecond<>+0(SB)/8, $0x94d049bb133111eb
DATA mixSecond<>+8(SB)/8, $0x94d049bb133111eb
DATA mixSecond<>+16(SB)/8, $0x94d049bb133111eb
DATA mixSecond<>+24(SB)/8, $0x94d049bb133111eb
GLOBL mixSecond<>(SB), RODATA|NOPTR, $32

DATA mixSecondHigh<>+0(SB)/8, $0x94d049bb
DATA mixSecondHigh<>+8(SB)/8, $0x94d049bb
DATA mixSecondHigh<>+16(SB)/8, $0x94d049bb
DATA mixSecondHigh<>+24(SB)/8, $0x94d049bb
GLOBL mixSecondHigh<>(SB), RODATA|NOPTR, $32

// 8·CounterStep
DATA counterBlock<>+0(SB)/8, $0xf1bbcdcbfa53e0a8
DATA counterBlock<>+8(SB)/8, $0xf1bbcdcbfa53e0a8
DATA counterBlock<>+16(SB)/8, $0xf1bbcdcbfa53e0a8
DATA counterBlock<>+24(SB)/8, $0xf1bbcdcbfa53e0a8
GLOBL counterBlock<>(SB), RODATA|NOPTR, $32

DATA layerMask<>+0(SB)/8, $0xff000000ff
DATA layerMask<>+8(SB)/8, $0xff000000ff
DATA layerMask<>+16(SB)/8, $0xff000000ff
DATA layerMask<>+24(SB)/8, $0xff000000ff
GLOBL layerMask<>(SB), RODATA|NOPTR, $32
