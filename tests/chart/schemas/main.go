// Command schemas turns Kubernetes' OpenAPI document into one JSON schema a kind, as kubeconform reads them:
//
//	schemas SWAGGER FOLDER
//
// kubeconform downloads such files; here they come from the Go module k8s.io/kubernetes, which has the document of every release in
// api/openapi-spec/swagger.json. Each file carries the definitions that its kind reaches, and objects are closed: an unknown field is a mistake.
package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

type object = map[string]any

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: schemas SWAGGER FOLDER")
		os.Exit(2)
	}
	if err := run(os.Args[1], os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, "schemas:", err)
		os.Exit(1)
	}
}

func run(swagger, folder string) error {
	text, err := os.ReadFile(swagger)
	if err != nil {
		return err
	}
	var document struct{ Definitions map[string]object }
	if err := json.Unmarshal(text, &document); err != nil {
		return fmt.Errorf("%s: %w", swagger, err)
	}
	for _, d := range document.Definitions {
		closed(d)
	}
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return err
	}
	written := 0
	for name, d := range document.Definitions {
		kinds, _ := d["x-kubernetes-group-version-kind"].([]any)
		if len(kinds) != 1 {
			continue // DeleteOptions and the like belong to every group: nobody writes one into a manifest
		}
		k := kinds[0].(object)
		reached := map[string]object{}
		reach(document.Definitions, name, reached)
		schema, err := json.Marshal(object{"$schema": "http://json-schema.org/draft-07/schema#", "$ref": "#/definitions/" + name, "definitions": reached})
		if err != nil {
			return err
		}
		// kubeconform's {{ .ResourceKind }}{{ .KindSuffix }}: of the group only the first label, none for the core group
		suffix := "-" + k["version"].(string)
		if group, _, _ := strings.Cut(k["group"].(string), "."); group != "" {
			suffix = "-" + group + suffix
		}
		file := strings.ToLower(k["kind"].(string)) + suffix + ".json"
		if err := os.WriteFile(filepath.Join(folder, file), schema, 0o644); err != nil {
			return err
		}
		written++
	}
	fmt.Printf("%d schemas in %s\n", written, folder)
	return nil
}

// closed refuses unknown fields of d, and mends the two types for which the document says less than the API server takes.
func closed(d object) {
	if p, ok := d["properties"].(object); ok {
		if _, open := d["additionalProperties"]; !open {
			d["additionalProperties"] = false
		}
		for _, v := range p {
			closed(v.(object))
		}
	}
	for _, inner := range []string{"items", "additionalProperties"} {
		if v, ok := d[inner].(object); ok {
			closed(v)
		}
	}
	// Quantity and IntOrString are said to be strings and may be numbers.
	if text, _ := d["description"].(string); d["format"] == "int-or-string" || strings.HasPrefix(text, "Quantity is a fixed-point") {
		d["type"] = []any{"string", "number"}
		delete(d, "format")
	}
}

// reach adds the definition and all that it refers to.
func reach(all map[string]object, name string, into map[string]object) {
	if _, seen := into[name]; seen {
		return
	}
	into[name] = all[name]
	var walk func(any)
	walk = func(v any) {
		switch v := v.(type) {
		case object:
			if ref, ok := v["$ref"].(string); ok {
				reach(all, strings.TrimPrefix(ref, "#/definitions/"), into)
			}
			for _, inner := range v {
				walk(inner)
			}
		case []any:
			for _, inner := range v {
				walk(inner)
			}
		}
	}
	walk(all[name])
}
