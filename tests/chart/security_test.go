package chart

import (
	"fmt"
	"slices"
	"testing"
)

func texts(v any) (out []string) {
	list, _ := v.([]any)
	for _, x := range list {
		out = append(out, fmt.Sprint(x))
	}
	return out
}

func list(v any) []any {
	l, _ := v.([]any)
	return l
}

// What each component may do, as rules of RBAC never may. Each line is a promise of docs/install.md.
func TestLeastPrivilege(t *testing.T) {
	for name, args := range cases {
		all := objects(t, render(t, args...))
		for _, o := range all {
			kind := fmt.Sprint(o["kind"])
			if kind != "Role" && kind != "ClusterRole" {
				continue
			}
			role := fmt.Sprintf("%s: %s %s", name, kind, at(o, "metadata", "name"))
			for _, rule := range list(o["rules"]) {
				groups, resources, verbs, names := texts(at(rule, "apiGroups")), texts(at(rule, "resources")), texts(at(rule, "verbs")), texts(at(rule, "resourceNames"))
				for _, part := range [][]string{groups, resources, verbs} {
					if len(part) == 0 || slices.Contains(part, "*") {
						t.Errorf("%s: %v is empty or everything", role, rule)
					}
				}
				if at(rule, "nonResourceURLs") != nil {
					t.Errorf("%s: %v", role, rule)
				}
				for _, r := range resources {
					for _, v := range verbs {
						// in the whole cluster: read what routing needs, write statuses and Events, make the class and the mesh, ask about tokens, keep one webhook true
						write := !slices.Contains([]string{"get", "list", "watch"}, v)
						switch {
						case r == "secrets" && kind == "ClusterRole", r == "configmaps" && kind == "ClusterRole":
							t.Errorf("%s: %s %s in the whole cluster", role, v, r)
						case r == "secrets" && v != "create" && len(names) != 1:
							t.Errorf("%s: %s secrets without a name", role, v)
						case slices.Contains([]string{"delete", "deletecollection", "impersonate", "bind", "escalate", "approve", "sign"}, v):
							t.Errorf("%s: %s %s", role, v, r)
						case slices.Contains([]string{"pods/exec", "pods/portforward", "serviceaccounts/token", "nodes/proxy"}, r):
							t.Errorf("%s: %s", role, r)
						case kind == "ClusterRole" && write && !allowedWrite(v, r, names):
							t.Errorf("%s: %s %s in the whole cluster", role, v, r)
						}
					}
				}
			}
		}
		for _, binding := range []string{"RoleBinding", "ClusterRoleBinding"} {
			for _, component := range []string{"weft-ca", "weft-controller", "weft-injector"} {
				b := find(all, binding, component)
				subjects := list(b["subjects"])
				if len(subjects) != 1 || at(subjects[0], "kind") != "ServiceAccount" || at(subjects[0], "name") != component || at(subjects[0], "namespace") != namespace ||
					at(b, "roleRef", "name") != component {
					t.Errorf("%s: %s %s binds %v", name, binding, component, b)
				}
			}
		}
	}
}

func allowedWrite(verb, resource string, names []string) bool {
	switch {
	case len(resource) > 7 && resource[len(resource)-7:] == "/status":
		return verb == "patch" || verb == "update"
	case resource == "events":
		return verb == "create" || verb == "patch"
	case resource == "tokenreviews", resource == "gatewayclasses", resource == "xmeshes":
		return verb == "create"
	case resource == "mutatingwebhookconfigurations":
		return slices.Equal(names, []string{"weft-injector"}) && (verb == "patch" || verb == "update")
	}
	return false
}

// Only one component reads each Secret, and only the CA the key of the root.
func TestSecretsHaveOneReader(t *testing.T) {
	readers := map[string][]string{}
	for _, o := range objects(t, render(t, cases["options"]...)) {
		for _, rule := range list(o["rules"]) {
			if slices.Contains(texts(at(rule, "resources")), "secrets") {
				for _, n := range texts(at(rule, "resourceNames")) {
					readers[n] = append(readers[n], fmt.Sprint(at(o, "metadata", "name")))
				}
			}
		}
	}
	want := map[string][]string{"weft-ca": {"weft-ca"}, "company-root": {"weft-ca"}, "weft-injector-tls": {"weft-injector"}}
	if fmt.Sprint(readers) != fmt.Sprint(want) {
		t.Errorf("%v, want %v", readers, want)
	}
}

