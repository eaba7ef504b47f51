package chart

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"

	yamlv3 "gopkg.in/yaml.v3"
)

// Values that must be refused, and what must be said.
func TestRefusedValues(t *testing.T) {
	for _, c := range []struct{ values, says string }{
		{`{"replicas": 3}`, "additional properties 'replicas' not allowed"},
		{`{"controler": {"replicas": 3}}`, "additional properties 'controler' not allowed"},
		{`{"controller": {"replica": 3}}`, "at '/controller': additional properties 'replica' not allowed"},
		{`{"controller": {"replicas": "3"}}`, "at '/controller/replicas': got string, want integer"},
		{`{"controller": {"replicas": 0}}`, "at '/controller/replicas': minimum: got 0, want 1"},
		{`{"controller": {"replicas": 1.5}}`, "at '/controller/replicas': got number, want integer"},
		{`{"ca": {"leafLifetime": "one day"}}`, "at '/ca/leafLifetime'"},
		{`{"ca": {"leafLifetime": 24}}`, "at '/ca/leafLifetime': got number, want string"},
		{`{"ca": {"resources": {"request": {"cpu": "1"}}}}`, "at '/ca/resources': additional properties 'request' not allowed"},
		{`{"ca": {"resources": {"requests": {"cpu": [1]}}}}`, "at '/ca/resources/requests/cpu'"},
		{`{"ca": {"securityContext": {"runAsUser": 0}}}`, "additional properties 'securityContext' not allowed"},
		{`{"ca": {"tolerations": {"key": "x"}}}`, "at '/ca/tolerations': got object, want array"},
		{`{"ca": {"tolerations": [{"keys": "x"}]}}`, "at '/ca/tolerations/0': additional properties 'keys' not allowed"},
		{`{"ca": {"nodeSelector": {"a": 1}}}`, "at '/ca/nodeSelector/a': got number, want string"},
		{`{"ca": {"podAnnotations": {"a": true}}}`, "at '/ca/podAnnotations/a': got boolean, want string"},
		{`{"ca": {"affinity": {"podAntiAfinity": {}}}}`, "at '/ca/affinity': additional properties 'podAntiAfinity' not allowed"},
		{`{"ca": {"topologySpreadConstraints": [{"topologyKey": "zone"}]}}`, "missing properties 'maxSkew', 'whenUnsatisfiable'"},
		{`{"ca": {"extraEnv": [{"value": "x"}]}}`, "missing property 'name'"},
		{`{"ca": {"extraArgs": "--leaf 1h"}}`, "at '/ca/extraArgs': got string, want array"},
		{`{"injector": {"failurePolicy": "fail"}}`, "at '/injector/failurePolicy': value must be one of 'Fail', 'Ignore'"},
		{`{"injector": {"timeoutSeconds": 30}}`, "at '/injector/timeoutSeconds': maximum: got 30, want 10"},
		{`{"injector": {"excludedNamespaces": ["Shop"]}}`, "at '/injector/excludedNamespaces/0'"},
		{`{"injector": {"excludedNamespaces": "shop"}}`, "at '/injector/excludedNamespaces': got string, want array"},
		{`{"trustDomain": "https://x"}`, "at '/trustDomain'"},
		{`{"trustDomain": ""}`, "at '/trustDomain'"},
		{`{"image": {"pullPolicy": "Sometimes"}}`, "at '/image/pullPolicy': value must be one of 'Always', 'IfNotPresent', 'Never'"},
		{`{"image": {"tag": 1.2}}`, "at '/image/tag': got number, want string"},
		{`{"image": {"registry": "r.example.org/"}}`, "at '/image/registry'"},
		{`{"image": {"control": {"digest": "sha256:12"}}}`, "at '/image/control/digest'"},
		{`{"image": {"pullSecrets": [{"name": "x"}]}}`, "at '/image/pullSecrets/0': got object, want string"},
		{`{"log": {"json": "yes"}}`, "at '/log/json': got string, want boolean"},
		{`{"crds": {"enabled": true}}`, "at '/crds': additional properties 'enabled' not allowed"},
		{`{"networkPolicy": {"adminFrom": [{"namespace": "x"}]}}`, "at '/networkPolicy/adminFrom/0'"},
		{`{"proxy": {"resources": {"requests": {"memory": "64 Mi"}}}}`, "at '/proxy/resources/requests/memory'"},
		{`{"proxy": {"resources": {"limits": {"gpu": 1}}}}`, "at '/proxy/resources/limits': additional properties 'gpu' not allowed"},
		{`{"proxy": {"logLevel": 3}}`, "at '/proxy/logLevel': got number, want string"},
		{`{"monitoring": {"enabled": "true"}}`, "at '/monitoring/enabled': got string, want boolean"},
		{`{"monitoring": {"interval": "soon"}}`, "at '/monitoring/interval'"},
		{`{"monitoring": {"labels": {"a": {}}}}`, "at '/monitoring/labels/a': got object, want string"},
	} {
		file := t.TempDir() + "/values.json"
		if err := os.WriteFile(file, []byte(c.values), 0o644); err != nil {
			t.Fatal(err)
		}
		out, errs, err := helm(t, "template", "weft", chartDir, "-n", namespace, "-f", file)
		if err == nil {
			t.Errorf("%s was taken", c.values)
		} else if !strings.Contains(errs, c.says) {
			t.Errorf("%s: %q is missing in\n%s%s", c.values, c.says, out, errs)
		}
	}
}

