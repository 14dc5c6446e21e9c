// Package inflate decompresses DEFLATE streams (RFC 1951) that lie in memory whole and whose size is known beforehand, like
// the entries of a zip. It needs no window, loads eight bytes at once and writes each where it belongs, so it is faster
// than a reader can be.
package inflate

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math/bits"
	"slices"
)

// ErrCorrupt is all there is to say about data that cannot be decoded.
var ErrCorrupt = errors.New("corrupt DEFLATE stream")

// A Decoder is some 10 KiB of tables. The zero Decoder is ready for use, again and again, by one goroutine at a time.
type Decoder struct {
	in   []byte // the stream, and at last its end with zeros behind it
	pos  int    // in it, of the next byte to load
	end  int    // of the stream in it
	buf  uint64 // bits that were loaded, the next one lowest
	n    uint   // how many of them count; those above may be loaded again
	tail [48]byte

	symbols, distances code
	lengths            [maxSymbols + maxDistances]uint8
}

// Decode decodes the stream that src begins with into dst, which it must fill exactly. It accepts what compress/flate does,
// and like that ignores what follows the stream. After an error, anything may be in dst.
func (d *Decoder) Decode(dst, src []byte) error {
	d.in, d.pos, d.end, d.buf, d.n = src, 0, len(src), 0, 0
	out, ok := 0, true
	for last := false; ok && !last; {
		if !d.load() {
			return ErrCorrupt
		}
		last = d.take(1) == 1
		switch kind := d.take(2); {
		case kind == 0:
			out, ok = d.stored(dst, out)
		case kind == 1 && d.fixed(), kind == 2 && d.dynamic():
			out, ok = d.block(dst, out)
		default:
			ok = false
		}
	}
	if !ok || out != len(dst) || d.pos-int(d.n/8) > d.end {
		return ErrCorrupt
	}
	return nil
}

// room is how many bytes there must be behind pos for two words to be loaded.
const room = 16

// load provides for at least 56 bits. Behind the end of the stream they are zeros.
func (d *Decoder) load() bool {
	if d.pos > len(d.in)-room && !d.pad() {
		return false
	}
	d.buf |= binary.LittleEndian.Uint64(d.in[d.pos:]) << (d.n & 63)
	d.pos += int(63-d.n) / 8
	d.n |= 56
	return true
}

// pad goes on with a copy of the stream's last bytes that has zeros behind it. It returns false if those are used up too:
// then the stream was cut short.
func (d *Decoder) pad() bool {
	if len(d.in) > 0 && &d.in[0] == &d.tail[0] {
		return false
	}
	back := min(d.pos, 8) // bytes that may be in buf, and not used yet
	d.end = copy(d.tail[:], d.in[d.pos-back:])
	clear(d.tail[d.end:])
	d.in, d.pos = d.tail[:], back
	return true
}

func (d *Decoder) take(n uint) uint {
	v := uint(d.buf) & (1<<n - 1)
	d.buf >>= n
	d.n -= n
	return v
}

func (d *Decoder) stored(dst []byte, out int) (int, bool) {
	d.pos -= int(d.n / 8)
	d.buf, d.n = 0, 0
	if d.end-d.pos < 4 {
		return out, false
	}
	n := binary.LittleEndian.Uint16(d.in[d.pos:])
	if n != ^binary.LittleEndian.Uint16(d.in[d.pos+2:]) {
		return out, false
	}
	d.pos += 4
	if int(n) > min(d.end-d.pos, len(dst)-out) {
		return out, false
	}
	copy(dst[out:], d.in[d.pos:d.pos+int(n)])
	d.pos += int(n)
	return out + int(n), true
}

// fixed takes the codes that every Decoder knows.
func (d *Decoder) fixed() bool {
	return d.symbols.set(fixedLengths[:fixedSymbols], symbols[:]) && d.distances.set(fixedLengths[fixedSymbols:], distances[:])
}

