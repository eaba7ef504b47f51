// Package chart tests charts/weft: what it renders, what it refuses, and that the API server would take it. The programs helm and kubeconform and the schemas come from
// tests/tools/deps.sh chart. Update the golden renders and the table of values in docs/install.md with: go test . -update
package chart

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"
)

var update = flag.Bool("update", false, "write the golden renders and the table of values anew")

const (
	chartDir  = "../../charts/weft"
	crdDir    = "../../api/crds/weft.dev"
	namespace = "weft-system"
)

// The renders that are kept. The first argument is what the case is for.
var cases = map[string][]string{
	"default": {},
	"ha":      {"-f", chartDir + "/values-ha.yaml"},
	"options": {"-f", "testdata/values/options.yaml"},
	"minimal": {"-f", "testdata/values/minimal.yaml"},
}

type object = map[string]any

// helm runs helm and gives both outputs. The warning about the link to the CRDs says nothing new.
func helm(t *testing.T, args ...string) (stdout, stderr string, err error) {
	t.Helper()
	var out, errs bytes.Buffer
	c := exec.Command("helm", args...)
	home := t.TempDir()
	c.Env = append(os.Environ(), "HELM_CACHE_HOME="+home, "HELM_CONFIG_HOME="+home, "HELM_DATA_HOME="+home, "KUBECONFIG="+home+"/none")
	c.Stdout, c.Stderr = &out, &errs
	err = c.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatalf("helm: %v: run tests/tools/deps.sh chart", err)
	}
	lines := slices.DeleteFunc(strings.Split(errs.String(), "\n"), func(l string) bool { return strings.Contains(l, "found symbolic link in path") })
	return out.String(), strings.Join(lines, "\n"), err
}

func render(t *testing.T, args ...string) string {
	t.Helper()
	out, errs, err := helm(t, append([]string{"template", "weft", chartDir, "-n", namespace}, args...)...)
	if err != nil || strings.TrimSpace(errs) != "" {
		t.Fatalf("helm template %v: %v\n%s", args, err, errs)
	}
	return out
}

func objects(t *testing.T, rendered string) []object {
	t.Helper()
	var all []object
	for _, text := range strings.Split("\n"+rendered, "\n---") {
		var o object
		if err := yaml.UnmarshalStrict([]byte(text), &o); err != nil {
			t.Fatalf("%v in\n%s", err, text)
		}
		if o != nil {
			all = append(all, o)
		}
	}
	return all
}

// at walks maps; nil where there is nothing.
func at(v any, path ...string) any {
	for _, p := range path {
		m, _ := v.(object)
		v = m[p]
	}
	return v
}

func find(all []object, kind, name string) object {
	for _, o := range all {
		if o["kind"] == kind && at(o, "metadata", "name") == name {
			return o
		}
	}
	return nil
}

// golden compares with the kept text, or writes it.
func golden(t *testing.T, file, got string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got == string(want) {
		return
	}
	fresh := filepath.Join(t.TempDir(), "rendered")
	if err := os.WriteFile(fresh, []byte(got), 0o644); err != nil {
		t.Fatal(err)
	}
	diff, _ := exec.Command("diff", "-u", file, fresh).Output()
	t.Errorf("%s is not what is rendered now. If the change is meant: (cd tests/chart && go test . -update)\n%s", file, diff)
}

// The kinds of weft.dev are left out of the golden renders, as CRDs and in the controller's role: TestCRDs holds both to api/crds/weft.dev, and a kind more there
// is no change of the chart.
func TestGolden(t *testing.T) {
	kinds := regexp.MustCompile(`(?m)(^- apiGroups: \[weft\.dev\]\n  resources:\n)(  - .*\n)+`)
	for name, args := range cases {
		t.Run(name, func(t *testing.T) {
			rendered := render(t, append(args, "--set", "crds.install=false")...)
			golden(t, "testdata/golden/"+name+".yaml", kinds.ReplaceAllString(rendered, "$1  # the kinds of api/crds/weft.dev\n"))
		})
	}
}

func TestSameBytesEachTime(t *testing.T) {
	for name, args := range cases {
		if render(t, args...) != render(t, args...) {
			t.Errorf("%s: two renders differ", name)
		}
	}
}

func TestLint(t *testing.T) {
	for name, args := range cases {
		if out, errs, err := helm(t, append([]string{"lint", "--strict", chartDir, "-n", namespace}, args...)...); err != nil {
			t.Errorf("%s: %v\n%s%s", name, err, out, errs)
		}
	}
}

// Every object has a schema of Kubernetes and keeps it. The Prometheus operator's kinds are the exception: their schemas are its own.
func TestKubeconform(t *testing.T) {
	cache := os.Getenv("WEFT_CACHE")
	if cache == "" {
		home, err := os.UserHomeDir()
		if err != nil {
			t.Fatal(err)
		}
		cache = filepath.Join(home, ".cache/weft")
	}
	schemas := filepath.Join(cache, "kubernetes-schemas")
	if _, err := os.Stat(schemas); err != nil {
		t.Fatalf("%v: run tests/tools/deps.sh chart", err)
	}
	for name, args := range cases {
		c := exec.Command("kubeconform", "-strict", "-summary", "-skip", "ServiceMonitor,PodMonitor", "-schema-location", schemas+"/{{.ResourceKind}}{{.KindSuffix}}.json", "-")
		c.Stdin = strings.NewReader(render(t, args...))
		if out, err := c.CombinedOutput(); err != nil {
			t.Errorf("%s: %v\n%s", name, err, out)
		}
	}
}

