package inflate_test

import (
	"bytes"
	stdlib "compress/flate"
	"encoding/hex"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/klauspost/compress/flate"
	"github.com/modfetch/modfetch/internal/inflate"
)

// maxSize bounds what the tests decode.
const maxSize = 1 << 20

// reference returns what compress/flate makes of a stream, up to maxSize bytes, and whether it is all there is.
func reference(src []byte) (data []byte, ok bool) {
	r := readers.Get().(io.Reader)
	defer readers.Put(r)
	r.(stdlib.Resetter).Reset(bytes.NewReader(src), nil)
	data, err := io.ReadAll(io.LimitReader(r, maxSize+1))
	return data[:min(len(data), maxSize)], err == nil && len(data) <= maxSize
}

var readers = sync.Pool{New: func() any { return stdlib.NewReader(bytes.NewReader(nil)) }}

// agree holds a Decoder against compress/flate, for the right size and for wrong ones.
func agree(t *testing.T, d *inflate.Decoder, src []byte, sizes ...int) {
	t.Helper()
	want, ok := reference(src)
	src = src[:len(src):len(src)]
	for _, size := range append(sizes, len(want), len(want)-1, len(want)+1, len(want)+300) {
		if size < 0 {
			continue
		}
		all := bytes.Repeat([]byte{0xa5}, size+32)
		got := all[:size]
		err := d.Decode(got, src)
		switch {
		case (err == nil) != (ok && size == len(want)):
			t.Errorf("Decode of %x to %d bytes: error %v; compress/flate has %d bytes, %t", src, size, err, len(want), ok)
		case err == nil && !bytes.Equal(got, want):
			t.Errorf("Decode of %x: the %d bytes are not those of compress/flate", src, size)
		}
		if !bytes.Equal(all[size:], bytes.Repeat([]byte{0xa5}, 32)) {
			t.Errorf("Decode of %x to %d bytes wrote beyond them", src, size)
		}
	}
}

// texts are of all kinds: a Decoder has paths for literals, for near and far matches, and for the ends of both slices.
func texts() map[string][]byte {
	noise := make([]byte, 70_000)
	source := rand.NewChaCha8([32]byte{5})
	source.Read(noise)
	r := rand.New(source)
	var words, skewed, matches []byte
	for len(words) < 60_000 {
		words = append(words, []string{"func ", "return ", "err", " != ", "nil ", "{\n", "}\n", "\t", "string", "x", "α"}[r.IntN(11)]...)
	}
	for range 60_000 { // a code with lengths up to 15
		skewed = append(skewed, byte(min(r.ExpFloat64()*20, 255)))
	}
	matches = append(matches, noise[:40]...)
	for len(matches) < 60_000 { // at all distances, with all lengths
		from := len(matches) - 1 - min(int(r.ExpFloat64()*float64(1+r.IntN(5000))), len(matches)-1)
		for range 3 + r.IntN(300) {
			matches = append(matches, matches[from])
			from++
		}
		matches = append(matches, noise[r.IntN(len(noise))])
	}
	return map[string][]byte{
		"nothing": nil, "a byte": {'x'}, "a line": []byte("package inflate\n"), "zeros": make([]byte, 70_000),
		"noise": noise, "words": words, "skewed": skewed, "matches": matches,
	}
}

// compress returns the streams that compress/flate and klauspost/compress make of data.
func compress(t testing.TB, data []byte) map[string][]byte {
	t.Helper()
	all := make(map[string][]byte)
	add := func(name string, level int, newWriter func(io.Writer, int) (io.WriteCloser, error)) {
		var buf bytes.Buffer
		w, err := newWriter(&buf, level)
		if err != nil {
			t.Fatal(err)
		}
		w.Write(data)
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		all[fmt.Sprintf("%s level %d", name, level)] = buf.Bytes()
	}
	for level := stdlib.HuffmanOnly; level <= stdlib.BestCompression; level++ {
		add("compress/flate", level, func(w io.Writer, level int) (io.WriteCloser, error) { return stdlib.NewWriter(w, level) })
	}
	for level := flate.HuffmanOnly; level <= flate.BestCompression; level++ {
		add("klauspost/compress", level, func(w io.Writer, level int) (io.WriteCloser, error) { return flate.NewWriter(w, level) })
	}
	add("klauspost/compress without state, at", 0, func(w io.Writer, _ int) (io.WriteCloser, error) { return flate.NewStatelessWriter(w), nil })
	// Blocks of all kinds, with empty ones between them.
	var buf bytes.Buffer
	w, _ := stdlib.NewWriter(&buf, stdlib.DefaultCompression)
	for rest := data; len(rest) > 0; {
		n := min(len(rest), 1+len(rest)/3)
		w.Write(rest[:n])
		w.Flush()
		rest = rest[n:]
	}
	w.Close()
	all["flushed"] = buf.Bytes()
	return all
}

