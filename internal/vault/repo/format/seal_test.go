package format

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"pgregory.net/rapid"

	"holdfast/internal/vault/repo/kepttest"
)

func sealer(t testing.TB) *Sealer {
	t.Helper()
	c := newConfig(New{}, bytes.Repeat([]byte{1}, keyBytes), bytes.Repeat([]byte{2}, keyBytes))
	s, err := (&Format{config: c}).Sealer()
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func keptSealer(t testing.TB) *Sealer {
	t.Helper()
	s, err := kept(t).Sealer()
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// The places of the contents are what the kept vault's indexes say of them.
func TestContentsOfTheKeptVaultOpen(t *testing.T) {
	s, blobs := keptSealer(t), kepttest.Blobs(t)
	for _, c := range []struct {
		hash, pack string
		at, length int // in the pack, bytes
		compressed bool
	}{
		{hash: "494a87d517291bbe12e58fa8ebf54d23817337716f13c09f8196cfe9a3e2b38f", pack: "p9c752bf7caca123679ebd33496b7b714-sbb9413a8fd1f91ca147", at: 110, length: 37},
		{hash: "578178df9f2d9258caf195271b3856fb039d0ca8518d9d878346eabc53d420cf", pack: "p9c752bf7caca123679ebd33496b7b714-sbb9413a8fd1f91ca147", at: 32, length: 41},
		{hash: "60aa1d02fcc63ba140ba248f1f9b002266e919a41e7aa21cfb0c3b1675f201c3", pack: "p0181df20645ae0d874702a2437d43b78-s30ab1a33b2c2eb95147", at: 234, length: 28},
		{hash: "5918847b054bdcf7e6852426991ca1bdb545a30170bda33b112fa422d886749e", pack: "qd58d135cd88c3847ea77c6353176d64b-saadeca6acdae12a1147", at: 32, length: 829},
		{hash: "9434ca4b3e865709ddfcf5330e295a9b8a6108b28a95fee7fae1b1870aeaef97", pack: "q68488a6ffe01affc54aac3701f8a8eb6-sbb9413a8fd1f91ca147", at: 544, length: 521, compressed: true},
	} {
		hash := unhex(t, c.hash)
		raw := blobs[c.pack][c.at:][:c.length]
		plain, err := s.Open(nil, raw, hash)
		if err != nil {
			t.Fatal(err)
		}
		if len(plain) != c.length-s.Overhead() {
			t.Errorf("%d bytes became %d", c.length, len(plain))
		}
		if c.compressed { // its name is that of what is in it
			if !bytes.HasPrefix(plain, []byte{0, 0, 0x11, 1}) {
				t.Errorf("a compressed content begins with %x", plain[:4])
			}
		} else if got := s.Hash(plain); !bytes.Equal(got, hash) {
			t.Errorf("its hash is %x, want %s", got, c.hash)
		}
		if len(plain) == 9 {
			if _, err := s.Open(nil, blobs[c.pack][c.at+1:][:c.length], hash); !errors.Is(err, ErrDamaged) {
				t.Errorf("a byte further on it gives %v", err)
			}
		}
	}
}

func TestTheIndexAtAPacksEndOpens(t *testing.T) {
	s := keptSealer(t)
	pack := kepttest.Blobs(t)["qd58d135cd88c3847ea77c6353176d64b-saadeca6acdae12a1147"]
	hash := unhex(t, "e785e7de951ff72afd7f09a37e4c2b48f4199169a3af33ef5b8f95a79c853d0d") // stands in the pack's last bytes
	plain, err := s.OpenIndex(nil, pack[4096:][:191], hash)
	if err != nil {
		t.Fatal(err)
	}
	if plain[0] != 2 || !bytes.Equal(s.Hash(plain), hash) {
		t.Errorf("it begins with %x, and its hash is %x", plain[:4], s.Hash(plain))
	}
	if _, err := s.Open(nil, pack[4096:][:191], hash); !errors.Is(err, ErrDamaged) {
		t.Errorf("it opens as a content: %v", err)
	}
	again, err := s.SealIndex([]byte("before"), plain, hash)
	if err != nil || len(again) != 191+len("before") {
		t.Fatalf("sealed again it is %d bytes long: %v", len(again), err)
	}
	if back, err := s.OpenIndex(nil, again[len("before"):], hash); err != nil || !bytes.Equal(back, plain) {
		t.Errorf("sealed again it gives %x: %v", back, err)
	}
}

// An index blob is named after what is in it, so sealing that again gives the same name.
func TestIndexBlobsOfTheKeptVaultOpenAndGetTheSameNames(t *testing.T) {
	s, n := keptSealer(t), 0
	for name, raw := range kepttest.Blobs(t) {
		if !strings.HasPrefix(name, "xn0_") {
			continue
		}
		n++
		plain, err := s.OpenBlob(name, raw)
		if err != nil {
			t.Fatal(err)
		}
		_, suffix, _ := strings.Cut(name, "-")
		again, sealed, err := s.SealBlob(plain, "xn0_", suffix)
		if err != nil || again != name || len(sealed) != len(raw) {
			t.Errorf("%s is named %s now, and is %d bytes long: %v", name, again, len(sealed), err)
		}
		if back, err := s.OpenBlob(again, sealed); err != nil || !bytes.Equal(back, plain) {
			t.Errorf("%s does not open again: %v", name, err)
		}
		if _, err := s.OpenBlob(strings.Replace(name, "0-s", "1-s", 1)+"x", append(bytes.Clone(raw), 0)); !errors.Is(err, ErrDamaged) {
			t.Errorf("%s opens with a byte more: %v", name, err)
		}
	}
	if n != 10 {
		t.Errorf("%d index blobs are kept", n)
	}
}

func TestNamesThatNoBlobHas(t *testing.T) {
	s := sealer(t)
	for _, name := range []string{"", "-", "x", "-" + strings.Repeat("a", 40), strings.Repeat("g", 32), strings.Repeat("a", 31), strings.Repeat("a", 31) + "-a"} {
		if _, err := s.OpenBlob(name, make([]byte, 100)); !errors.Is(err, ErrDamaged) {
			t.Errorf("%q: %v", name, err)
		}
	}
	if name, _, err := s.SealBlob([]byte("a"), "xe", ""); err != nil || len(name) != 2+64 {
		t.Errorf("without a suffix it is named %q: %v", name, err)
	}
}

// Golden: a change here is a change of the format.
func TestHashesStayWhatTheyAre(t *testing.T) {
	s := sealer(t)
	for in, want := range map[string]string{
		"":                           "5dc76cbd474e91b7e85a02bcba29892273ebf93f20bab06b2f352313a5050c05",
		"holdfast":                   "1f46b6dd6264e29932384a1c35d5c4a0e073c44da5f21298965b92f84fe0a6e0",
		strings.Repeat("page ", 1e5): "049230c55e69a130b7846a45829e9164e6ef91276f939bb63e245dcc11c1f6f2",
	} {
		if got := fmt.Sprintf("%x", s.Hash([]byte(in))); got != want {
			t.Errorf("the hash of %d bytes is %s, want %s", len(in), got, want)
		}
	}
}

// Golden: what an earlier version of this package sealed.
func TestWhatWasSealedOpens(t *testing.T) {
	plain, err := sealer(t).Open(nil, unhex(t, "43487e9b037797633661392edb3a83a53d41ef565f45fd2db27293834042fd6d5f1e56c9"), bytes.Repeat([]byte{7}, hashBytes))
	if err != nil || string(plain) != "holdfast" {
		t.Errorf("%q, %v", plain, err)
	}
}

func TestWhatIsSealedOpensUnderItsHashAloneAndUndamaged(t *testing.T) {
	s, other := sealer(t), keptSealer(t)
	rapid.Check(t, func(t *rapid.T) {
		plain := rapid.SliceOfN(rapid.Byte(), 0, 300).Draw(t, "plain")
		before := rapid.SliceOfN(rapid.Byte(), 0, 20).Draw(t, "before")
		hash := s.Hash(plain)
		dst := append(make([]byte, 0, 400), before...)
		sealed, err := s.Seal(dst, plain, hash)
		if err != nil || len(sealed) != len(before)+len(plain)+s.Overhead() || !bytes.HasPrefix(sealed, before) {
			t.Fatalf("sealed it is %x: %v", sealed, err)
		}
		if &sealed[:1][0] != &dst[:1][0] {
			t.Fatal("the room that there was is not used")
		}
		sealed = sealed[len(before):]
		back, err := s.Open(bytes.Clone(before), sealed, hash)
		if err != nil || !bytes.Equal(back, append(bytes.Clone(before), plain...)) {
			t.Fatalf("it gives %x: %v", back, err)
		}
		flipped, cut, another := bytes.Clone(sealed), sealed[:rapid.IntRange(0, len(sealed)-1).Draw(t, "cut")], bytes.Clone(hash)
		bit := rapid.IntRange(0, 8*len(sealed)-1).Draw(t, "bit")
		flipped[bit/8] ^= 1 << (bit % 8)
		another[rapid.IntRange(hashBytes-boundBytes, hashBytes-1).Draw(t, "byte")] ^= 1
		for what, try := range map[string]func() ([]byte, error){
			"a flipped bit":      func() ([]byte, error) { return s.Open(nil, flipped, hash) },
			"cut off":            func() ([]byte, error) { return s.Open(nil, cut, hash) },
			"another hash":       func() ([]byte, error) { return s.Open(nil, sealed, another) },
			"another repository": func() ([]byte, error) { return other.Open(nil, sealed, hash) },
		} {
			if b, err := try(); !errors.Is(err, ErrDamaged) || b != nil {
				t.Fatalf("%s: %x, %v", what, b, err)
			}
		}
	})
}

func TestTwoSealsOfOneContentDiffer(t *testing.T) {
	s, id := sealer(t), make([]byte, hashBytes)
	seen := map[string]bool{}
	for range 100 {
		b, err := s.Seal(nil, nil, id)
		if err != nil || seen[string(b[:nonceBytes])] {
			t.Fatalf("a nonce was used twice: %v", err)
		}
		seen[string(b[:nonceBytes])] = true
	}
}

func TestASealerServesManyAtOnce(t *testing.T) {
	s := sealer(t)
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			for j := range 50 {
				plain := bytes.Repeat([]byte{byte(i)}, 1000*j)
				hash := s.Hash(plain)
				sealed, err := s.Seal(nil, plain, hash)
				if err != nil {
					t.Error(err)
					return
				}
				back, err := s.Open(nil, sealed, s.Hash(plain))
				if err != nil || !bytes.Equal(back, plain) {
					t.Errorf("%d bytes of %d: %v", len(plain), i, err)
					return
				}
			}
		})
	}
	all.Wait()
}