func TestEveryObjectHasItsPlace(t *testing.T) {
	cluster := []string{"ClusterRole", "ClusterRoleBinding", "CustomResourceDefinition", "MutatingWebhookConfiguration"}
	for name, args := range cases {
		seen := map[string]bool{}
		for _, o := range objects(t, render(t, args...)) {
			kind, id := o["kind"].(string), fmt.Sprintf("%s %s", o["kind"], at(o, "metadata", "name"))
			if seen[id] {
				t.Errorf("%s: %s twice", name, id)
			}
			seen[id] = true
			if ns, _ := at(o, "metadata", "namespace").(string); slices.Contains(cluster, kind) != (ns == "") || (ns != "" && ns != namespace) {
				t.Errorf("%s: %s is in namespace %q", name, id, ns)
			}
			for _, label := range []string{"name", "instance", "component", "part-of", "version", "managed-by"} {
				if at(o, "metadata", "labels", "app.kubernetes.io/"+label) == nil {
					t.Errorf("%s: %s has no label app.kubernetes.io/%s", name, id, label)
				}
			}
			for annotation := range annotations(o) {
				if strings.HasPrefix(annotation, "helm.sh/hook") {
					t.Errorf("%s: %s is a hook", name, id)
				}
			}
			switch kind {
			case "Namespace", "Secret", "GatewayClass", "XMesh", "Job":
				t.Errorf("%s: %s is not for the chart to make", name, id)
			}
			if group := fmt.Sprint(at(o, "spec", "group")); kind == "CustomResourceDefinition" && group != "weft.dev" {
				t.Errorf("%s: %s belongs to the user", name, id)
			}
		}
	}
}

func annotations(o object) object {
	a, _ := at(o, "metadata", "annotations").(object)
	return a
}

// The chart, the programs and the images have one version.
func TestVersion(t *testing.T) {
	cargo, err := os.ReadFile("../../Cargo.toml")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(cargo), "[workspace.package]")
	_, rest, _ = strings.Cut(rest, "\nversion = \"")
	version, _, _ := strings.Cut(rest, "\"")
	var chart object
	text, err := os.ReadFile(chartDir + "/Chart.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if err := yaml.Unmarshal(text, &chart); err != nil {
		t.Fatal(err)
	}
	if chart["version"] != version || chart["appVersion"] != version {
		t.Errorf("Chart.yaml has %v and %v, Cargo.toml %q", chart["version"], chart["appVersion"], version)
	}
}

// A packaged chart has everything: helm follows the link to the CRDs.
func TestPackage(t *testing.T) {
	dir := t.TempDir()
	if out, errs, err := helm(t, "package", chartDir, "-d", dir); err != nil {
		t.Fatalf("%v\n%s%s", err, out, errs)
	}
	packages, _ := filepath.Glob(dir + "/*.tgz")
	if len(packages) != 1 {
		t.Fatalf("%v", packages)
	}
	out, errs, err := helm(t, "template", "weft", packages[0], "-n", namespace)
	if err != nil {
		t.Fatalf("%v\n%s", err, errs)
	}
	if out != render(t) {
		t.Error("the package renders something else than the folder")
	}
}

// What is printed after an installation, read with and without the Gateway API. Helm prints notes only when it reaches a cluster, so the text is rendered as a template.
func TestNotes(t *testing.T) {
	dir := t.TempDir()
	text := read(t, chartDir+"/templates/NOTES.txt")
	shown := "kind: ConfigMap\napiVersion: v1\nmetadata:\n  name: notes\ndata:\n  notes: |\n    {{- include \"notes\" . | nindent 4 }}\n"
	for file, content := range map[string]string{
		"templates/notes.yaml": "{{- define \"notes\" }}" + text + "{{- end }}\n" + shown,
		"values.yaml":          read(t, chartDir+"/values.yaml"),
		"Chart.yaml":           "apiVersion: v2\nname: weft\nversion: 0.1.0\nappVersion: 0.1.0\n",
	} {
		if err := os.MkdirAll(filepath.Join(dir, "templates"), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, file), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	notes := func(args ...string) string {
		out, errs, err := helm(t, append([]string{"template", "weft", dir, "-n", namespace, "-s", "templates/notes.yaml"}, args...)...)
		if err != nil {
			t.Fatalf("%v\n%s", err, errs)
		}
		return fmt.Sprint(at(objects(t, out)[0], "data", "notes"))
	}
	standard, experimental := []string{"--api-versions", "gateway.networking.k8s.io/v1/HTTPRoute"}, []string{"--api-versions", "gateway.networking.x-k8s.io/v1alpha1/XMesh"}
	for _, c := range []struct {
		name       string
		args       []string
		has, lacks []string
	}{
		{"bare", nil, []string{"kubectl label namespace NAMESPACE weft.dev/inject=enabled", "weft check", "kinds are missing", "Single replica: ca, controller, injector"}, []string{"Ignore"}},
		{"standard", standard, []string{"standard channel", "TrafficPolicy"}, []string{"kinds are missing"}},
		{"experimental", append(standard, experimental...), nil, []string{"standard channel", "kinds are missing"}},
		{"ha", []string{"-f", chartDir + "/values-ha.yaml"}, nil, []string{"Single replica"}},
		{"open", []string{"--set", "injector.failurePolicy=Ignore,crds.install=false,ca.replicas=2"}, []string{"is Ignore", "Single replica: controller, injector", "crds.install is false"}, nil},
	} {
		got := notes(c.args...)
		for _, want := range c.has {
			if !strings.Contains(got, want) {
				t.Errorf("%s: %q is missing in\n%s", c.name, want, got)
			}
		}
		for _, never := range c.lacks {
			if strings.Contains(got, never) {
				t.Errorf("%s: %q is in\n%s", c.name, never, got)
			}
		}
	}
}