func TestDecode(t *testing.T) {
	var d inflate.Decoder
	for what, data := range texts() {
		for how, src := range compress(t, data) {
			t.Run(what+" "+how, func(t *testing.T) {
				got := make([]byte, len(data))
				if err := d.Decode(got, src); err != nil || !bytes.Equal(got, data) {
					t.Errorf("error %v, same bytes: %t", err, bytes.Equal(got, data))
				}
				agree(t, &d, src, 0, len(data)/2, 2*len(data))
				agree(t, &d, append(bytes.Clone(src), "and what follows it"...))
			})
		}
	}
}

// small are streams short enough for every change of one bit.
func small(t testing.TB) (all [][]byte) {
	for _, text := range []string{"", "x", "package m\n", "ab" + strings.Repeat("func (d *Decoder) ", 8) + strings.Repeat("\t", 300) + "end", string(texts()["words"][:700])} {
		for _, src := range compress(t, []byte(text)) {
			if !slices.ContainsFunc(all, func(other []byte) bool { return bytes.Equal(other, src) }) {
				all = append(all, src)
			}
		}
	}
	return all
}

func TestCutShort(t *testing.T) {
	var d inflate.Decoder
	for _, src := range small(t) {
		for n := range src {
			agree(t, &d, src[:n])
		}
	}
}

func TestBitsFlipped(t *testing.T) {
	var d inflate.Decoder
	for _, src := range small(t) {
		for i := 0; i < 8*len(src); i += 1 + len(src)/100 {
			src[i/8] ^= 1 << (i % 8)
			agree(t, &d, src)
			src[i/8] ^= 1 << (i % 8)
		}
	}
}

// A bitWriter writes as RFC 1951 packs: numbers from the lowest bit, codes from the highest.
type bitWriter struct {
	buf []byte
	n   int
}

func (w *bitWriter) number(v, n int) {
	for i := range n {
		if w.n%8 == 0 {
			w.buf = append(w.buf, 0)
		}
		w.buf[w.n/8] |= byte(v>>i&1) << (w.n % 8)
		w.n++
	}
}

func (w *bitWriter) code(v, n int) {
	for i := range n {
		w.number(v>>(n-1-i), 1)
	}
}

// dynamic begins a last block with these codes, each of whose lengths is written by itself.
func (w *bitWriter) dynamic(symbols, distances []int) {
	w.number(1, 1)
	w.number(2, 2)
	w.number(len(symbols)-257, 5)
	w.number(len(distances)-1, 5)
	w.number(19-4, 4)
	for i := range 19 {
		if i < 3 { // 16 to 18
			w.number(0, 3)
		} else {
			w.number(4, 3)
		}
	}
	for _, n := range symbols {
		w.code(n, 4)
	}
	for _, n := range distances {
		w.code(n, 4)
	}
}

// symbol writes a symbol's canonical code.
func (w *bitWriter) symbol(lengths []int, symbol int) {
	code := 0
	for n := 1; n < lengths[symbol]; n++ {
		for _, m := range lengths {
			if m == n {
				code++
			}
		}
		code <<= 1
	}
	for _, m := range lengths[:symbol] {
		if m == lengths[symbol] {
			code++
		}
	}
	w.code(code, lengths[symbol])
}

// lengthsOf returns n lengths, of which some are given.
func lengthsOf(n int, given map[int]int) []int {
	all := make([]int, n)
	for symbol, length := range given {
		all[symbol] = length
	}
	return all
}

