package receipt_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"holdfast/internal/auth"
	"holdfast/internal/receipt"
)

// shelf is a vault in memory.
type shelf struct {
	kept   map[string][]byte
	away   error
	unread error // of single receipts
}

func (s *shelf) ReceiptNames(context.Context) ([]string, error) {
	var out []string
	for n := range s.kept {
		out = append(out, n)
	}
	slices.Sort(out)
	return out, s.away
}

func (s *shelf) Receipt(_ context.Context, name string) ([]byte, error) {
	raw, ok := s.kept[name]
	if !ok {
		return nil, errors.New("not there")
	}
	return raw, errors.Join(s.away, s.unread)
}

func (s *shelf) PutReceipt(_ context.Context, name string, raw []byte) error {
	if old, ok := s.kept[name]; ok && !bytes.Equal(old, raw) {
		return errors.New("another one is there")
	}
	if s.away == nil {
		s.kept[name] = raw
	}
	return s.away
}

func (s *shelf) all(t *testing.T) []receipt.Receipt {
	t.Helper()
	var out []receipt.Receipt
	for _, raw := range s.kept {
		r, err := receipt.Read(raw)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, r)
	}
	return out
}

// world is an application's authority with signers.
type world struct {
	t     *testing.T
	a     *auth.Authority
	dir   string
	trust receipt.Trust
	now   time.Time
	shelf *shelf
}

func newWorld(t *testing.T) *world {
	t.Helper()
	dir := t.TempDir()
	a, err := auth.CreateAuthority(filepath.Join(dir, "ca"), "clinic")
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, a: a, dir: dir, now: time.Now(), shelf: &shelf{kept: map[string][]byte{}}}
	certificate, err := os.ReadFile(filepath.Join(dir, "ca", auth.CACertFile))
	if err != nil {
		t.Fatal(err)
	}
	if w.trust, err = receipt.ParseTrust(certificate); err != nil {
		t.Fatal(err)
	}
	return w
}

func (w *world) book(host string) *receipt.Book {
	w.t.Helper()
	tls := filepath.Join(w.dir, host, "tls")
	if _, err := os.Stat(tls); err != nil {
		if err := w.a.WriteHost(tls, auth.HostCert{Name: host}); err != nil {
			w.t.Fatal(err)
		}
	}
	id, err := receipt.LoadIdentity(filepath.Join(tls, auth.HostCertFile), filepath.Join(tls, auth.HostKeyFile), filepath.Join(tls, auth.CACertFile))
	if err != nil {
		w.t.Fatal(err)
	}
	return receipt.NewBook(filepath.Join(w.dir, host, "receipts"), id, receipt.Author{Application: "clinic", Host: host, Tool: "test"})
}

func (w *world) add(b *receipt.Book, kind string) receipt.Receipt {
	w.t.Helper()
	w.now = w.now.Add(time.Second)
	r, err := b.Append(w.t.Context(), "v1", w.shelf, receipt.Event{Kind: kind, Subject: "records", Outcome: receipt.Done, Says: "it was done", Figures: map[string]float64{"bytes": 7}}, w.now)
	if _, late := errors.AsType[*receipt.NotCarriedError](err); err != nil && !late {
		w.t.Fatal(err)
	}
	return r
}

// want verifies what the vault holds, and compares the faults with words: each must be among them, and nothing else.
func (w *world) want(words ...string) receipt.Report {
	w.t.Helper()
	rep := receipt.Verify(w.shelf.all(w.t), w.trust, false)
	text := strings.Join(rep.Faults, "\n")
	if rep.OK != (len(words) == 0) {
		w.t.Errorf("ok is %v with %q", rep.OK, text)
	}
	for _, x := range words {
		if !strings.Contains(text, x) {
			w.t.Errorf("not said is %q, but\n%s", x, text)
		}
	}
	return rep
}