// The restricted profile of pod security, without exception, whatever the values say.
func TestRestrictedPods(t *testing.T) {
	for name, args := range cases {
		seen := 0
		for _, o := range objects(t, render(t, args...)) {
			if o["kind"] != "Deployment" {
				continue
			}
			seen++
			pod := at(o, "spec", "template", "spec")
			who := fmt.Sprintf("%s: %s", name, at(o, "metadata", "name"))
			for _, want := range []struct {
				path  []string
				value any
			}{
				{[]string{"securityContext", "runAsNonRoot"}, true},
				{[]string{"securityContext", "runAsUser"}, float64(65532)},
				{[]string{"securityContext", "seccompProfile", "type"}, "RuntimeDefault"},
				{[]string{"hostNetwork"}, nil},
				{[]string{"hostPID"}, nil},
				{[]string{"hostIPC"}, nil},
			} {
				if got := at(pod, want.path...); got != want.value {
					t.Errorf("%s: %v is %v", who, want.path, got)
				}
			}
			for _, v := range list(at(pod, "volumes")) {
				if at(v, "hostPath") != nil {
					t.Errorf("%s: %v", who, v)
				}
			}
			for _, c := range list(at(pod, "containers")) {
				if at(c, "securityContext", "allowPrivilegeEscalation") != false || at(c, "securityContext", "readOnlyRootFilesystem") != true ||
					!slices.Equal(texts(at(c, "securityContext", "capabilities", "drop")), []string{"ALL"}) || at(c, "securityContext", "capabilities", "add") != nil {
					t.Errorf("%s: %v", who, at(c, "securityContext"))
				}
				for _, field := range [][]string{{"resources", "requests", "cpu"}, {"resources", "limits", "memory"}, {"readinessProbe"}, {"livenessProbe"}} {
					if at(c, field...) == nil {
						t.Errorf("%s: no %v", who, field)
					}
				}
				if at(c, "resources", "limits", "cpu") != nil {
					t.Errorf("%s: a limit of CPU adds latency", who)
				}
			}
		}
		if seen != 3 {
			t.Errorf("%s: %d Deployments", name, seen)
		}
	}
}

// Who calls the injector, and what happens when it does not answer.
func TestWebhookSelects(t *testing.T) {
	hooks := list(at(find(objects(t, render(t)), "MutatingWebhookConfiguration", "weft-injector"), "webhooks"))
	if len(hooks) != 2 {
		t.Fatalf("%d webhooks", len(hooks))
	}
	for _, h := range hooks {
		for field, want := range map[string]any{"failurePolicy": "Fail", "sideEffects": "None", "reinvocationPolicy": "IfNeeded"} {
			if at(h, field) != want {
				t.Errorf("%v: %s is %v", at(h, "name"), field, at(h, field))
			}
		}
		if s, _ := at(h, "timeoutSeconds").(float64); s < 1 || s > 10 {
			t.Errorf("timeoutSeconds is %v", s)
		}
		if !slices.Equal(texts(at(h, "admissionReviewVersions")), []string{"v1"}) {
			t.Errorf("%v", at(h, "admissionReviewVersions"))
		}
		if _, has := at(h, "clientConfig").(object)["caBundle"]; has {
			t.Error("a caBundle in the chart would be put over the injector's at every upgrade")
		}
	}
	const none = ""
	for _, c := range []struct {
		namespace, label, pod string
		called                int
	}{
		{"shop", "enabled", none, 1},
		{"shop", "enabled", "enabled", 1},
		{"shop", "enabled", "disabled", 0},
		{"shop", none, none, 0},
		{"shop", none, "enabled", 1},
		{"shop", none, "disabled", 0},
		{"shop", "disabled", none, 0},
		{"shop", "disabled", "enabled", 1},
		{"shop", "disabled", "disabled", 0},
		{"shop", "yes", none, 0},
		{"shop", "yes", "enabled", 1},
		// refused with the reason, instead of running in plain text
		{"shop", none, "yes", 1},
		{"shop", "enabled", "yes", 1},
		{namespace, "enabled", "enabled", 0},
		{"kube-system", "enabled", "enabled", 0},
	} {
		labels := map[string]string{"kubernetes.io/metadata.name": c.namespace}
		pod := map[string]string{}
		if c.label != none {
			labels["weft.dev/inject"] = c.label
		}
		if c.pod != none {
			pod["weft.dev/inject"] = c.pod
		}
		called := 0
		for _, h := range hooks {
			if matches(t, at(h, "namespaceSelector"), labels) && matches(t, at(h, "objectSelector"), pod) {
				called++
			}
		}
		if called != c.called {
			t.Errorf("namespace %s labelled %q, pod labelled %q: called %d times, want %d", c.namespace, c.label, c.pod, called, c.called)
		}
	}
}