func TestRefusedNamespaces(t *testing.T) {
	for _, ns := range []string{"default", "kube-system", "kube-public", "kube-node-lease"} {
		if _, errs, err := helm(t, "template", "weft", chartDir, "-n", ns); err == nil || !strings.Contains(errs, "add --namespace weft-system --create-namespace") {
			t.Errorf("%s: %v %s", ns, err, errs)
		}
	}
}

// Every value of values.yaml is in the schema and every key of the schema is in values.yaml.
func TestSchemaAndValuesAgree(t *testing.T) {
	text, err := os.ReadFile(chartDir + "/values.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	var schema object
	if err := json.Unmarshal(text, &schema); err != nil {
		t.Fatal(err)
	}
	keys := map[string]bool{}
	var walk func(prefix string, s object)
	walk = func(prefix string, s object) {
		if ref, ok := s["$ref"].(string); ok {
			s = at(schema, strings.Split(strings.TrimPrefix(ref, "#/"), "/")...).(object)
		}
		properties, _ := s["properties"].(object)
		if properties == nil || prefix != "" && leaf(prefix) {
			keys[prefix] = true
			return
		}
		if s["additionalProperties"] != false {
			t.Errorf("%s takes unknown keys", prefix)
		}
		for k, v := range properties {
			if k != "global" {
				walk(strings.TrimPrefix(prefix+"."+k, "."), v.(object))
			}
		}
	}
	walk("", schema)
	for _, v := range values(t) {
		if !keys[v.key] {
			t.Errorf("%s is not in values.schema.json", v.key)
		}
		delete(keys, v.key)
		if v.about == "" {
			t.Errorf("%s has no comment in values.yaml", v.key)
		}
	}
	for k := range keys {
		if k != "" {
			t.Errorf("%s is not in values.yaml", k)
		}
	}
}

// leaf says whether a value is given as a whole.
func leaf(key string) bool {
	return strings.HasSuffix(key, ".resources") || strings.HasSuffix(key, ".affinity")
}

type value struct{ key, standard, about string }

// values reads values.yaml with its comments.
func values(t *testing.T) (all []value) {
	text, err := os.ReadFile(chartDir + "/values.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var document yamlv3.Node
	if err := yamlv3.Unmarshal(text, &document); err != nil {
		t.Fatal(err)
	}
	var walk func(prefix string, n *yamlv3.Node)
	walk = func(prefix string, n *yamlv3.Node) {
		for i := 0; i+1 < len(n.Content); i += 2 {
			k, v := n.Content[i], n.Content[i+1]
			key := strings.TrimPrefix(prefix+"."+k.Value, ".")
			if v.Kind == yamlv3.MappingNode && len(v.Content) > 0 && !leaf(key) {
				walk(key, v)
				continue
			}
			var plain any
			if err := v.Decode(&plain); err != nil {
				t.Fatal(err)
			}
			shown, err := json.Marshal(plain)
			if err != nil {
				t.Fatal(err)
			}
			comment := k.HeadComment
			// the comment on the whole file stands before the first key
			if at := strings.LastIndex(comment, "\n\n"); at >= 0 {
				comment = comment[at+2:]
			}
			about := strings.ReplaceAll(strings.TrimPrefix(comment, "# "), "\n# ", " ")
			all = append(all, value{key, string(shown), about})
		}
	}
	walk("", document.Content[0])
	return all
}

// docs/install.md has the table of values, made from values.yaml.
func TestTableOfValues(t *testing.T) {
	const file, begin, end = "../../docs/install.md", "<!-- values: made by tests/chart, from values.yaml -->\n", "<!-- end of values -->\n"
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok := strings.Cut(string(text), begin)
	_, after, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		t.Fatalf("%s has no place for the table", file)
	}
	table := "\n| Value | Default | |\n|---|---|---|\n"
	components := map[string][]string{}
	all := values(t)
	for _, v := range all {
		components[last(v)] = append(components[last(v)], v.key)
	}
	for _, v := range all {
		key := v.key
		// what all three have, with one default and one comment, is one line
		if same := components[last(v)]; len(same) == 3 {
			if key != same[0] {
				continue
			}
			first, _, _ := strings.Cut(key, ".")
			key = "{ca,controller,injector}" + strings.TrimPrefix(key, first)
		}
		table += fmt.Sprintf("| `%s` | `%s` | %s |\n", key, v.standard, strings.ReplaceAll(v.about, "|", "\\|"))
	}
	golden(t, file, before+begin+table+"\n"+end+after)
}

// last names what a value is, where it is the same in several components.
func last(v value) string {
	_, rest, ok := strings.Cut(v.key, ".")
	if !ok {
		return v.key
	}
	return rest + v.standard + v.about
}