func TestReceiptsOfSeveralHostsAreWholeAndTrusted(t *testing.T) {
	w := newWorld(t)
	one, two := w.book("b1"), w.book("b2")
	for range 3 {
		w.add(one, receipt.Backup)
		w.add(two, receipt.Validation)
	}
	rep := w.want()
	if !rep.Trusted || len(rep.Chains) != 2 || rep.Chains[0].Signed.Name != "b1" || rep.Chains[0].Signed.Role != "host" || rep.Chains[0].Last != 3 || !slices.Equal(rep.Chains[0].Kinds, []string{"3 backup done"}) {
		t.Errorf("%+v", rep)
	}
	// How far each chain is noted by the other is told: what is behind that, or a chain that none notes, is not missed.
	if a, b := rep.Chains[0], rep.Chains[1]; a.Noted != 3 || a.NotedBy != b.Chain+"/3" || b.Noted != 2 || b.NotedBy != a.Chain+"/3" {
		t.Errorf("noted: %+v", rep.Chains)
	}
	cut := slices.DeleteFunc(w.shelf.all(t), func(r receipt.Receipt) bool { return r.Chain == rep.Chains[1].Chain && r.Sequence == 3 })
	if rep := receipt.Verify(cut, w.trust, false); !rep.OK || rep.Chains[1].Last != 2 || rep.Chains[0].Noted != 2 {
		t.Errorf("without the last that nobody saw: %+v", rep)
	}
	// Without the authority's certificate the same holds, and nobody is trusted.
	if rep := receipt.Verify(w.shelf.all(t), receipt.Trust{}, false); !rep.OK || rep.Trusted {
		t.Errorf("without trust: %+v", rep)
	}
	// One receipt alone is judged by its signature.
	r := w.add(one, receipt.Restore)
	if rep := receipt.Verify([]receipt.Receipt{r}, w.trust, true); !rep.OK || !rep.Trusted {
		t.Errorf("one alone: %+v", rep)
	}
	other := newWorld(t)
	if rep := receipt.Verify([]receipt.Receipt{r}, other.trust, true); rep.OK || rep.Trusted || !strings.Contains(rep.Faults[0], "another authority vouches for it") {
		t.Errorf("under another authority: %+v", rep)
	}
	// By its bare key it is trusted, and a key of another's authority is not.
	mine := bareKey(t, r)
	if rep := receipt.Verify([]receipt.Receipt{r}, mine, true); !rep.OK || !rep.Trusted {
		t.Errorf("by its key: %+v", rep)
	}
	forged := other.add(other.book("b1"), receipt.Restore)
	for _, alone := range []bool{true, false} {
		if rep := receipt.Verify([]receipt.Receipt{forged}, mine, alone); rep.OK || rep.Trusted || len(rep.Faults) == 0 || !strings.Contains(rep.Faults[0], "neither is among those that were given") {
			t.Errorf("forged under another authority, with the bare key of the right one: %+v", rep)
		}
	}
	if at, err := os.Stat(filepath.Join(w.dir, "b1", "receipts", "key.pem")); err != nil || at.Mode().Perm() != 0o600 {
		t.Errorf("the key's file: %v, %v", at, err)
	}
	if rep := receipt.Verify(nil, w.trust, false); rep.OK || rep.Trusted {
		t.Errorf("nothing at all proves something: %+v", rep)
	}
}

