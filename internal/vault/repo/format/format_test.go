package format

import (
	"bytes"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"

	"holdfast/internal/vault/repo/kepttest"
)

const blobName = "kopia.repository"

// keptOnce is read by the first test that asks: it takes a quarter of a second.
var keptOnce struct {
	sync.Mutex
	f *Format
}

// kept is the format of the kept vault, each time as a copy.
func kept(t testing.TB) *Format {
	t.Helper()
	keptOnce.Lock()
	defer keptOnce.Unlock()
	if keptOnce.f == nil {
		f, err := Read(kepttest.Blobs(t)[blobName], kepttest.Password)
		if err != nil {
			t.Fatal(err)
		}
		keptOnce.f = f
	}
	f := *keptOnce.f
	return &f
}

func TestTheFormatOfTheKeptVaultIsRead(t *testing.T) {
	f := kept(t)
	if f.Splitter() != "FIXED-1M" || f.MaxPackSize() != 20<<20 {
		t.Errorf("splitter %s, packs of %d bytes", f.Splitter(), f.MaxPackSize())
	}
	if f.Epochs() != DefaultEpochs() {
		t.Errorf("epochs %+v", f.Epochs())
	}
	if got := base64.StdEncoding.EncodeToString(f.UniqueID()); got != "FLT1iCbSoWihT0zmbvysp5sbW3u+oAwycvlFiqAQehc=" {
		t.Errorf("unique id %s", got)
	}
	f.UniqueID()[0] ^= 1
	if f.UniqueID()[0] != 0x14 {
		t.Error("the unique id that was given out is the format's own")
	}
}

// What the vault keeps of its keys' history is named by a proof under a derived key, the same before and after a new password.
func TestKeysAreDerivedAsTheyWere(t *testing.T) {
	f := kept(t)
	key, err := f.DeriveKey("holdfast-wrap-v1", 32)
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for name, content := range kepttest.Vault(t) {
		proof, ok := strings.CutPrefix(name, "key/0000000")
		if !ok {
			continue
		}
		n++
		m := hmac.New(sha256.New, key)
		fmt.Fprintf(m, "%c\x00%s", proof[0], content)
		if got := fmt.Sprintf("%c-%x", proof[0], m.Sum(nil)[:16]); got != proof {
			t.Errorf("a wrap's proof is %s, want %s", got, proof)
		}
	}
	if n != 2 {
		t.Fatalf("%d wraps of the key are kept", n)
	}
	if _, err := f.DeriveKey("too much", 255*sha256.Size+1); err == nil {
		t.Error("a key was derived that is longer than HKDF gives")
	}
}

func TestWrapsOfOneFormatAreTheSame(t *testing.T) {
	f := kept(t)
	for name, content := range kepttest.Vault(t) {
		if !strings.HasPrefix(name, "key/00000001") {
			continue
		}
		old, err := Read(content, kepttest.OldPassword)
		if err != nil {
			t.Fatal(err)
		}
		if !f.Same(old) || !old.Same(f) {
			t.Error("the wrap under the old password is another format")
		}
		return
	}
	t.Fatal("no old wrap is kept")
}

// once gives bytes and then fails, so that nobody draws more than was meant.
func once(b []byte) io.Reader {
	return io.MultiReader(bytes.NewReader(b), iotest.ErrReader(errors.New("drawn too much")))
}

// The same keys, the same settings and the same nonce make the very bytes that kopia stored, but for who wrote them.
func TestAFormatIsMadeAsKopiaMakesIt(t *testing.T) {
	f := kept(t)
	blob := kepttest.Blobs(t)[blobName]
	drawn := append(append(append(f.UniqueID(), f.config.HashSecret...), f.config.MasterKey...), f.outer.EncryptedBytes[:nonceBytes]...)
	made, err := Make(kepttest.Password, New{Splitter: "FIXED-1M"}, once(drawn))
	if err != nil {
		t.Fatal(err)
	}
	who := strings.NewReplacer(`"https://github.com/kopia/kopia"`, `"holdfast"`, `"v0-unofficial"`, `""`, `"-(unknown_revision)"`, `""`)
	if diff := cmp.Diff(who.Replace(string(blob)), string(made)); diff != "" {
		t.Error(diff)
	}
}