// matches is a label selector's meaning, for the operators that the chart uses.
func matches(t *testing.T, selector any, labels map[string]string) bool {
	for _, e := range list(at(selector, "matchExpressions")) {
		value, has := labels[fmt.Sprint(at(e, "key"))]
		in := has && slices.Contains(texts(at(e, "values")), value)
		switch at(e, "operator") {
		case "In":
			if !in {
				return false
			}
		case "NotIn":
			if in {
				return false
			}
		case "Exists":
			if !has {
				return false
			}
		default:
			t.Fatalf("operator %v", at(e, "operator"))
		}
	}
	return true
}

// Services, Deployments, NetworkPolicies and budgets are about the same pods and ports.
func TestTheSamePods(t *testing.T) {
	all := objects(t, render(t, cases["ha"]...))
	for component, port := range map[string]string{"weft-ca": "15010", "weft-controller": "15012", "weft-injector": "15017"} {
		deployment := find(all, "Deployment", component)
		labels := at(deployment, "spec", "template", "metadata", "labels")
		if replicas := at(deployment, "spec", "replicas"); replicas != float64(3) {
			t.Errorf("%s: %v replicas", component, replicas)
		}
		for kind, path := range map[string][]string{
			"Deployment":          {"spec", "selector", "matchLabels"},
			"Service":             {"spec", "selector"},
			"NetworkPolicy":       {"spec", "podSelector", "matchLabels"},
			"PodDisruptionBudget": {"spec", "selector", "matchLabels"},
		} {
			selector, _ := at(find(all, kind, component), path...).(object)
			if len(selector) == 0 {
				t.Errorf("%s: %s selects everything or is missing", component, kind)
			}
			for k, v := range selector {
				if at(labels, k) != v {
					t.Errorf("%s: %s selects %s=%v", component, kind, k, v)
				}
			}
		}
		named := map[string]string{}
		for _, p := range list(at(list(at(deployment, "spec", "template", "spec", "containers"))[0], "ports")) {
			named[fmt.Sprint(at(p, "name"))] = fmt.Sprint(at(p, "containerPort"))
		}
		var served, let []string
		for _, p := range list(at(find(all, "Service", component), "spec", "ports")) {
			served = append(served, named[fmt.Sprint(at(p, "targetPort"))])
		}
		for _, rule := range list(at(find(all, "NetworkPolicy", component), "spec", "ingress")) {
			for _, p := range list(at(rule, "ports")) {
				let = append(let, fmt.Sprint(at(p, "port")))
			}
		}
		want := []string{port, "15014"}
		if !slices.Equal(served, want) || !slices.Equal(let, want) {
			t.Errorf("%s: the Service leads to %v, the NetworkPolicy lets in %v, want %v", component, served, let, want)
		}
	}
	if find(objects(t, render(t)), "PodDisruptionBudget", "weft-ca") != nil {
		t.Error("with one replica a budget blocks the drain of its node")
	}
}
