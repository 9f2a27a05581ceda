package plan

import (
	"encoding/json"
	"maps"
)

// SchemaFile is the name under which a plan's first line looks for the schema.
const SchemaFile = "holdfast.schema.json"

// Schema is the JSON Schema (draft 2020-12) of the plan file, for editors. It is made from the forms that
// [Parse] reads with, so it knows the same keys. What no schema can say (clashes, references, counts that
// depend on each other) is left to Parse.
func Schema() []byte {
	s := maps.Clone(document("").schema)
	s["$schema"] = "https://json-schema.org/draft/2020-12/schema"
	s["title"] = "holdfast.yaml, the plan of an application"
	out, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		panic("plan: the schema is not JSON: " + err.Error()) // it holds only maps, texts and numbers
	}
	return append(out, '\n')
}
