package chart

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/install"
	v1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	crdvalidation "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/validation"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/cel"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/listtype"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/pruning"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/validation"
	"k8s.io/apimachinery/pkg/runtime"
	utiljson "k8s.io/apimachinery/pkg/util/json"
	"k8s.io/apimachinery/pkg/util/validation/field"
	celconfig "k8s.io/apiserver/pkg/apis/cel"
	"sigs.k8s.io/yaml"
)

var scheme = func() *runtime.Scheme {
	s := runtime.NewScheme()
	install.Install(s)
	return s
}()

func crdFiles(t *testing.T) []string {
	files, err := filepath.Glob(crdDir + "/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no CRDs in %s: %v", crdDir, err)
	}
	return files
}

func read(t *testing.T, file string) string {
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// The chart has what the folder has, and nothing is lost on the way but comments; Helm keeps them when the release goes.
func TestCRDs(t *testing.T) {
	all := objects(t, render(t))
	rendered := 0
	for _, o := range all {
		if o["kind"] == "CustomResourceDefinition" {
			rendered++
		}
	}
	files := crdFiles(t)
	if rendered != len(files) {
		t.Errorf("%d CRDs in the chart, %d in %s", rendered, len(files), crdDir)
	}
	var may []string
	for _, rule := range list(find(all, "ClusterRole", "weft-controller")["rules"]) {
		if fmt.Sprint(at(rule, "apiGroups")) == "[weft.dev]" {
			may = append(may, texts(at(rule, "resources"))...)
		}
	}
	for _, file := range files {
		source := objects(t, read(t, file))[0]
		name := fmt.Sprint(at(source, "metadata", "name"))
		o := find(all, "CustomResourceDefinition", name)
		if !reflect.DeepEqual(o["spec"], source["spec"]) {
			t.Errorf("%s differs from %s", name, file)
		}
		if annotations(o)["helm.sh/resource-policy"] != "keep" {
			t.Errorf("%s: goes with the release, and everybody's objects with it", name)
		}
		labels, _ := at(source, "metadata", "labels").(object)
		for k, v := range labels {
			if at(o, "metadata", "labels", k) != v {
				t.Errorf("%s: label %s is lost", name, k)
			}
		}
		plural := fmt.Sprint(at(source, "spec", "names", "plural"))
		if s := strings.Join(may, " "); !strings.Contains(" "+s+" ", " "+plural+" ") || !strings.Contains(" "+s+" ", " "+plural+"/status ") {
			t.Errorf("the controller may not read %s or write their status: %s", plural, s)
		}
	}
}

// kind is what the API server makes of one version of a CRD.
type kind struct {
	openapi    validation.SchemaValidator
	structural *schema.Structural
	cel        *cel.Validator
}

// kinds reads the CRDs as the API server does, which compiles the CEL rules and bounds their cost.
func kinds(t *testing.T) map[string]kind {
	out := map[string]kind{}
	for _, file := range crdFiles(t) {
		var versioned v1.CustomResourceDefinition
		if err := yaml.UnmarshalStrict([]byte(read(t, file)), &versioned); err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		scheme.Default(&versioned)
		var crd apiextensions.CustomResourceDefinition
		if err := scheme.Convert(&versioned, &crd, nil); err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		for _, v := range crd.Spec.Versions {
			if v.Storage {
				crd.Status.StoredVersions = []string{v.Name}
			}
		}
		if errs := crdvalidation.ValidateCustomResourceDefinition(context.Background(), &crd); len(errs) > 0 {
			t.Errorf("%s: the API server refuses it: %v", file, errs.ToAggregate())
			continue
		}
		for _, v := range versioned.Spec.Versions {
			var props apiextensions.JSONSchemaProps
			if err := scheme.Convert(v.Schema.OpenAPIV3Schema, &props, nil); err != nil {
				t.Fatal(err)
			}
			structural, err := schema.NewStructural(&props)
			if err != nil {
				t.Fatal(err)
			}
			openapi, _, err := validation.NewSchemaValidator(&props)
			if err != nil {
				t.Fatal(err)
			}
			out[crd.Spec.Group+"/"+v.Name+" "+crd.Spec.Names.Kind] = kind{openapi, structural, cel.NewValidator(structural, true, celconfig.PerCallLimit)}
		}
	}
	return out
}

// judge says what the API server would of a new object, with strict field validation as kubectl asks for.
func (k kind) judge(o object) (errs field.ErrorList) {
	pruned := runtime.DeepCopyJSON(o)
	for _, unknown := range pruning.PruneWithOptions(pruned, k.structural, true, schema.UnknownFieldPathOptions{TrackUnknownFieldPaths: true}) {
		errs = append(errs, field.Forbidden(field.NewPath(unknown), "unknown field"))
	}
	errs = append(errs, validation.ValidateCustomResource(nil, o, k.openapi)...)
	errs = append(errs, listtype.ValidateListSetsAndMaps(nil, k.structural, o)...)
	if len(errs) == 0 { // the API server asks CEL only about objects of the right shape
		rules, _ := k.cel.Validate(context.Background(), nil, k.structural, o, nil, celconfig.RuntimeCELCostBudget)
		errs = append(errs, rules...)
	}
	return errs
}

// Objects of testdata/objects: one that begins with "# refused: TEXT" must be refused with that text, any other must be taken; and so must those of examples.
func TestObjects(t *testing.T) {
	known := kinds(t)
	examples, _ := filepath.Glob("../../examples/*/*.yaml")
	own, _ := filepath.Glob("testdata/objects/*.yaml")
	refused := regexp.MustCompile(`(?m)^# refused: (.*)$`)
	good, bad := map[string]int{}, map[string]int{}
	for _, file := range append(own, examples...) {
		for i, text := range strings.Split("\n"+read(t, file), "\n---") {
			var o object
			if err := yaml.UnmarshalStrict([]byte(text), &o); err != nil {
				t.Fatalf("%s, document %d: %v", file, i+1, err)
			}
			k, ours := known[fmt.Sprintf("%v %v", o["apiVersion"], o["kind"])]
			if !ours {
				// a kind of later: said, not failed
				if o != nil && strings.Contains(file, "testdata") {
					t.Logf("%s, document %d: no CRD for %v", file, i+1, o["kind"])
				}
				continue
			}
			// as from the wire: whole numbers, not floats
			json, err := yaml.YAMLToJSON([]byte(text))
			if err != nil {
				t.Fatal(err)
			}
			o = decode(t, json)
			errs := k.judge(o)
			says := refused.FindStringSubmatch(text)
			switch {
			case says == nil && len(errs) > 0:
				t.Errorf("%s, document %d (%v): refused: %v", file, i+1, at(o, "metadata", "name"), errs.ToAggregate())
			case says != nil && len(errs) == 0:
				t.Errorf("%s, document %d (%v): taken", file, i+1, at(o, "metadata", "name"))
			case says != nil && !strings.Contains(errs.ToAggregate().Error(), says[1]):
				t.Errorf("%s, document %d (%v): %q is missing in %v", file, i+1, at(o, "metadata", "name"), says[1], errs.ToAggregate())
			}
			if says == nil {
				good[fmt.Sprint(o["kind"])]++
			} else {
				bad[fmt.Sprint(o["kind"])]++
			}
		}
	}
	for name := range known {
		_, k, _ := strings.Cut(name, " ")
		t.Logf("%s: %d good objects, %d bad", k, good[k], bad[k])
		if good[k] == 0 || bad[k] == 0 {
			t.Errorf("testdata/objects has %d good and %d bad objects of kind %s", good[k], bad[k], k)
		}
	}
}

func decode(t *testing.T, json []byte) object {
	o := object{}
	if err := utiljson.Unmarshal(json, &o); err != nil {
		t.Fatal(err)
	}
	return o
}