func TestCodes(t *testing.T) {
	long := map[int]int{256: 15, 'z': 15} // with one of each length from 1 to 14
	for n := 1; n < 15; n++ {
		long['a'+n] = n
	}
	var d inflate.Decoder
	for _, test := range []struct {
		name               string
		symbols, distances []int
		write              []int // symbols, and below 0 distances: -1 is 0
		extra              bool  // writes a bit 1 at the end
		want               string
		ok                 bool
	}{
		{name: "complete", symbols: lengthsOf(257, map[int]int{'a': 1, 256: 1}), distances: []int{1, 1}, write: []int{'a', 'a', 256}, want: "aa", ok: true},
		{name: "long codes", symbols: lengthsOf(257, long), distances: []int{0}, write: []int{'b', 'o', 'z', 'k', 'z', 'l', 'm', 256}, want: "bozkzlm", ok: true},
		{name: "no distances", symbols: lengthsOf(257, map[int]int{'a': 1, 256: 1}), distances: []int{0}, write: []int{'a', 256}, want: "a", ok: true},
		{name: "no distances where one is needed", symbols: lengthsOf(258, map[int]int{'a': 1, 256: 2, 257: 2}), distances: []int{0}, write: []int{'a', 257, 256}},
		{name: "one distance", symbols: lengthsOf(258, map[int]int{'a': 1, 256: 2, 257: 2}), distances: []int{1}, write: []int{'a', 257, -1, 256}, want: "aaaa", ok: true},
		{name: "the other than the one distance", symbols: lengthsOf(258, map[int]int{'a': 1, 256: 2, 257: 2}), distances: []int{1}, write: []int{'a', 257}, extra: true},
		{name: "one distance of two bits", symbols: lengthsOf(257, map[int]int{'a': 1, 256: 1}), distances: []int{2}, write: []int{'a', 256}},
		{name: "two distances of two bits", symbols: lengthsOf(257, map[int]int{'a': 1, 256: 1}), distances: []int{2, 2}, write: []int{'a', 256}},
		{name: "three distances of one bit", symbols: lengthsOf(257, map[int]int{'a': 1, 256: 1}), distances: []int{1, 1, 1}, write: []int{'a', 256}},
		{name: "nothing but an end", symbols: lengthsOf(257, map[int]int{256: 1}), distances: []int{0}, write: []int{256}, ok: true},
		{name: "an end of two bits", symbols: lengthsOf(257, map[int]int{256: 2}), distances: []int{0}, write: []int{256}},
		{name: "no end", symbols: lengthsOf(257, map[int]int{'a': 1}), distances: []int{0}, write: []int{'a', 'a', 'a'}},
		{name: "no symbols", symbols: lengthsOf(257, nil), distances: []int{0}},
		{name: "too many symbols", symbols: lengthsOf(257, map[int]int{'a': 1, 'b': 1, 256: 1}), distances: []int{0}, write: []int{'a', 256}},
		{name: "287 of them", symbols: lengthsOf(287, map[int]int{'a': 1, 256: 1}), distances: []int{0}, write: []int{'a', 256}},
		{name: "31 distances", symbols: lengthsOf(257, map[int]int{'a': 1, 256: 1}), distances: make([]int, 31), write: []int{'a', 256}},
		{name: "a distance that is too far", symbols: lengthsOf(258, map[int]int{'a': 1, 256: 2, 257: 2}), distances: []int{0, 1}, write: []int{'a', 257, -2, 256}},
	} {
		t.Run(test.name, func(t *testing.T) {
			var w bitWriter
			w.dynamic(test.symbols, test.distances)
			for _, s := range test.write {
				if s < 0 {
					w.symbol(test.distances, -1-s)
				} else {
					w.symbol(test.symbols, s)
				}
			}
			if test.extra {
				w.number(1, 1)
			}
			if want, ok := reference(w.buf); ok != test.ok || ok && string(want) != test.want {
				t.Fatalf("compress/flate has %q, %t", want, ok)
			}
			agree(t, &d, w.buf)
			agree(t, &d, append(w.buf, make([]byte, 64)...))
		})
	}
}

