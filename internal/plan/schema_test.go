package plan

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
	"github.com/google/go-cmp/cmp"
)

func TestSchemaGolden(t *testing.T) { golden(t, "holdfast.schema.json", Schema()) }

// The parser and the schema know the same keys: for every mapping of the schema, the parser is given all of
// its keys and one more, and refuses that one alone, naming exactly the schema's as allowed.
func TestSchemaAndParserKnowTheSameKeys(t *testing.T) {
	var whole map[string]any
	if err := json.Unmarshal(Schema(), &whole); err != nil {
		t.Fatal(err)
	}
	mappings := 0
	var walk func(s map[string]any, path []string)
	walk = func(s map[string]any, path []string) {
		for _, alternative := range anySlice(s["oneOf"]) {
			walk(alternative.(map[string]any), path)
		}
		if each, ok := s["additionalProperties"].(map[string]any); ok {
			walk(each, append(slices.Clone(path), "x"))
		}
		properties, ok := s["properties"].(map[string]any)
		if !ok {
			return
		}
		mappings++
		keys := slices.Sorted(maps.Keys(properties))
		inner := []string{"zz-unknown: 1"}
		for _, k := range keys {
			inner = append(inner, k+": ")
			walk(properties[k].(map[string]any), append(slices.Clone(path), k))
		}
		text := "{ " + strings.Join(inner, ", ") + " }"
		for _, k := range slices.Backward(path) {
			text = "{ " + k + ": " + text + " }"
		}
		_, mistakes := Parse("x", []byte(text))
		var unknown [][]string
		for _, m := range mistakes {
			if strings.Contains(m.What, "unknown key") {
				_, allowed, _ := strings.Cut(m.What, "(allowed: ")
				unknown = append(unknown, slices.Sorted(slices.Values(strings.Split(strings.TrimSuffix(allowed, ")"), ", "))))
				if !strings.Contains(m.What, `"zz-unknown"`) {
					t.Errorf("%s: a key of the schema is unknown to the parser: %s", strings.Join(path, "."), m.What)
				}
			}
			if strings.Contains(m.What, "not available") {
				t.Errorf("%s: the schema knows a key that is not available: %s", strings.Join(path, "."), m.What)
			}
		}
		if diff := cmp.Diff([][]string{keys}, unknown); diff != "" {
			t.Errorf("%s: keys (-schema +parser):\n%s%v", strings.Join(path, "."), diff, mistakes)
		}
	}
	walk(whole, nil)
	if mappings < 12 {
		t.Errorf("walked %d mappings of the schema: too few to have seen them all", mappings)
	}
}