// bareKey trusts the key of one receipt, and no authority.
func bareKey(t *testing.T, r receipt.Receipt) receipt.Trust {
	t.Helper()
	raw, err := base64.StdEncoding.DecodeString(r.Envelope.Signatures[0].Key)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(ed25519.PublicKey(raw))
	if err != nil {
		t.Fatal(err)
	}
	trust, err := receipt.ParseTrust(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
	if err != nil {
		t.Fatal(err)
	}
	return trust
}

// changed gives a receipt with another payload or signature under the old one's place.
func changed(t *testing.T, r receipt.Receipt, change func(e *receipt.Envelope, payload map[string]any)) []byte {
	t.Helper()
	e := r.Envelope
	e.Signatures = slices.Clone(e.Signatures)
	raw, err := base64.StdEncoding.DecodeString(e.Payload)
	if err != nil {
		t.Fatal(err)
	}
	var payload map[string]any
	if err := json.Unmarshal(raw, &payload); err != nil {
		t.Fatal(err)
	}
	change(&e, payload)
	if raw, err = json.Marshal(payload); err != nil {
		t.Fatal(err)
	}
	e.Payload = base64.StdEncoding.EncodeToString(raw)
	if raw, err = json.Marshal(e); err != nil {
		t.Fatal(err)
	}
	return raw
}

func TestEachWayToTamperIsNamed(t *testing.T) {
	for _, c := range []struct {
		name   string
		tamper func(w *world, of, other []receipt.Receipt)
		faults []string
	}{
		{"a receipt that was changed", func(w *world, of, _ []receipt.Receipt) {
			w.shelf.kept[of[1].Name] = changed(w.t, of[1], func(_ *receipt.Envelope, p map[string]any) { p["outcome"] = "passed" })
		}, []string{": 2: it was changed", ": 3: it follows"}},
		{"a receipt that is missing", func(w *world, of, _ []receipt.Receipt) { delete(w.shelf.kept, of[1].Name) }, []string{"missing are 2 to 2"}},
		{"the first that is missing", func(w *world, of, _ []receipt.Receipt) { delete(w.shelf.kept, of[0].Name) }, []string{"missing are 1 to 1"}},
		{"an end that is cut off", func(w *world, of, _ []receipt.Receipt) { delete(w.shelf.kept, of[3].Name) }, []string{"missing at the end are 4 to 4", "saw them"}},
		{"a chain that is gone", func(w *world, of, _ []receipt.Receipt) {
			for _, r := range of {
				delete(w.shelf.kept, r.Name)
			}
		}, []string{"missing altogether"}},
		{"receipts that changed places", func(w *world, of, _ []receipt.Receipt) {
			w.shelf.kept[of[1].Name] = changed(w.t, of[1], func(_ *receipt.Envelope, p map[string]any) { p["sequence"] = 3 })
			w.shelf.kept[of[2].Name] = changed(w.t, of[2], func(_ *receipt.Envelope, p map[string]any) { p["sequence"] = 2 })
		}, []string{": 2: it was changed", ": 3: it was changed", "out of order"}},
		{"a signature by a key that nobody vouches for", func(w *world, of, other []receipt.Receipt) {
			w.shelf.kept[of[1].Name] = changed(w.t, of[1], func(e *receipt.Envelope, _ map[string]any) { e.Signer = other[0].Envelope.Signer })
		}, []string{": 2: "}},
		{"a voucher that is left out", func(w *world, of, _ []receipt.Receipt) {
			raw := of[1].Envelope
			raw.Signer = nil
			out, err := json.Marshal(raw)
			if err != nil {
				w.t.Fatal(err)
			}
			w.shelf.kept[of[1].Name] = out
		}, []string{": 2: nobody vouches for its key"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t)
			one, two := w.book("b1"), w.book("b2")
			var of, other []receipt.Receipt
			for range 4 {
				of = append(of, w.add(one, receipt.Backup))
			}
			other = append(other, w.add(two, receipt.Backup))
			w.want()
			c.tamper(w, of, other)
			w.want(c.faults...)
		})
	}
}

// saved keeps the receipts of b1 as they are, and gives a function that sets the host back to that.
func (w *world) saved() (setBack func()) {
	w.t.Helper()
	dir, saved := filepath.Join(w.dir, "b1", "receipts"), w.t.TempDir()
	if err := os.CopyFS(saved, os.DirFS(dir)); err != nil {
		w.t.Fatal(err)
	}
	return func() {
		w.t.Helper()
		if err := errors.Join(os.RemoveAll(dir), os.CopyFS(dir, os.DirFS(saved)), os.Chmod(filepath.Join(dir, "key.pem"), 0o600)); err != nil {
			w.t.Fatal(err)
		}
	}
}