// What lies in a repository is foreign to whoever reads it: no bytes, name or hash may do more than not open.
func FuzzOpen(f *testing.F) {
	s := sealer(f)
	name, sealed, err := s.SealBlob([]byte("holdfast"), "xn0_", "s1-c1")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(sealed, name, s.Hash([]byte("holdfast")))
	f.Add([]byte{}, "", []byte{})
	f.Fuzz(func(t *testing.T, b []byte, name string, hash []byte) {
		if plain, err := s.OpenBlob(name, b); err == nil && string(plain) != "holdfast" {
			t.Errorf("blob %s gives %x", name, plain)
		}
		if plain, err := s.Open(nil, b, hash); err == nil && string(plain) != "holdfast" {
			t.Errorf("content %x gives %x", hash, plain)
		}
	})
}

const mib = 1 << 20

func BenchmarkHash(b *testing.B) {
	s, p := sealer(b), make([]byte, mib)
	b.SetBytes(mib)
	b.ReportAllocs()
	for b.Loop() {
		s.Hash(p)
	}
}

func BenchmarkSeal(b *testing.B) {
	s, p := sealer(b), make([]byte, mib)
	id, dst := s.Hash(p), make([]byte, 0, mib+s.Overhead())
	b.SetBytes(mib)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := s.Seal(dst, p, id); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkOpen(b *testing.B) {
	s, p := sealer(b), make([]byte, mib)
	id := s.Hash(p)
	sealed, err := s.Seal(nil, p, id)
	if err != nil {
		b.Fatal(err)
	}
	dst := make([]byte, 0, mib)
	b.SetBytes(mib)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := s.Open(dst, sealed, id); err != nil {
			b.Fatal(err)
		}
	}
}