// TestHeaders has what no writer makes, and what the fixed codes have no meaning for.
func TestHeaders(t *testing.T) {
	// lengths begins a block whose code lengths have codes of these lengths, in the order of RFC 1951: 16, 17, 18, 0, 8 ...
	lengths := func(codes ...int) *bitWriter {
		w := new(bitWriter)
		w.number(1|2<<1|0<<3|0<<8|15<<13, 17) // of 257 symbols and 1 distance
		for i := range 19 {
			w.number(append(codes, make([]int, 19)...)[i], 3)
		}
		return w
	}
	fixed := func(write ...int) *bitWriter { // codes and their lengths
		w := new(bitWriter)
		w.number(1|1<<1, 3)
		for i := 0; i < len(write); i += 2 {
			w.code(write[i], write[i+1])
		}
		return w
	}
	for _, test := range []struct {
		name string
		w    *bitWriter
		then string // bits
	}{
		{"no code of a length", lengths(), ""},
		{"one code of a length", lengths(0, 0, 0, 1), ""},
		{"one code of a length, and another", lengths(0, 0, 0, 1), "1"},
		{"one code of a length of two bits", lengths(0, 0, 0, 2), ""},
		// The codes of 18, 1 and 16 are 0, 10 and 11. First are 256 zeros, then a 1 for the end and a 1 for a distance.
		{"good", lengths(2, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2), "0 1111111 0 1101011 10 10 0"},
		{"a repetition at the beginning", lengths(2, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2), "11 00 0 1111111 0 0001011 10 10 0"},
		{"a repetition beyond the end", lengths(2, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2), "0 1111111 0 1101011 10 0 0000000 0"},
		{"symbol 286", fixed(0b00110000, 8, 0b11000110, 8, 0, 5, 0, 7), ""},
		{"symbol 287", fixed(0b00110000, 8, 0b11000111, 8, 0, 5, 0, 7), ""},
		{"distance 29", fixed(0b00110000, 8, 1, 7, 29, 5, 0, 13, 0, 7), ""},
		{"distance 30", fixed(0b00110000, 8, 1, 7, 30, 5, 0, 7), ""},
		{"distance 31", fixed(0b00110000, 8, 1, 7, 31, 5, 0, 7), ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			for _, bit := range strings.ReplaceAll(test.then, " ", "") {
				test.w.number(int(bit-'0'), 1)
			}
			var d inflate.Decoder
			if _, ok := reference(test.w.buf); ok != (test.name == "good") {
				t.Fatalf("compress/flate takes it: %t", ok)
			}
			agree(t, &d, test.w.buf)
			agree(t, &d, append(test.w.buf, make([]byte, 64)...))
		})
	}
}

// TestWords has the longest codes and most extra bits at each place in the words that a Decoder loads.
func TestWords(t *testing.T) {
	symbols := map[int]int{'a': 1, 284: 15, 256: 15}
	for n := 2; n < 15; n++ {
		symbols['a'+n] = n
	}
	all := lengthsOf(285, symbols)
	distances := lengthsOf(30, map[int]int{0: 1, 28: 15, 29: 15})
	for n := 2; n < 15; n++ {
		distances[n-1] = n
	}
	var d inflate.Decoder
	for n := range 130 {
		var w bitWriter
		w.dynamic(all, distances)
		w.symbol(all, 'a')
		for range 200 { // so that all distances are near enough
			w.symbol(all, 284)
			w.number(0, 5)
			w.symbol(distances, 0)
		}
		for range n {
			w.symbol(all, 'a')
		}
		for range 3 {
			w.symbol(all, 'm')
			w.symbol(all, 284)
			w.number(31, 5)
			w.symbol(distances, 28)
			w.number(0x0aaa, 13)
		}
		w.symbol(all, 256)
		if _, ok := reference(w.buf); !ok {
			t.Fatal("compress/flate does not take it")
		}
		agree(t, &d, w.buf)
	}
}