func TestAHostSetBackGoesOnFromTheVault(t *testing.T) {
	w := newWorld(t)
	b := w.book("b1")
	w.add(b, receipt.Backup)
	setBack := w.saved()
	w.add(b, receipt.Backup)
	w.add(b, receipt.Backup)
	setBack()
	if r := w.add(w.book("b1"), receipt.Backup); r.Sequence != 4 {
		t.Errorf("after it was set back it writes %d", r.Sequence)
	}
	w.want()
	// Set back with the vault away, it forks: both stay, that is named, and a new chain is begun.
	setBack()
	w.shelf.away = errors.New("away")
	meanwhile := w.add(w.book("b1"), receipt.Restore)
	w.shelf.away = nil
	r := w.add(w.book("b1"), receipt.Backup)
	if r.Sequence != 1 || r.Chain == meanwhile.Chain {
		t.Errorf("a forked chain is gone on with: %s", r.ID())
	}
	if w.shelf.kept[meanwhile.Name] == nil {
		t.Error("what was written meanwhile never reached the vault")
	}
	w.want(meanwhile.Chain + ": 2: forked, there are two of it")
	if next := w.add(w.book("b1"), receipt.Backup); next.Chain != r.Chain || next.Sequence != 2 {
		t.Errorf("behind the fork it goes on with %s", next.ID())
	}
}

func TestAHostSetBackBehindItsChangeOfKeyBeginsAnew(t *testing.T) {
	w := newWorld(t)
	b := w.book("b1")
	first := w.add(b, receipt.Backup)
	setBack := w.saved()
	if _, _, err := b.Rotate(t.Context(), w.now); err != nil {
		t.Fatal(err)
	}
	w.add(b, receipt.Backup)
	afterwards := w.saved()
	w.add(b, receipt.Backup)
	// To a moment behind the change: the present key goes on.
	afterwards()
	if r := w.add(w.book("b1"), receipt.Backup); r.Sequence != 5 {
		t.Errorf("set back to its present key it writes %s", r.ID())
	}
	w.want()
	// To one before it: the old key may not follow the new one.
	setBack()
	if r := w.add(w.book("b1"), receipt.Backup); r.Sequence != 1 || r.Chain == first.Chain {
		t.Errorf("the old key goes on behind the new one: %s", r.ID())
	}
	w.want()
}

func TestWhatOthersPutIntoAChainIsNotBuiltUpon(t *testing.T) {
	for name, change := range map[string]func(p map[string]any, last receipt.Receipt){
		"a number far ahead": func(p map[string]any, _ receipt.Receipt) { p["sequence"] = 90000 },
		"the next, with a signature that does not fit": func(p map[string]any, last receipt.Receipt) {
			p["sequence"], p["previous"] = 2, last.Hash
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			last := w.add(w.book("b1"), receipt.Backup)
			planted, err := receipt.Read(changed(t, last, func(_ *receipt.Envelope, p map[string]any) { change(p, last) }))
			if err != nil {
				t.Fatal(err)
			}
			w.shelf.kept[planted.Name] = planted.Raw
			if r := w.add(w.book("b1"), receipt.Backup); r.Sequence != 1 || r.Chain == last.Chain {
				t.Errorf("it is gone on with: %s", r.ID())
			}
			w.want("it was changed, or its signature was")
		})
	}
}

func TestAReceiptIsKeptWhereTheVaultsOwnCannotBeRead(t *testing.T) {
	w := newWorld(t)
	b := w.book("b1")
	w.add(b, receipt.Backup)
	setBack := w.saved()
	w.add(b, receipt.Backup)
	setBack()
	w.shelf.unread = errors.New("its seal does not fit")
	r, err := b.Append(t.Context(), "v1", w.shelf, receipt.Event{Kind: receipt.Restore, Outcome: receipt.Done}, w.now)
	if _, late := errors.AsType[*receipt.NotCarriedError](err); !late || r.Sequence != 2 {
		t.Fatalf("%s, %v", r.ID(), err)
	}
	w.shelf.unread = nil
	if err := b.Carry(t.Context(), "v1", w.shelf); err != nil || w.shelf.kept[r.Name] == nil {
		t.Errorf("it never reached the vault: %v", err)
	}
}