func TestWhatIsMadeIsRead(t *testing.T) {
	made, err := Make("a password", New{Splitter: "DYNAMIC-4M-BUZHASH", MaxPackSize: 10 << 20}, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	f, err := Read(made, "a password")
	if err != nil {
		t.Fatal(err)
	}
	if f.Splitter() != "DYNAMIC-4M-BUZHASH" || f.MaxPackSize() != 10<<20 || f.Epochs() != DefaultEpochs() {
		t.Errorf("read %+v", f.config)
	}
	if _, err := Read(made, "a passworD"); !errors.Is(err, ErrWrongPassword) {
		t.Errorf("another password: %v", err)
	}
	if g := kept(t); f.Same(g) || bytes.Equal(f.config.MasterKey, f.config.HashSecret) {
		t.Error("keys are used twice")
	}
}

func TestWhatCannotBeMade(t *testing.T) {
	for _, size := range []int{-1, 10<<20 - 1, 120<<20 + 1} {
		if _, err := Make("p", New{MaxPackSize: size}, rand.Reader); err == nil {
			t.Errorf("packs of %d bytes were taken", size)
		}
	}
	for _, n := range []int{0, uniqueIDBytes + 2*keyBytes - 1, uniqueIDBytes + 2*keyBytes + nonceBytes - 1} {
		if _, err := Make("p", New{}, once(make([]byte, n))); err == nil {
			t.Errorf("made of %d random bytes", n)
		}
	}
}

func TestARewrapOpensWithTheNewPasswordAlone(t *testing.T) {
	f := kept(t)
	// What a later kopia writes, and this program does not know, must not be lost.
	f.plain = bytes.Replace(f.plain, []byte(`{"format":{`), []byte(`{"later":[1],"format":{"laterStill":"yes",`), 1)
	blob, err := f.Rewrap("another password")
	if err != nil {
		t.Fatal(err)
	}
	g, err := Read(blob, "another password")
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(g.plain, []byte("laterStill")) || !bytes.Contains(g.plain, []byte(`"later":[1]`)) || !f.Same(g) {
		t.Errorf("it became %d bytes of %d", len(g.plain), len(f.plain))
	}
	if g.outer.Tool != "https://github.com/kopia/kopia" {
		t.Errorf("made by %q", g.outer.Tool)
	}
	if _, err := Read(blob, kepttest.Password); !errors.Is(err, ErrWrongPassword) {
		t.Errorf("the old password: %v", err)
	}
	again, err := f.Rewrap("another password")
	if err != nil || bytes.Equal(again, blob) {
		t.Errorf("a nonce was used twice: %v", err)
	}
}

// Every wrong byte in the sealed part is found. Few are tried: each try takes a quarter of a second.
func TestADamagedSealDoesNotOpen(t *testing.T) {
	o, err := parseOuter(kepttest.Blobs(t)[blobName])
	if err != nil {
		t.Fatal(err)
	}
	aead, associated, err := o.aead(nil, kepttest.Password)
	if err != nil {
		t.Fatal(err)
	}
	for i := range o.EncryptedBytes {
		b := bytes.Clone(o.EncryptedBytes)
		b[i] ^= 0x10
		if _, err := aead.Open(nil, b[:nonceBytes], b[nonceBytes:], associated); err == nil {
			t.Fatalf("it opens with a wrong byte at %d", i)
		}
	}
	for _, change := range []func(*outer){
		func(o *outer) { o.EncryptedBytes[20] ^= 1 },
		func(o *outer) { o.EncryptedBytes = o.EncryptedBytes[:len(o.EncryptedBytes)-1] },
		func(o *outer) { o.UniqueID[0] ^= 1 },
	} {
		d := o
		d.EncryptedBytes, d.UniqueID = bytes.Clone(o.EncryptedBytes), bytes.Clone(o.UniqueID)
		change(&d)
		if _, err := d.unwrap(nil, kepttest.Password); !errors.Is(err, ErrWrongPassword) {
			t.Errorf("damaged, it gave %v", err)
		}
	}
}

func TestWhatIsNoFormatBlob(t *testing.T) {
	blob := string(kepttest.Blobs(t)[blobName])
	for name, c := range map[string]struct {
		blob string
		want error
		says string
	}{
		"nothing":             {"", ErrDamaged, ""},
		"zeroes":              {strings.Repeat("\x00", 1067), ErrDamaged, ""},
		"cut off":             {blob[:len(blob)/2], ErrDamaged, ""},
		"an empty object":     {"{}", ErrDamaged, "missing"},
		"null":                {"null", ErrDamaged, "missing"},
		"a list":              {"[]", ErrDamaged, ""},
		"no sealed part":      {strings.Replace(blob, "encryptedBlockFormat", "x", 1), ErrDamaged, "missing"},
		"a short unique id":   {strings.Replace(blob, "FLT1iCbSoWihT0zmbvysp5sbW3u+oAwycvlFiqAQehc=", "FLT1", 1), ErrDamaged, "missing"},
		"another derivation":  {strings.Replace(blob, "scrypt-65536-8-1", "pbkdf2-sha256-600000", 1), ErrTooNew, "pbkdf2-sha256-600000"},
		"a costly derivation": {strings.Replace(blob, "scrypt-65536-8-1", "scrypt-1073741824-8-1", 1), ErrTooNew, "scrypt-1073741824-8-1"},
		"another cipher":      {strings.Replace(blob, "AES256_GCM", "NONE", 1), ErrTooNew, "NONE"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Read([]byte(c.blob), kepttest.Password)
			if !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.says) {
				t.Errorf("it gave %v, want %v with %q", err, c.want, c.says)
			}
		})
	}
}