// dynamic reads the codes of a block.
func (d *Decoder) dynamic() bool {
	nSymbols, nDistances, n := d.take(5)+257, d.take(5)+1, d.take(4)+4
	if nSymbols > maxSymbols || nDistances > maxDistances {
		return false
	}
	var widths [19]uint8
	for _, i := range []uint8{16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15}[:n] {
		if !d.load() {
			return false
		}
		widths[i] = uint8(d.take(3))
	}
	if !d.distances.set(widths[:], lengths[:]) {
		return false
	}
	all := d.lengths[:nSymbols+nDistances]
	for i := 0; i < len(all); {
		if !d.load() {
			return false
		}
		e := d.distances.fast[d.buf&mask] // no length has a code of more than 7 bits
		if e&special != 0 {
			return false
		}
		d.take(uint(e & drop))
		var value uint8
		var repeat int
		switch e >> 16 {
		case 16:
			if i == 0 {
				return false
			}
			value, repeat = all[i-1], 3+int(d.take(2))
		case 17:
			repeat = 3 + int(d.take(3))
		case 18:
			repeat = 11 + int(d.take(7))
		default:
			value, repeat = uint8(e>>16), 1
		}
		if repeat > len(all)-i {
			return false
		}
		for range repeat {
			all[i] = value
			i++
		}
	}
	return d.symbols.set(all[:nSymbols], symbols[:]) && d.distances.set(all[nSymbols:], distances[:])
}

// block decodes a block's data, and returns how much of dst is then decoded.
func (d *Decoder) block(dst []byte, out int) (int, bool) {
	in, pos, buf, n := d.in, d.pos, d.buf, d.n
next:
	for {
		if pos > len(in)-room {
			if d.pos = pos; !d.pad() {
				return out, false
			}
			in, pos = d.in, d.pos
		}
		buf |= binary.LittleEndian.Uint64(in[pos:]) << (n & 63)
		pos += int(63-n) / 8
		n |= 56

		e := d.symbols.fast[buf&mask]
		for {
			for e&literal != 0 {
				if uint(out) >= uint(len(dst)) {
					return out, false
				}
				dst[out] = byte(e >> 16)
				out++
				buf >>= e & drop
				n -= uint(e & drop)
				if n < maxSymbolBits {
					continue next
				}
				e = d.symbols.fast[buf&mask]
			}
			if e != special {
				break
			}
			if e = d.symbols.long(buf); e == special {
				return out, false
			}
		}
		if e&special != 0 {
			d.pos, d.buf, d.n = pos, buf>>(e&drop), n-uint(e&drop)
			return out, e>>16 == endOfBlock
		}
		length := int(e.value(buf))
		buf >>= e & drop
		n -= uint(e & drop)

		buf |= binary.LittleEndian.Uint64(in[pos:]) << (n & 63)
		pos += int(63-n) / 8
		n |= 56
		e = d.distances.fast[buf&mask]
		if e == special {
			e = d.distances.long(buf)
		}
		if e&special != 0 {
			return out, false
		}
		distance := int(e.value(buf))
		buf >>= e & drop
		n -= uint(e & drop)

		if distance > out || length > len(dst)-out {
			return out, false
		}
		from, to := out-distance, out+length
		if distance >= 16 && to <= len(dst)-16 {
			// Copying 16 bytes at a time costs less than a call; what is beyond the end will be overwritten.
			for ; out < to; out, from = out+16, from+16 {
				*(*[16]byte)(dst[out:]) = *(*[16]byte)(dst[from:])
			}
			out = to
		}
		for out < to {
			out += copy(dst[out:to], dst[from:out]) // twice as much each time if they overlap
		}
	}
}

// A code decodes the symbols of one Huffman code.
type code struct {
	fast  [1 << width]entry    // by the next bits
	all   []entry              // by symbol
	order [fixedSymbols]uint16 // the symbols by the length of their code

	// Codes of each length: the first number that is none, and what to add for the place in order.
	limit [maxBits + 1]int
	place [maxBits + 1]int
}

const (
	maxBits = 15 // of a code
	width   = 10 // bits of a code that is found at once
	mask    = 1<<width - 1
)