func TestAReceiptWaitsForAVaultThatIsAway(t *testing.T) {
	w := newWorld(t)
	b := w.book("b1")
	w.add(b, receipt.Backup)
	w.shelf.away = errors.New("the disk is not mounted")
	_, err := b.Append(t.Context(), "v1", w.shelf, receipt.Event{Kind: receipt.Backup, Outcome: receipt.Done}, w.now)
	if late, ok := errors.AsType[*receipt.NotCarriedError](err); !ok || !strings.Contains(late.Error(), "not mounted") {
		t.Fatalf("with the vault away: %v", err)
	}
	w.shelf.away = nil
	if len(w.shelf.kept) != 1 {
		t.Fatalf("the vault holds %d", len(w.shelf.kept))
	}
	if err := b.Carry(t.Context(), "v1", w.shelf); err != nil || len(w.shelf.kept) != 2 {
		t.Fatalf("carried: %v, the vault holds %d", err, len(w.shelf.kept))
	}
	w.want()
}

func TestANewKeyIsAnnouncedByTheOldOne(t *testing.T) {
	w := newWorld(t)
	b := w.book("b1")
	w.add(b, receipt.Backup)
	old, fresh, err := b.Rotate(t.Context(), w.now)
	if err != nil || old == fresh {
		t.Fatal(old, fresh, err)
	}
	w.add(b, receipt.Backup)
	rep := w.want()
	if c := rep.Chains[0]; c.Last != 3 || !slices.Equal(c.Keys, []string{old, fresh}) {
		t.Errorf("%+v", c)
	}
	// A key that nobody announced.
	if err := os.Remove(filepath.Join(w.dir, "b1", "receipts", "key.pem")); err != nil {
		t.Fatal(err)
	}
	w.add(b, receipt.Backup)
	w.want("which the one before never named")
	// A key that others can read is not used.
	if err := os.Chmod(filepath.Join(w.dir, "b1", "receipts", "key.pem"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Append(t.Context(), "v1", w.shelf, receipt.Event{Kind: receipt.Backup}, w.now); err == nil || !strings.Contains(err.Error(), "can be read by others") {
		t.Errorf("with a key that others can read: %v", err)
	}
}

// What is repeated, and what a key signs that counts no more, is named with the field that tells.
func TestWhatIsRepeatedOrSignedByAFormerKeyIsNamed(t *testing.T) {
	w := newWorld(t)
	b := w.book("b1")
	first := w.add(b, receipt.Backup)
	key := filepath.Join(w.dir, "b1", "receipts", "key.pem")
	former, err := os.ReadFile(key)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := b.Rotate(t.Context(), w.now); err != nil {
		t.Fatal(err)
	}
	w.add(b, receipt.Backup)
	w.want()
	all := w.shelf.all(t)
	if rep := receipt.Verify(append(all, first), w.trust, false); rep.OK || len(rep.Faults) != 1 || !strings.Contains(rep.Faults[0], ": 1: it is repeated") || !strings.Contains(rep.Faults[0], "field sequence") {
		t.Errorf("with one that is repeated: %q", rep.Faults)
	}
	if err := os.WriteFile(key, former, 0o600); err != nil { // who has the former key writes on
		t.Fatal(err)
	}
	late := w.add(b, receipt.Validation)
	w.want(late.Chain + ": 4: signed with key " + late.Envelope.Signatures[0].KeyID + ", which counts no more since 3 (field key)")
}

func FuzzReadNeverPanics(f *testing.F) {
	f.Add([]byte(`{"payloadType":"application/vnd.holdfast.receipt.v1+json","payload":"e30=","signatures":[{}]}`))
	f.Fuzz(func(_ *testing.T, raw []byte) {
		if r, err := receipt.Read(raw); err == nil {
			receipt.Verify([]receipt.Receipt{r}, receipt.Trust{}, false)
		}
	})
}
