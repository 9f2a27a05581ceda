package repo

import (
	"encoding/json"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

const someHash = "00ff11ee22dd33cc44bb55aa6699778800ff11ee22dd33cc44bb55aa66997788"

func mustObject(t interface{ Fatal(...any) }, s string) ObjectID {
	id, err := ParseObjectID(s)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func TestNamesOfObjectsAreRead(t *testing.T) {
	for name, c := range map[string]struct {
		in, out, content, list string
		compressed             bool
	}{
		"a content":              {in: someHash, out: someHash, content: someHash},
		"a content of metadata":  {in: "k" + someHash, out: "k" + someHash, content: "k" + someHash},
		"an old name":            {in: "D" + someHash, out: someHash, content: someHash},
		"compressed by itself":   {in: "Z" + someHash, out: "Z" + someHash, content: someHash, compressed: true},
		"put together by a list": {in: "Ix" + someHash, out: "Ix" + someHash, list: "x" + someHash},
		"by a list of lists":     {in: "IIx" + someHash, out: "IIx" + someHash, list: "Ix" + someHash},
	} {
		t.Run(name, func(t *testing.T) {
			id := mustObject(t, c.in)
			if id.String() != c.out {
				t.Errorf("it is written %q", id)
			}
			content, compressed, ok := id.Content()
			if ok != (c.content != "") || content.String() != c.content || compressed != c.compressed {
				t.Errorf("its content is %s, %v, %v", content, compressed, ok)
			}
			list, ok := id.List()
			if ok != (c.list != "") || list.String() != c.list {
				t.Errorf("its list is %s, %v", list, ok)
			}
			if ok {
				if again, err := ListedObject(list); err != nil || again != id {
					t.Errorf("what it lists is %s, %v", again, err)
				}
			}
		})
	}
	for _, s := range []string{"", "I", "Z", "D", "IZ" + someHash, "a" + someHash, "kk" + someHash, someHash + "0", "x", "I" + someHash + "zz", strings.Repeat("I", 9) + someHash, "ZI" + someHash} {
		if id, err := ParseObjectID(s); err == nil {
			t.Errorf("%q is taken for %s", s, id)
		}
	}
}

func TestAnObjectWithoutANameIsAnEmptyText(t *testing.T) {
	var e struct {
		Obj ObjectID `json:"obj"`
	}
	raw, err := json.Marshal(e)
	if err != nil || string(raw) != `{"obj":""}` {
		t.Fatal(string(raw), err)
	}
	e.Obj = mustObject(t, someHash)
	if err := json.Unmarshal(raw, &e); err != nil || e.Obj != (ObjectID{}) {
		t.Errorf("it is read as %s, %v", e.Obj, err)
	}
	if _, _, ok := e.Obj.Content(); ok {
		t.Error("it has a content")
	}
	if err := json.Unmarshal([]byte(`{"obj":"nothing"}`), &e); err == nil {
		t.Error("any text is an object")
	}
}

func FuzzObjectID(f *testing.F) {
	for _, s := range []string{"", "IIx" + someHash, "Z" + someHash, "Dk00"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		id, err := ParseObjectID(s)
		if err != nil {
			return
		}
		if again, err := ParseObjectID(id.String()); err != nil || again != id || id == (ObjectID{}) {
			t.Errorf("%q is %s, and that is %s: %v", s, id, again, err)
		}
	})
}

// A list must be kopia's to the byte: a file of which nothing changed has the name that it had.
func TestListsAreWrittenAsKopiaDoes(t *testing.T) {
	raw, err := EncodeParts([]Part{{Length: 5, Object: mustObject(t, someHash)}, {Start: 5, Length: 7, Object: mustObject(t, "Ix"+someHash)}})
	want := `{"stream":"kopia:indirect","entries":[{"l":5,"o":"` + someHash + `"},{"s":5,"l":7,"o":"Ix` + someHash + `"}]}` + "\n"
	if err != nil || string(raw) != want {
		t.Errorf("%s, %v", raw, err)
	}
}

func TestListsAreReadBack(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var parts []Part
		at := int64(0)
		for _, n := range rapid.SliceOfN(rapid.Int64Range(0, 1<<40), 1, 20).Draw(t, "lengths") {
			parts = append(parts, Part{Start: at, Length: n, Object: mustObject(t, rapid.SampledFrom([]string{someHash, "Ix" + someHash}).Draw(t, "object"))})
			at += n
		}
		raw, err := EncodeParts(parts)
		if err != nil {
			t.Fatal(err)
		}
		got, err := decodeParts(raw)
		if err != nil || len(got) != len(parts) {
			t.Fatalf("%d parts, %v", len(got), err)
		}
		for i := range got {
			if got[i] != parts[i] {
				t.Errorf("part %d is %+v and was %+v", i, got[i], parts[i])
			}
		}
		i := rapid.IntRange(0, len(parts)-1).Draw(t, "spoilt")
		parts[i].Start++
		if raw, err = EncodeParts(parts); err != nil {
			t.Fatal(err)
		}
		if _, err := decodeParts(raw); err == nil {
			t.Errorf("a hole before part %d is not seen", i)
		}
	})
}

func TestWhatIsNoListIsRefused(t *testing.T) {
	for name, raw := range map[string]string{
		"another stream":        `{"stream":"kopia:directory","entries":[{"l":5,"o":"` + someHash + `"}]}`,
		"no parts":              `{"stream":"kopia:indirect","entries":[]}`,
		"no JSON":               `{"stream":`,
		"a part without a name": `{"stream":"kopia:indirect","entries":[{"l":5}]}`,
		"a length below zero":   `{"stream":"kopia:indirect","entries":[{"l":-5,"o":"` + someHash + `"}]}`,
		"more than there can be": `{"stream":"kopia:indirect","entries":[{"l":9223372036854775807,"o":"` + someHash + `"},{"s":9223372036854775807,"l":9223372036854775807,"o":"` +
			someHash + `"}]}`,
	} {
		if got, err := decodeParts([]byte(raw)); err == nil {
			t.Errorf("%s is read as %+v", name, got)
		}
	}
}