// randomLengths returns the lengths of a code whose every sequence of bits means something: a tree whose leaves were split.
func randomLengths(r *rand.Rand, n, used int) []int {
	leaves := []int{0}
	for len(leaves) < used {
		i := r.IntN(len(leaves))
		if r.IntN(2) == 0 {
			i = len(leaves) - 1 // makes it deep
		}
		if leaves[i] < 15 {
			leaves[i]++
			leaves = append(leaves, leaves[i])
		}
	}
	all := append(leaves, make([]int, n-len(leaves))...)
	r.Shuffle(n, func(i, j int) { all[i], all[j] = all[j], all[i] })
	return all
}

// randomStream returns some blocks that begin well.
func randomStream(r *rand.Rand) []byte {
	var w bitWriter
	symbols := randomLengths(r, 257+r.IntN(30), 2+r.IntN(250))
	distances := randomLengths(r, 1+r.IntN(30), 1)
	if n := len(distances); n > 1 {
		distances = randomLengths(r, n, 2+r.IntN(n-1))
	}
	switch r.IntN(8) {
	case 0:
		symbols[r.IntN(len(symbols))] = r.IntN(16)
	case 1:
		distances[r.IntN(len(distances))] = r.IntN(16)
	}
	w.dynamic(symbols, distances)
	for range r.IntN(200) {
		symbol := r.IntN(len(symbols))
		if w.symbol(symbols, symbol); symbol < 257 || symbols[symbol] == 0 {
			continue
		}
		if symbol >= 265 && symbol < 285 {
			w.number(r.IntN(32), (symbol-261)/4)
		}
		distance := min(r.IntN(len(distances)), r.IntN(len(distances)))
		if w.symbol(distances, distance); distance >= 4 {
			w.number(r.IntN(1<<13), distance/2-1)
		}
	}
	if symbols[256] > 0 && r.IntN(4) > 0 {
		w.symbol(symbols, 256)
	} else {
		for range r.IntN(50) {
			w.number(r.IntN(256), 8)
		}
	}
	return w.buf
}

func TestRandomStreams(t *testing.T) {
	var d inflate.Decoder
	good := 0
	for seed := range uint64(2000) {
		src := randomStream(rand.New(rand.NewPCG(seed, 2)))
		agree(t, &d, src)
		if _, ok := reference(src); ok {
			good++
		}
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
	if good < 200 || good > 1800 {
		t.Errorf("%d of 2000 streams are good; some should be, and some not", good)
	}
}

func TestNoAllocations(t *testing.T) {
	data := texts()["words"]
	var d inflate.Decoder
	for how, src := range compress(t, data) {
		dst := make([]byte, len(data))
		if n := testing.AllocsPerRun(3, func() { d.Decode(dst, src) }); n != 0 {
			t.Errorf("%s: %v allocations", how, n)
		}
	}
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte(nil), 0)
	for _, src := range small(f) {
		f.Add(src, 1)
		for n := 0; n < len(src); n += 1 + len(src)/16 {
			f.Add(src[:n], n)
		}
	}
	for _, data := range texts() {
		for _, src := range compress(f, data[:min(len(data), 3000)]) {
			f.Add(src, len(data))
		}
	}
	for seed := range uint64(300) {
		f.Add(randomStream(rand.New(rand.NewPCG(seed, 3))), 100)
	}
	for _, stream := range []string{
		"0300", "010000ffff", "000000ffff0300", "010500faff68656c6c6f", "4b4c4a06", "4b4c02a1", "07", "05e0", "05c0810800000000009056ff13600000",
	} {
		src, err := hex.DecodeString(stream)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(src, 5)
	}
	d := new(inflate.Decoder)
	f.Fuzz(func(t *testing.T, src []byte, size int) { agree(t, d, src, size%maxSize) })
}

// FuzzRandomStreams has the fuzzer choose what randomStream does.
func FuzzRandomStreams(f *testing.F) {
	for seed := range uint64(100) {
		f.Add(seed, seed*seed, 0, byte(0))
	}
	d := new(inflate.Decoder)
	f.Fuzz(func(t *testing.T, seed, stream uint64, at int, change byte) {
		src := randomStream(rand.New(rand.NewPCG(seed, stream)))
		src[uint(at)%uint(len(src))] ^= change
		agree(t, d, src)
	})
}