func TestSchemaTakesWhatTheParserTakes(t *testing.T) {
	p := examplePlan(t)
	shown, err := p.Show()
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string][]byte{"the example": p.Source, "the example with its defaults": shown} {
		if err := againstSchema(text); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestSchemaRefusesWhatItCan(t *testing.T) {
	for name, text := range map[string]string{
		"an unknown key":       threeHosts + "colour: red\n",
		"a missing key":        "application: clinic\n",
		"a port out of range":  threeHosts + "services: { w: { run: /bin/w, port: 99999 } }\n",
		"a literal secret":     threeHosts + "vaults: { v: { key: hunter2, copies: { x: file:///v } } }\n",
		"a wrong type":         threeHosts + "services: [w]\n",
		"a wrong word":         threeHosts + "objectives: { prefer: cost }\n",
		"a wrong schedule":     threeHosts + "backup: { r: { full: sometimes } }\n",
		"a wrong name":         threeHosts + "services: { Web: { run: /bin/w } }\n",
		"a check in two words": threeHosts + "services: { w: { run: /bin/w, ready: readyz } }\n",
	} {
		if againstSchema([]byte(text)) == nil {
			t.Errorf("the schema takes %s", name)
		}
	}
}

// The handbook's page names every key that a plan may have.
func TestHandbookNamesEveryKey(t *testing.T) {
	page, err := os.ReadFile(filepath.Join("..", "..", "docs", "handbook", "plan.md"))
	if err != nil {
		t.Fatal(err)
	}
	var whole map[string]any
	if err := json.Unmarshal(Schema(), &whole); err != nil {
		t.Fatal(err)
	}
	var walk func(v any)
	walk = func(v any) {
		switch v := v.(type) {
		case map[string]any:
			properties, _ := v["properties"].(map[string]any)
			for key := range properties {
				if !regexp.MustCompile("`[^`\n]*\\b" + key + "\\b[^`\n]*`|\\*\\*" + key + "\\.").Match(page) {
					t.Errorf("docs/handbook/plan.md does not name the key %s", key)
				}
			}
			for _, below := range v {
				walk(below)
			}
		case []any:
			for _, below := range v {
				walk(below)
			}
		}
	}
	walk(whole)
}

// againstSchema judges a YAML text by the schema: the part of JSON Schema that Schema uses.
func againstSchema(text []byte) error {
	var schema, value any
	if err := json.Unmarshal(Schema(), &schema); err != nil {
		return err
	}
	if err := yaml.Unmarshal(text, &value); err != nil {
		return err
	}
	raw, err := json.Marshal(value)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(raw, &value); err != nil {
		return err
	}
	return validate(schema.(map[string]any), value, "")
}

func validate(s map[string]any, value any, path string) error {
	if types := anySlice(s["type"]); len(types) > 0 && !slices.ContainsFunc(types, func(t any) bool { return isType(t.(string), value) }) {
		return fmt.Errorf("%s is %T, not %v", path, value, types)
	}
	for _, word := range []string{"oneOf", "anyOf"} {
		alternatives := anySlice(s[word])
		var errs []error
		for _, a := range alternatives {
			if err := validate(a.(map[string]any), value, path); err != nil {
				errs = append(errs, err)
			}
		}
		if fits := len(alternatives) - len(errs); len(alternatives) > 0 && (fits == 0 || word == "oneOf" && fits != 1) {
			return fmt.Errorf("%s fits %d of %d forms: %v", path, fits, len(alternatives), errs)
		}
	}
	switch v := value.(type) {
	case map[string]any:
		return validateMapping(s, v, path)
	case []any:
		if least, ok := s["minItems"].(float64); ok && len(v) < int(least) {
			return fmt.Errorf("%s has too few items", path)
		}
		for i, item := range v {
			if each, ok := s["items"].(map[string]any); ok {
				if err := validate(each, item, fmt.Sprintf("%s[%d]", path, i)); err != nil {
					return err
				}
			}
		}
	case string:
		if pattern, ok := s["pattern"].(string); ok && !regexp.MustCompile(pattern).MatchString(v) {
			return fmt.Errorf("%s: %q does not match %s", path, v, pattern)
		}
		if words := anySlice(s["enum"]); len(words) > 0 && !slices.Contains(words, any(v)) {
			return fmt.Errorf("%s: %q is none of %v", path, v, words)
		}
	case float64:
		if low, ok := s["minimum"].(float64); ok && v < low {
			return fmt.Errorf("%s: %v is below %v", path, v, low)
		}
		if high, ok := s["maximum"].(float64); ok && v > high {
			return fmt.Errorf("%s: %v is above %v", path, v, high)
		}
	}
	return nil
}

func validateMapping(s map[string]any, v map[string]any, path string) error {
	for _, k := range anySlice(s["required"]) {
		if _, there := v[k.(string)]; !there {
			return fmt.Errorf("%s.%s is missing", path, k)
		}
	}
	properties, _ := s["properties"].(map[string]any)
	for _, k := range slices.Sorted(maps.Keys(v)) {
		if names, ok := s["propertyNames"].(map[string]any); ok {
			if err := validate(names, k, path+" (a name)"); err != nil {
				return err
			}
		}
		below, ok := properties[k].(map[string]any)
		if !ok {
			if below, ok = s["additionalProperties"].(map[string]any); !ok {
				if s["additionalProperties"] != false {
					continue
				}
				return fmt.Errorf("%s.%s is not a key of the schema", path, k)
			}
		}
		if err := validate(below, v[k], path+"."+k); err != nil {
			return err
		}
	}
	return nil
}

func anySlice(v any) []any {
	switch v := v.(type) {
	case nil:
		return nil
	case []any:
		return v
	}
	return []any{v}
}

func isType(name string, v any) bool {
	switch v := v.(type) {
	case map[string]any:
		return name == "object"
	case []any:
		return name == "array"
	case string:
		return name == "string"
	case bool:
		return name == "boolean"
	case float64:
		return name == "number" || name == "integer" && v == float64(int(v))
	}
	return false
}