// set lets c be the code whose symbols have codes of these lengths, 0 for those that do not occur. There must be no sequence
// of bits that is not a code, unless there is but one, of one bit, or none at all.
func (c *code) set(lengths []uint8, all []entry) bool {
	var count [maxBits + 1]int
	for _, n := range lengths {
		count[n]++
	}
	count[0] = 0
	number, sum := 0, 0
	var start [maxBits + 1]int // in order
	for n := 1; n <= maxBits; n++ {
		number <<= 1
		start[n] = sum
		c.place[n] = sum - number
		number += count[n]
		sum += count[n]
		c.limit[n] = number
	}
	if number != 1<<maxBits && sum != 0 && (sum != 1 || count[1] != 1) {
		return false
	}
	c.all = all
	for symbol, n := range lengths {
		if n != 0 {
			c.order[start[n]] = uint16(symbol)
			start[n]++
		}
	}
	// Codes come with their first bit lowest. So the table for codes of up to n bits is that for n-1 bits, twice, and where
	// that has none there are the next ones.
	c.fast[0] = special
	reversed, i := 0, 0
	for n := 1; n <= width; n++ {
		half := 1 << (n - 1)
		copy(c.fast[half:2*half], c.fast[:half])
		for range count[n] {
			symbol := c.order[i]
			c.fast[reversed] = all[symbol] + entry(n)*(1|1<<8)
			i++
			// Add one to the number that reversed is the reverse of.
			top := 1 << bits.Len(uint(reversed^(2*half-1))) >> 1
			reversed = reversed&(top-1) | top
		}
	}
	return true
}

// long finds the symbol of a code of more than width bits.
func (c *code) long(buf uint64) entry {
	number := int(bits.Reverse16(uint16(buf)))
	for n := width + 1; n <= maxBits; n++ {
		if k := number >> (16 - n); k < c.limit[n] {
			return c.all[c.order[k+c.place[n]]] + entry(n)*(1|1<<8)
		}
	}
	return special
}

// An entry says what a symbol stands for, and of how many bits. Bits 16 and above are a value, to which the number in the
// extra bits is added, bits 12 to 15 how many of these there are, 8 to 11 the length of the code before them, and 0 to 5
// the length of both.
type entry uint32

const (
	drop    entry = 1<<6 - 1
	literal entry = 1 << 6
	special entry = 1 << 7 // the end of the block or, if there is no value, none of the symbols
)

func (e entry) value(buf uint64) uint64 {
	return uint64(e>>16) + buf>>(e>>8&15)&(1<<(e>>12&15)-1)
}

// The alphabets of RFC 1951, section 3.2.
const (
	maxSymbols     = 286
	maxDistances   = 30
	fixedSymbols   = 288
	fixedDistances = 32
	endOfBlock     = 256
	maxSymbolBits  = maxBits + 5 // with those that follow a length
)

var fixedLengths = slices.Concat(bytes.Repeat([]byte{8}, 144), bytes.Repeat([]byte{9}, 112), bytes.Repeat([]byte{7}, 24),
	bytes.Repeat([]byte{8}, 8), bytes.Repeat([]byte{5}, fixedDistances))

var symbols = func() (all [fixedSymbols]entry) {
	for i := range entry(endOfBlock) {
		all[i] = i<<16 | literal
	}
	all[endOfBlock] = endOfBlock<<16 | special
	value := entry(3)
	for i := 257; i < 285; i++ {
		extra := entry(max(0, (i-261)/4))
		all[i] = value<<16 | extra<<12 | extra
		value += 1 << extra
	}
	all[285] = 258 << 16
	all[286], all[287] = special, special
	return all
}()

var distances = func() (all [fixedDistances]entry) {
	value := entry(1)
	for i := range maxDistances {
		extra := entry(max(0, i/2-1))
		all[i] = value<<16 | extra<<12 | extra
		value += 1 << extra
	}
	all[30], all[31] = special, special
	return all
}()

// lengths are the lengths of codes, and ways to repeat them.
var lengths = func() (all [19]entry) {
	for i := range all {
		all[i] = entry(i) << 16
	}
	return all
}()
