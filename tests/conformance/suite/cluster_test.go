package suite

import (
	"context"
	"flag"
	"io"
	"net/http"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
	"sigs.k8s.io/gateway-api/conformance"
	"sigs.k8s.io/gateway-api/conformance/tests"
	"sigs.k8s.io/gateway-api/conformance/utils/echo"
	suitehttp "sigs.k8s.io/gateway-api/conformance/utils/http"
	"sigs.k8s.io/gateway-api/conformance/utils/suite"
	"sigs.k8s.io/gateway-api/conformance/utils/udp"
	"sigs.k8s.io/gateway-api/pkg/features"
)

var checkCluster = flag.Bool("check-cluster", false, "let TestCluster run")

// TestCluster tells whether a cluster and its images are fit for the suite, before
// there is an implementation to test: it deploys the base manifests of gateway and
// mesh, pretends that their Gateways work, waits for all pods, and tries what the
// tests rely on: dialling pods, pod logs, and exec into a mesh pod.
//
//	conformance.test -test.v -test.run TestCluster --check-cluster
func TestCluster(t *testing.T) {
	if !*checkCluster {
		t.Skip("give --check-cluster")
	}
	opts := conformance.DefaultOptions(t)
	opts.GatewayClassName = "weft-pretend"
	opts.SupportedFeatures = []features.FeatureName{features.SupportGateway, features.SupportMesh}
	s, err := suite.NewConformanceTestSuite(opts)
	check(t, err)
	pretend(t, s.Client, opts.GatewayClassName)
	s.Setup(t, tests.ConformanceTests)

	t.Run("dial an HTTP pod", func(t *testing.T) {
		resp, err := http.Get("http://" + pod(t, s, "gateway-conformance-infra", "infra-backend-v1").Status.PodIP + ":3000/")
		check(t, err)
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			t.Error(resp.Status)
		}
	})
	t.Run("ask the UDP pod", func(t *testing.T) {
		udp.ExpectEchoResponseFromBackend(t, s.TimeoutConfig, pod(t, s, "gateway-conformance-infra", "udp").Status.PodIP+":8080",
			udp.ExpectedResponse{Service: "udp-echo", Namespace: "gateway-conformance-infra"})
	})
	t.Run("read a pod's log", func(t *testing.T) {
		p := pod(t, s, "gateway-conformance-infra", "infra-backend-v1")
		r, err := s.Clientset.CoreV1().Pods(p.Namespace).GetLogs(p.Name, &corev1.PodLogOptions{}).Stream(t.Context())
		check(t, err)
		text, err := io.ReadAll(r)
		check(t, err)
		if len(text) == 0 {
			t.Error("empty log")
		}
	})
	for _, host := range []string{"echo", "echo-v2", "echo-v2.gateway-conformance-mesh"} {
		t.Run("exec in a mesh pod, calling "+host, func(t *testing.T) {
			from := echo.ConnectToApp(t, s, echo.MeshAppEchoV1)
			from.MakeRequestAndExpectEventuallyConsistentResponse(t, suitehttp.ExpectedResponse{
				Request:  suitehttp.Request{Host: host, Method: "GET"},
				Response: suitehttp.Response{StatusCodes: []int{200}},
			}, s.TimeoutConfig)
		})
	}
}

// pod returns a pod of a Deployment by its label "app".
func pod(t *testing.T, s *suite.ConformanceTestSuite, namespace, app string) corev1.Pod {
	t.Helper()
	var pods corev1.PodList
	check(t, s.Client.List(t.Context(), &pods, client.InNamespace(namespace), client.MatchingLabels{"app": app}))
	if len(pods.Items) == 0 {
		t.Fatalf("no pod with app=%s in %s", app, namespace)
	}
	return pods.Items[0]
}

// pretend makes a GatewayClass and, until the test ends, gives it and its Gateways
// the conditions that Setup waits for.
func pretend(t *testing.T, c client.Client, name string) {
	class := &gatewayv1.GatewayClass{ObjectMeta: metav1.ObjectMeta{Name: name}}
	class.Spec.ControllerName = "weft.invalid/pretend"
	if err := c.Create(t.Context(), class); !apierrors.IsAlreadyExists(err) {
		check(t, err)
	}
	ctx, stop := context.WithCancel(context.Background())
	stopped := make(chan struct{})
	t.Cleanup(func() {
		stop()
		<-stopped
		check(t, c.Delete(context.Background(), class))
	})
	accept := func(conds *[]metav1.Condition, generation int64, types ...string) (changed bool) {
		for _, typ := range types {
			changed = meta.SetStatusCondition(conds, metav1.Condition{
				Type: typ, Status: metav1.ConditionTrue, Reason: typ, ObservedGeneration: generation,
			}) || changed
		}
		return changed
	}
	go func() {
		defer close(stopped)
		for ; ctx.Err() == nil; time.Sleep(200 * time.Millisecond) {
			// Errors need no care here: the next round repeats everything.
			if c.Get(ctx, client.ObjectKeyFromObject(class), class) == nil &&
				accept(&class.Status.Conditions, class.Generation, "Accepted") {
				c.Status().Update(ctx, class)
			}
			var gateways gatewayv1.GatewayList
			c.List(ctx, &gateways)
			for _, g := range gateways.Items {
				if string(g.Spec.GatewayClassName) == name &&
					accept(&g.Status.Conditions, g.Generation, "Accepted", "Programmed") {
					c.Status().Update(ctx, &g)
				}
			}
		}
	}()
}