func TestAFormatThatAsksForMoreIsRefusedByName(t *testing.T) {
	feature := func(name string, warn bool) required {
		r := required{Feature: name}
		r.IfNotUnderstood.Warn, r.IfNotUnderstood.Message = warn, "it is of the future"
		return r
	}
	for name, c := range map[string]struct {
		change func(*config)
		want   error
		says   string
	}{
		"as it is":               {func(*config) {}, nil, ""},
		"an unknown feature":     {func(c *config) { c.RequiredFeatures = []required{feature("telepathy", false)} }, ErrTooNew, `"telepathy" it is of the future`},
		"one of two is unknown":  {func(c *config) { c.RequiredFeatures = []required{feature("index-v2", false), feature("x", false)} }, ErrTooNew, `"x"`},
		"a feature that we have": {func(c *config) { c.RequiredFeatures = []required{feature("index-v2", false)} }, nil, ""},
		"one to be warned of":    {func(c *config) { c.RequiredFeatures = []required{feature("telepathy", true)} }, nil, ""},
		"a later version":        {func(c *config) { c.Version = 4 }, ErrTooNew, "format version 4"},
		"an earlier version":     {func(c *config) { c.Version = 2 }, ErrTooNew, "format version 2"},
		"a later index":          {func(c *config) { c.IndexVersion = 3 }, ErrTooNew, "index version 3"},
		"another hash":           {func(c *config) { c.Hash = "BLAKE2B-256-128" }, ErrTooNew, "BLAKE2B-256-128"},
		"another encryption":     {func(c *config) { c.Encryption = "CHACHA20-POLY1305-HMAC-SHA256" }, ErrTooNew, "CHACHA20"},
		"error correction":       {func(c *config) { c.ECC, c.ECCOverheadPercent = "REED-SOLOMON-CRC32", 2 }, ErrTooNew, "REED-SOLOMON-CRC32"},
		"correction of nothing":  {func(c *config) { c.ECC = "REED-SOLOMON-CRC32" }, nil, ""},
		"keys of the password":   {func(c *config) { c.EnablePasswordChange = false }, ErrTooNew, "password"},
		"no epochs":              {func(c *config) { c.EpochParameters.Enabled = false }, ErrTooNew, "epochs"},
		"somebody moves it":      {func(c *config) { c.UpgradeLock = &upgradeLock{OwnerID: "ada", Message: "wait"} }, ErrTooNew, "ada"},
		"a short hash secret":    {func(c *config) { c.HashSecret = c.HashSecret[:31] }, ErrDamaged, "31"},
		"no master key":          {func(c *config) { c.MasterKey = nil }, ErrDamaged, "keys"},
		"packs of no length":     {func(c *config) { c.MaxPackSize = 0 }, ErrDamaged, "packs"},
		"packs too long":         {func(c *config) { c.MaxPackSize = 1 << 40 }, ErrDamaged, "packs"},
	} {
		t.Run(name, func(t *testing.T) {
			conf := newConfig(New{MaxPackSize: DefaultMaxPackSize}, make([]byte, 32), make([]byte, 32))
			c.change(&conf)
			plain, err := json.Marshal(sealed{Format: conf})
			if err != nil {
				t.Fatal(err)
			}
			switch _, err = parseConfig(plain); {
			case c.want == nil && err != nil:
				t.Errorf("refused: %v", err)
			case c.want != nil && (!errors.Is(err, c.want) || !strings.Contains(err.Error(), c.says)):
				t.Errorf("it gave %v, want %v with %q", err, c.want, c.says)
			}
		})
	}
}

// The whole way: what is demanded inside the seal is told by who opens it.
func TestADemandInsideTheSealIsToldByRead(t *testing.T) {
	f := kept(t)
	f.plain = bytes.Replace(f.plain, []byte(`"splitter":`), []byte(`"requiredFeatures":[{"feature":"telepathy","ifNotUnderstood":{"warn":false}}],"splitter":`), 1)
	blob, err := f.Rewrap("p")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Read(blob, "p"); !errors.Is(err, ErrTooNew) || !strings.Contains(err.Error(), "telepathy") {
		t.Errorf("it gave %v", err)
	}
	f.plain = f.plain[:len(f.plain)-3]
	if blob, err = f.Rewrap("p"); err != nil {
		t.Fatal(err)
	}
	if _, err := Read(blob, "p"); !errors.Is(err, ErrDamaged) {
		t.Errorf("a cut format gave %v", err)
	}
}

// Whatever the bytes, both layers end in one of the errors that callers ask for, and what passes gives a sealer.
func FuzzFormat(f *testing.F) {
	f.Add(kepttest.Blobs(f)[blobName])
	f.Add(kept(f).plain)
	f.Add([]byte(`{"format":{"version":3,"requiredFeatures":[{"feature":"x"}],"upgradeLock":{}}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, err := parseOuter(b); err != nil && !errors.Is(err, ErrDamaged) && !errors.Is(err, ErrTooNew) {
			t.Errorf("the outer layer: %v", err)
		}
		c, err := parseConfig(b)
		if err != nil {
			if !errors.Is(err, ErrDamaged) && !errors.Is(err, ErrTooNew) {
				t.Errorf("the inner layer: %v", err)
			}
			return
		}
		s, err := (&Format{config: c}).Sealer()
		if err != nil {
			t.Fatal(err)
		}
		if len(s.Hash(b)) != hashBytes {
			t.Error("a hash of another length")
		}
	})
}
